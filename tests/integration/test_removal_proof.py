"""A student is removed only when GET says twice that they are gone, and shows a living student in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
from harness import World, on_past_days
from reports import ask
from sqlalchemy import select
from steps import GUARD_AT_FIVE, asked_by_id, delete, held_run, listing, settled

from rostersync.models import SyncHealth
from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.messages import json_response
from rostersync.simulator.switches import Switches

if TYPE_CHECKING:
    from conftest import ManualClock

    from rostersync.simulator.messages import Request


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


@pytest.mark.parametrize("style", ["stub", "empty"], ids=["listed", "no longer listed"])
def test_a_404_that_does_not_come_twice_removes_nobody(
    migrated_url: str, clock: ManualClock, style: Literal["stub", "empty"]
) -> None:
    """A living student is listed as deleted, no list by ids shows them, and the first GET answers 404."""
    world = settled(migrated_url, clock, size=12, switches=Switches(ids_filter="ignored", deleted_feed=style))
    key = min(world.upstream())
    world.app.faults.add(listing(key), on_past_days, times=None)
    world.app.faults.add(make.not_found(), make.on_student(key), times=1)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    assert key in world.replica()


def test_a_student_whom_get_cannot_answer_for_stays_and_the_others_are_removed(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, per_page=5, policy=GUARD_AT_FIVE)
    gone = delete(world, 2)
    world.pass_time(hours=1)
    world.app.faults.add(make.http_status(502), make.on_student(gone[0]), times=None)
    before = world.reports[-1].watermarks
    report = world.sync()
    assert report.state is RunState.INCOMPLETE
    assert report.counts.deleted == 1
    assert report.watermarks.deleted == before.deleted
    assert report.watermarks.modified != before.modified
    assert gone[0] in world.replica()
    world.app.faults.clear()
    world.pass_time(hours=1)  # no overlap shows the deletion again: the watermark must have waited
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def clean_and_history(world: World) -> tuple[Any, Any]:
    (row,) = ask(world.url, select(SyncHealth))
    return row.last_clean_full_at, row.history_starts_at


def test_a_full_run_moves_no_watermark_where_get_cannot_answer_for_a_student(world: World) -> None:
    before = clean_and_history(world)
    assert None not in before
    [gone] = delete(world, 1)
    world.app.faults.add(make.http_status(502), make.on_student(gone), times=None)
    for run in (world.full, world.sync):
        report = run()
        assert report.state is RunState.INCOMPLETE
        assert clean_and_history(world) == before
        if report.kind is RunKind.FULL:
            assert report.watermarks == world.reports[0].watermarks
    world.app.faults.clear()
    world.full()
    after = clean_and_history(world)
    assert after[0] > before[0]
    assert after[1] == before[1]
    world.sync()
    assert clean_and_history(world) == after


def test_a_student_whose_record_bears_deleted_at_and_cannot_be_decoded_is_removed(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, per_page=100, switches=Switches(deleted_get="record", deleted_feed="stub"))
    world.sync()
    key = min(world.upstream())
    world.school.delete(key)
    record = {"id": key, "email": ["not", "text"], "deleted_at": world.clock.now().isoformat()}
    world.app.faults.add(lambda _: json_response(200, {"student": record}), make.on_student(key), times=None)
    world.pass_time(minutes=1)
    assert world.sync().counts.deleted == 1
    assert key not in world.replica()


@pytest.mark.parametrize("status", [403, 404, 414, 500])
def test_a_list_by_ids_that_is_refused_does_not_stop_the_run(
    migrated_url: str, clock: ManualClock, status: int
) -> None:
    world = settled(migrated_url, clock, size=12)
    delete(world, 1)
    world.app.faults.add(make.http_status(status), make.on_ids, times=None)
    report = world.sync()
    assert report.state is RunState.SUCCEEDED, report.error


# The control -----------------------------------------------------------------------------------------------------


def test_removals_are_held_when_no_living_student_can_be_fetched(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, per_page=5, policy=GUARD_AT_FIVE)
    delete(world, 1)
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    world.requests()
    report = world.sync()
    assert report.state is RunState.HELD
    assert report.counts.removals_held == 1
    assert len(set(asked_by_id(world))) == 1 + 3
    assert held_run(world) == report.run_id
    world.app.faults.clear()
    world.sync()
    assert world.replica() == world.upstream()


def test_a_candidate_whom_get_shows_alive_is_control_enough(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=6)
    world.app.faults.add(make.forbidden(), make.on_ids, times=None)
    gone, *others = sorted(world.upstream())
    world.school.delete(gone)
    world.app.faults.add(listing(*others), on_past_days, times=None)
    world.pass_time(hours=1)
    world.requests()
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)
    assert world.replica() == world.upstream()
    assert len(asked_by_id(world)) == 6 + 1  # each once, and the one who is gone once more: no other control is asked


def test_a_404_is_not_confirmed_by_a_student_who_was_shown_before_it(migrated_url: str, clock: ManualClock) -> None:
    """GET shows the first student, and from then on answers 404 for everybody."""
    world = settled(migrated_url, clock, size=6)
    world.app.faults.add(make.forbidden(), make.on_ids, times=None)
    first, *others = sorted(world.upstream())
    world.app.faults.add(listing(first, *others), on_past_days, times=None)
    for key in others:
        world.app.faults.add(make.not_found(), make.on_student(key), times=None)
    asked: list[int] = []

    def breaks_after_the_first(request: Request) -> None:
        if request.path.endswith(f"/{first}"):
            asked.append(first)
            if len(asked) == 2:
                world.app.faults.add(make.not_found(), make.on_student(first), times=None)

    world.app.on_request = breaks_after_the_first
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.HELD, 0)
    assert world.replica() == world.upstream()


def test_an_approval_needs_a_control_where_a_living_student_is_left(migrated_url: str, clock: ManualClock) -> None:
    """GET answers 404 for everybody, also for students who are no candidates for removal."""
    world = settled(migrated_url, clock, size=9, policy=GUARD_AT_FIVE)
    gone = delete(world, 6)
    held = world.sync()
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    report = world.sync(approves=held.run_id)
    assert (report.state, report.counts.deleted, report.counts.removals_held) == (RunState.HELD, 0, len(gone))


def test_an_approval_without_a_control_removes_nobody_outside_its_plan(migrated_url: str, clock: ManualClock) -> None:
    """Six of nine are gone and held; then GET answers 404 for everybody, and the deleted feed lists the living."""
    world = settled(migrated_url, clock, size=9, policy=GUARD_AT_FIVE, switches=Switches(ids_filter="ignored"))
    delete(world, 6)
    a, b, c = world.upstream()
    held = world.sync()
    assert held.state is RunState.HELD
    world.app.faults.add(make.http_status(400, html=False), make.on_ids, times=None)
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    world.app.faults.add(listing(a, b, c), on_past_days, times=None)
    world.sync(approves=held.run_id)
    assert {a, b, c} <= world.replica().keys()


def test_a_student_who_comes_and_goes_between_the_two_feeds_is_not_brought_in(
    migrated_url: str, clock: ManualClock
) -> None:
    """The modified feed shows them alive, the deleted feed lists them, and GET decides."""
    world = settled(migrated_url, clock, size=6)
    newcomer = world.school.create()
    world.pass_time(minutes=5)

    def leaves(request: Request) -> None:
        if on_past_days(request) and newcomer in world.upstream():
            world.school.delete(newcomer)

    world.app.on_request = leaves
    report = world.sync()
    assert (report.state, report.counts.ignored, report.counts.inserted) == (RunState.SUCCEEDED, 1, 0)
    assert world.replica() == world.upstream()


def test_where_one_student_is_left_a_full_run_finds_who_is_gone(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=2)
    world.school.purge(min(world.upstream()))
    world.pass_time(minutes=5)
    report = world.full()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)
    assert world.replica() == world.upstream()
