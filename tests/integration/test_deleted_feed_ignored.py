"""A deleted feed that ignores its filter is recognized: it removes nobody, holds nothing and dates no watermark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from harness import GUARD_OFF, World, on_past_days
from msgspec.structs import replace
from reports import ask
from sqlalchemy import select
from steps import delete, listing, settled, with_rows

from rostersync.models import Source
from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.messages import json_response
from rostersync.simulator.switches import Switches
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.simulator.messages import Request, Response


@pytest.mark.parametrize("per_page", [12, 100], ids=["several pages", "one page"])
def test_a_deleted_feed_that_ignores_its_filter_dates_no_watermark_and_is_reported(
    migrated_url: str, clock: ManualClock, per_page: int
) -> None:
    world = World(migrated_url, clock, size=30, per_page=per_page, switches=Switches(deleted_feed="ignored"))
    first = world.sync()
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.INCREMENTAL, RunState.SUCCEEDED)
    assert report.watermarks.deleted == first.watermarks.deleted
    assert world.full().state is RunState.SUCCEEDED
    assert ask(world.url, select(Source.deleted_feed_ignored)) == [True]


def test_a_full_run_of_several_pages_finds_out_that_the_deleted_feed_ignores_its_filter(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=30, per_page=12, switches=Switches(deleted_feed="ignored"))
    assert world.full().state is RunState.SUCCEEDED
    assert ask(world.url, select(Source.deleted_feed_ignored)) == [True]


@pytest.mark.parametrize("per_page", [3, 100])
@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_nothing_is_held_where_the_deleted_feed_lists_all_the_living(
    migrated_url: str, clock: ManualClock, per_page: int, ids_filter: Literal["honoured", "ignored"]
) -> None:
    """Also where pages are small, or where no list by ids can show who is alive."""
    switches = Switches(deleted_feed="ignored", ids_filter=ids_filter)
    world = settled(migrated_url, clock, size=40, per_page=per_page, switches=switches, policy=SyncPolicy())
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)


def test_nothing_is_held_where_the_deleted_feed_lists_all_students_living_and_deleted(
    migrated_url: str, clock: ManualClock
) -> None:
    """Students who left long ago are stored as tombstones, and say nothing about the feed."""
    world = settled(migrated_url, clock, size=80, switches=Switches(ids_filter="ignored"))
    left = sorted(world.upstream())[:16]
    for key in left:
        world.school.delete(key)
    world.pass_time(hours=1)
    assert world.sync().counts.deleted == len(left)
    world.school.switches = replace(world.school.switches, deleted_feed="ignored")
    world.app.faults.add(listing(*left), make.on_deleted_feed, times=None)
    world.pass_time(hours=1)
    world.policy = SyncPolicy()
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)


@pytest.mark.parametrize("per_page", [5, 100])
def test_nothing_is_held_where_the_deleted_feed_lists_all_of_a_small_school_and_one_student_leaves(
    migrated_url: str, clock: ManualClock, per_page: int
) -> None:
    """The student is listed like all the others, and nobody is left as a control."""
    switches = Switches(deleted_feed="ignored", ids_filter="ignored")
    world = settled(migrated_url, clock, size=15, per_page=per_page, switches=switches, policy=SyncPolicy())
    key = min(world.upstream())
    world.school.delete(key)
    world.app.faults.add(listing(*world.upstream(), key), make.on_deleted_feed, times=None)
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    report = world.full()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)


def archived_students_have_no_record(world: World) -> None:
    for key in sorted(world.upstream())[:4]:
        world.school.archive(key, withdrawn_on="2026-01-01")
        world.app.faults.add(make.not_found(), make.on_student(key), times=None)


def the_feed_leaves_out_the_archived(world: World) -> None:
    for key in sorted(world.upstream())[::3]:
        world.school.archive(key)
    handle = world.app.handle

    def active(request: Request) -> Response:
        only = [("archived", "0")] if request.first("deleted_since") else []
        return handle(replace(request, query=[*request.query, *only]))

    world.app.handle = active  # type: ignore[method-assign]


def one_record_is_bad(world: World) -> None:
    world.school.inject(99_000_001, {"id": 99_000_001, "first_name": "no\0text"})


def the_list_shows_the_deleted(world: World) -> None:
    world.school.switches = replace(world.school.switches, deleted_listed=True)
    for key in sorted(world.upstream())[:-5][:20]:
        world.school.delete(key)


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
@pytest.mark.parametrize("size", [19, 40], ids=["one page", "pages"])
@pytest.mark.parametrize(
    "oddity",
    [
        archived_students_have_no_record,
        the_feed_leaves_out_the_archived,
        one_record_is_bad,
        the_list_shows_the_deleted,
    ],
)
def test_nobody_is_removed_or_held_whomever_the_deleted_feed_lists(
    migrated_url: str,
    clock: ManualClock,
    ids_filter: Literal["honoured", "ignored"],
    size: int,
    oddity: Callable[[World], None],
) -> None:
    switches = Switches(deleted_feed="ignored", ids_filter=ids_filter)
    world = World(migrated_url, clock, size=size, per_page=20, switches=switches, policy=SyncPolicy())
    oddity(world)
    world.pass_time(hours=1)
    for order in (world.full, world.sync, world.full, world.sync):
        report = order()
        assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0), report.error
        assert world.replica() == world.upstream()
        world.pass_time(hours=1)


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
@pytest.mark.parametrize(("size", "leave"), [(9, 1), (15, 2), (60, 7)])
def test_deletions_that_the_deleted_feed_did_not_tell_are_found_once_it_honours_its_filter(
    migrated_url: str, clock: ManualClock, size: int, leave: int, ids_filter: Literal["honoured", "ignored"]
) -> None:
    """They are stored as living: a watermark that passed their deletions would hide them."""
    switches = Switches(deleted_feed="ignored", ids_filter=ids_filter)
    world = settled(migrated_url, clock, size=size, switches=switches, policy=SyncPolicy())
    for key in sorted(world.upstream())[:leave]:
        world.school.delete(key)
    world.school.create()
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    world.school.switches = Switches(ids_filter=ids_filter)
    world.policy = GUARD_OFF
    world.pass_time(hours=1)
    assert world.sync().counts.deleted == leave
    assert world.replica() == world.upstream()


def test_a_row_that_bears_deleted_at_counts_where_the_deleted_feed_lists_the_living(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, switches=Switches(deleted_feed="ignored"))
    key = min(world.upstream())
    world.school.delete(key)
    marked = {"id": key, "deleted_at": world.clock.now().isoformat()}
    world.app.faults.add(with_rows(marked), make.on_deleted_feed, times=None)
    assert world.sync().counts.deleted == 1


@pytest.mark.parametrize(
    "instead", [None, [("deleted_since", "2000-01-01")], []], ids=["refuses it", "lists all the deleted", "the living"]
)
def test_a_server_that_does_not_take_a_day_to_come_still_tells_who_left(
    migrated_url: str, clock: ManualClock, instead: list[tuple[str, str]] | None
) -> None:
    world = settled(migrated_url, clock, size=40)
    for key in sorted(world.upstream())[:20]:
        world.school.delete(key)
    world.pass_time(days=30)
    assert world.full().counts.deleted == 20
    handle = world.app.handle

    def heedless(request: Request) -> Response:
        if not make.on_deleted_feed(request) or on_past_days(request):
            return handle(request)
        if instead is None:
            return json_response(400, {"error": "deleted_since is in the future"})
        query = [pair for pair in request.query if pair[0] != "deleted_since"]
        return handle(replace(request, query=[*query, *instead]))

    world.app.handle = heedless  # type: ignore[method-assign]
    delete(world, 1)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)
