"""More removals than the guard allows wait for approval, and a hold ends only by approval or by a clean run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from harness import World
from msgspec.structs import replace
from reports import ask
from sqlalchemy import select
from steps import GUARD_AT_FIVE, asked_by_id, delete, held_run, settled

from rostersync.models import Source
from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.simulator.switches import Switches
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, size=40, per_page=5, policy=GUARD_AT_FIVE)


def test_too_many_removals_are_held_and_everything_else_is_applied(world: World) -> None:
    gone = delete(world, 6)
    world.requests()
    new = world.school.create()
    before = ask(world.url, select(Source.deleted_watermark))
    report = world.sync()
    assert (report.state, report.exit_status) == (RunState.HELD, 3)
    assert (report.counts.removals_held, report.counts.deleted) == (6, 0)
    assert "6 of 40 students" in (report.error or "")
    assert asked_by_id(world) == []  # the proofs wait for the approval
    assert new in world.replica()
    assert set(gone) <= set(world.replica())
    assert ask(world.url, select(Source.deleted_watermark)) == before


def test_the_percentage_is_taken_of_the_living_students(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=80, policy=SyncPolicy())
    delete(world, 4)
    assert world.sync().state is RunState.SUCCEEDED


def test_the_removals_of_the_last_day_count(world: World) -> None:
    delete(world, 2)
    assert world.sync().state is RunState.SUCCEEDED
    delete(world, 2)
    assert world.sync().state is RunState.HELD
    world.pass_time(hours=25)
    assert world.sync().state is RunState.SUCCEEDED


def test_approved_removals_do_not_count_for_the_next_day(world: World) -> None:
    delete(world, 6)
    world.sync(approves=world.sync().run_id)
    delete(world, 2)
    assert world.sync().state is RunState.SUCCEEDED


# Approvals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_an_approval_carries_out_what_is_proved_again_and_names_the_rest(
    world: World, ids_filter: Literal["honoured", "ignored"]
) -> None:
    world.school.switches = Switches(ids_filter=ids_filter)
    gone = delete(world, 6)
    held = world.sync()
    world.school.restore(gone[0])
    world.pass_time(minutes=5)
    report = world.sync(approves=held.run_id)
    assert report.state is RunState.SUCCEEDED
    assert report.counts.deleted == 5
    [notice] = report.notices
    assert str(gone[0]) in notice
    assert world.replica() == world.upstream()
    assert held_run(world) is None


def test_removals_outside_the_approved_plan_face_the_guard_again(world: World) -> None:
    delete(world, 6)
    held = world.sync()
    late = delete(world, 6)
    report = world.sync(approves=held.run_id)
    assert report.state is RunState.HELD
    assert (report.counts.deleted, report.counts.removals_held, report.notices) == (6, 6, ())
    assert world.rows(f"SELECT id FROM held_removal WHERE run_id = {held.run_id}") == []
    planned = world.rows(f"SELECT id FROM held_removal WHERE run_id = {report.run_id}")
    assert {row["id"] for row in planned} == set(late)


def test_a_removal_outside_the_approved_plan_that_the_guard_lets_pass_is_carried_out_too(world: World) -> None:
    delete(world, 6)
    held = world.sync()
    delete(world, 1)
    report = world.sync(approves=held.run_id)
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 7)


def test_the_last_students_of_a_school_are_removed_on_approval_although_nobody_is_left_as_a_control(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=3, policy=SyncPolicy())
    delete(world, 3)
    held = world.sync()
    assert held.state is RunState.HELD
    assert world.sync(approves=held.run_id).state is RunState.SUCCEEDED
    assert world.replica() == {}


def test_an_approval_whose_plan_was_closed_while_it_waited_fails(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    delete(world, 6)
    held = world.sync()
    first = world.sync(approves=held.run_id)
    assert first.state is RunState.SUCCEEDED
    report = world.sync(approves=held.run_id)  # filed by a second administrator a moment before
    assert report.exit_status != 0


# How a hold ends -------------------------------------------------------------------------------------------------


def test_a_hold_ends_when_a_later_clean_run_passes_the_guard(world: World) -> None:
    gone = delete(world, 6)
    world.sync()
    for key in gone[:3]:
        world.school.restore(key)
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 3)
    assert held_run(world) is None
    assert world.rows("SELECT * FROM held_removal") == []


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_a_hold_whose_students_were_all_restored_ends_by_itself(
    migrated_url: str, clock: ManualClock, ids_filter: Literal["honoured", "ignored"]
) -> None:
    switches = Switches(ids_filter=ids_filter)
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE, switches=switches)
    gone = delete(world, 6)
    assert world.sync().state is RunState.HELD
    for key in gone:
        world.school.restore(key)
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert held_run(world) is None
    assert world.replica() == world.upstream()


def test_an_incomplete_run_ends_no_hold(world: World) -> None:
    gone = delete(world, 6)
    held = world.sync()
    for key in gone[:3]:
        world.school.restore(key)
    world.pass_time(minutes=5)
    world.app.faults.add(make.http_status(502), make.on_student(gone[5]), times=None)
    assert world.sync().state is RunState.INCOMPLETE
    assert held_run(world) == held.run_id


def test_a_full_run_that_may_infer_nothing_from_absence_ends_no_hold(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    world.sync()
    for key in sorted(world.upstream())[:6]:
        world.school.purge(key)
    world.pass_time(hours=1)
    held = world.full()
    world.school.inject(None, {"first_name": "Nameless"})
    world.pass_time(hours=1)
    world.full()
    assert held_run(world) == held.run_id


def test_a_full_run_that_may_infer_nothing_from_absence_ends_no_hold_of_an_incremental_run(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    world.sync()
    gone = sorted(world.upstream())[:6]
    for key in gone:
        world.school.delete(key)
    world.pass_time(hours=1)
    held = world.sync()
    for key in gone:
        world.school.restore(key)
    world.school.inject(None, {"first_name": "Nameless"})
    world.pass_time(hours=1)
    assert world.full().state is RunState.SUCCEEDED
    assert held_run(world) == held.run_id


def test_a_run_whose_deleted_feed_ignores_its_filter_ends_no_hold(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    delete(world, 6)
    assert world.sync().state is RunState.HELD
    world.school.switches = replace(world.school.switches, deleted_feed="ignored")
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.removals_held) == (RunState.HELD, 6)


def test_an_empty_answer_of_the_deleted_feed_ends_no_hold(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    delete(world, 6)
    assert world.sync().state is RunState.HELD
    world.pass_time(hours=1)
    world.app.faults.add(make.empty_list(), make.on_deleted_feed)
    report = world.sync()
    assert (report.state, report.counts.removals_held) == (RunState.HELD, 6)
    world.pass_time(hours=1)
    report = world.sync(approves=report.run_id)
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 6)
    assert world.replica() == world.upstream()
