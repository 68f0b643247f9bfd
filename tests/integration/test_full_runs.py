"""A full run finds every removal by absence from the roster, and infers nothing from a roster it cannot read whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import World, on_past_days
from msgspec.structs import replace
from reports import ask
from sqlalchemy import select
from steps import before_page, list_as_deleted, settled, with_rows

from rostersync.clock import floor_seconds
from rostersync.models import DeletedStudent
from rostersync.report import RunState
from rostersync.simulator.switches import Switches

if TYPE_CHECKING:
    from datetime import datetime

    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock)


def test_a_removal_that_leaves_no_trace_is_found_by_a_full_run(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, per_page=5)
    key = min(world.upstream())
    world.school.purge(key)
    world.pass_time(minutes=5)
    world.sync()
    assert key in world.replica()
    world.full()
    assert world.replica() == world.upstream()
    assert ask(world.url, select(DeletedStudent.deletion_source)) == ["sweep"]


def test_a_full_run_of_one_page_makes_two_requests(world: World) -> None:
    assert world.full().requests == 2


def test_a_full_run_records_when_and_how_students_left(world: World) -> None:
    world.school.switches = replace(world.school.switches, deleted_feed="full_deleted_at")
    world.full()
    world.pass_time(hours=1)
    listed, purged = sorted(world.upstream())[:2]
    world.school.delete(listed)
    world.school.purge(purged)
    world.pass_time(hours=1)
    assert world.full().counts.deleted == 2
    earliest_first = ask(world.url, select(DeletedStudent).order_by(DeletedStudent.deleted_at))
    assert [(row.id, row.deletion_source) for row in earliest_first] == [(listed, "stream"), (purged, "sweep")]


def test_the_time_of_a_deletion_amid_a_full_run_is_the_one_that_get_tells(
    migrated_url: str, clock: ManualClock
) -> None:
    """The feed lists a stub, and GET a record that bears `deleted_at`."""
    world = settled(
        migrated_url, clock, size=12, per_page=5, switches=Switches(deleted_feed="stub", deleted_get="record")
    )
    key = min(world.upstream())
    deleted_at: list[datetime] = []

    def leave() -> None:
        deleted_at.append(world.clock.now())
        world.school.delete(key)
        world.pass_time(minutes=3)

    before_page(world, 2, leave)
    world.full()
    assert ask(world.url, select(DeletedStudent.deleted_at)) == [floor_seconds(deleted_at[0])]


def test_a_student_on_the_roster_is_not_removed_because_the_deleted_feed_lists_them(
    migrated_url: str, clock: ManualClock
) -> None:
    """The feed lists more than the guard allows, and the guard counts before GET is asked."""
    world = World(migrated_url, clock, size=20, per_page=50)
    world.full()
    list_as_deleted(world, *sorted(world.upstream())[:6])
    world.pass_time(hours=1)
    report = world.full()
    assert (report.state, report.requests) == (RunState.SUCCEEDED, 3)


# Rosters with a record without an id -----------------------------------------------------------------------------


def test_a_record_without_an_id_is_counted_and_absence_then_removes_nobody(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, per_page=5)
    world.school.inject(None, {"first_name": "Nameless"})
    assert world.sync().counts.quarantined == 1
    key = min(world.upstream())
    world.school.purge(key)
    report = world.full()
    assert key in world.replica()
    assert report.notices == (
        "the roster has a record without a readable id, so only the deleted feed can show who has left",
    )


def test_where_only_the_deleted_feed_shows_who_left_an_entry_without_an_id_holds_back_its_watermark(
    world: World,
) -> None:
    before = world.reports[-1].watermarks
    world.school.inject(None, {"first_name": "Nameless"})
    world.app.faults.add(with_rows({"first_name": "Nameless"}), on_past_days, times=None)
    report = world.full()
    assert (report.state, report.watermarks.deleted) == (RunState.INCOMPLETE, before.deleted)
    assert report.error == "the deleted feed lists records without a readable id"


def test_a_record_without_an_id_does_not_let_deletions_pass_unseen(world: World) -> None:
    world.school.inject(None, {"first_name": "Nameless"})
    world.full()
    world.pass_time(hours=1)
    gone = min(world.upstream())
    world.school.delete(gone)
    world.pass_time(hours=1)
    world.full()
    world.pass_time(hours=1)
    world.sync()
    assert gone not in world.replica()


def test_a_full_run_that_may_infer_nothing_from_absence_removes_whom_the_deleted_feed_names(world: World) -> None:
    world.school.inject(None, {"first_name": "Nameless"})
    gone = min(world.upstream())
    world.school.delete(gone)
    world.pass_time(hours=1)
    report = world.full()
    assert report.counts.deleted == 1
    assert report.watermarks.deleted == report.watermarks.modified


def test_a_full_run_that_may_infer_nothing_from_absence_needs_a_deleted_feed_to_date_its_watermark(
    world: World,
) -> None:
    before = world.reports[0].watermarks.deleted
    world.school.inject(None, {"first_name": "Nameless"})
    world.school.switches = Switches(deleted_feed="ignored")
    world.pass_time(hours=1)
    report = world.full()
    assert report.state is RunState.SUCCEEDED
    assert report.watermarks.deleted == before
