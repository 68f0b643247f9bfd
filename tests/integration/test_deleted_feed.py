"""A deleted feed that lists the living, or entries without an id: it removes no student, and no deletion is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import World, on_past_days
from reports import ask
from sqlalchemy import select
from steps import list_as_deleted, listing, served, settled, with_rows

from rostersync.models import Source
from rostersync.report import RunState
from rostersync.simulator import faults as make

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock)


# Living students in the feed -------------------------------------------------------------------------------------


def test_one_list_request_shows_that_students_whom_the_deleted_feed_lists_are_alive(world: World) -> None:
    list_as_deleted(world, *sorted(world.upstream())[:3])
    world.requests()
    assert world.sync().requests == 4
    assert world.replica() == world.upstream()


def test_a_deleted_feed_that_lists_a_few_living_students_does_not_ignore_its_filter(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40)
    list_as_deleted(world, *sorted(world.upstream())[:12])
    world.sync()
    assert ask(world.url, select(Source.deleted_feed_ignored)) == [False]


@pytest.mark.parametrize(("size", "gone", "back"), [(90, 60, 25), (40, 21, 18), (40, 20, 18), (100, 99, 80)])
def test_a_deleted_feed_that_goes_on_listing_restored_students_still_tells_who_left(
    migrated_url: str, clock: ManualClock, size: int, gone: int, back: int
) -> None:
    """A mass deletion is just being undone."""
    world = settled(migrated_url, clock, size=size)
    left = sorted(world.upstream())[-gone:]
    for key in left:
        world.school.delete(key)
    world.pass_time(minutes=5)
    for key in left[:back]:
        world.school.restore(key)
    world.app.faults.add(listing(*left[:back]), on_past_days, times=None)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, gone - back)
    assert world.replica() == world.upstream()


# Entries without an id -------------------------------------------------------------------------------------------


def test_a_deletion_entry_without_an_id_holds_back_the_watermark(migrated_url: str, clock: ManualClock) -> None:
    """It is unknown whom it means; the others are removed all the same."""
    world = settled(migrated_url, clock, size=12)
    before = world.reports[-1].watermarks
    world.school.delete(min(world.upstream()))
    world.app.faults.add(with_rows({"first_name": "Nameless"}), on_past_days, times=None)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.INCOMPLETE, 1)
    assert report.error == "the deleted feed lists records without a readable id"
    assert report.watermarks.deleted == before.deleted
    assert report.watermarks.modified != before.modified


def test_a_deletion_whose_id_could_not_be_read_is_made_up_for_by_a_later_run(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=20)
    unreadable = served(lambda d: {**d, "students": [{"identifier": "x"} for _ in d["students"]]})
    world.app.faults.add(unreadable, make.on_deleted_feed, times=None)
    world.sync()
    world.app.faults.clear()
    world.pass_time(hours=1)
    world.sync()
    assert key not in world.replica()
