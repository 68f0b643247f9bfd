"""Lists that change while they are read: no student is lost, and a list that never rests moves no watermark."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from harness import GUARD_OFF, World
from reports import ask
from sqlalchemy import select
from steps import before_page, delete, keep_creating, served, settled

from rostersync.models import Source
from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.switches import Switches

if TYPE_CHECKING:
    from conftest import ManualClock

    from rostersync.simulator.messages import Request


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_a_modified_feed_that_never_rests_ends_incomplete_and_its_watermark_waits(world: World) -> None:
    for key in world.upstream():
        world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    (before,) = ask(world.url, select(Source))
    keep_creating(world)
    report = world.sync()
    assert (report.state, report.exit_status) == (RunState.INCOMPLETE, 1)
    assert report.counts.updated == 12
    assert report.error == "the modified feed kept changing while it was read"
    (after,) = ask(world.url, select(Source))
    assert after.modified_watermark == before.modified_watermark
    assert after.last_clean_modified_at == before.last_clean_modified_at
    world.app.on_request = None
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_a_deleted_feed_that_never_rests_ends_incomplete_and_its_watermark_waits(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, per_page=5)
    delete(world, 6)
    world.app.on_request = lambda request: (
        world.school.delete(min(world.upstream())) if make.on_deleted_feed(request) else world.pass_time(seconds=1)
    )
    report = world.sync()
    assert (report.state, report.error) == (
        RunState.INCOMPLETE,
        "the deleted feed kept changing while it was read",
    )
    assert report.watermarks.deleted == world.reports[0].watermarks.deleted
    assert report.watermarks.modified != world.reports[0].watermarks.modified
    world.app.on_request = None
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_nothing_is_inferred_from_absence_in_a_roster_that_never_rests(world: World) -> None:
    gone = min(world.upstream())
    world.school.purge(gone)
    keep_creating(world)
    (before,) = ask(world.url, select(Source))
    report = world.full()
    assert (report.state, report.counts.deleted) == (RunState.INCOMPLETE, 0)
    assert report.error == "the roster kept changing while it was read"
    assert gone in world.replica()
    (after,) = ask(world.url, select(Source))
    assert after.modified_watermark == before.modified_watermark
    assert after.deleted_watermark == before.deleted_watermark


@pytest.mark.parametrize("kind", [RunKind.INCREMENTAL, RunKind.FULL])
def test_a_run_succeeds_on_a_morning_when_everybody_logs_in(
    migrated_url: str, clock: ManualClock, kind: RunKind
) -> None:
    """Six pages of changes, and a login with a new stamp between any two requests; rows stay in their places."""
    world = settled(migrated_url, clock, size=60, per_page=10, switches=Switches(login_bumps=True))
    students = sorted(world.upstream())
    for key in students:
        world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    logins = itertools.cycle(students)

    def a_student_logs_in(_request: Request) -> None:
        world.pass_time(seconds=1)
        world.school.login(next(logins))

    world.app.on_request = a_student_logs_in
    report = world.sync(kind)
    assert (report.state, report.counts.updated, report.requests) == (RunState.SUCCEEDED, 60, 13)
    assert {row.nickname for row in world.replica().values()} == {"Changed"}


def test_what_was_read_is_applied_where_logins_move_rows_about(migrated_url: str, clock: ManualClock) -> None:
    switches = Switches(login_bumps=True, order="updated_at")
    world = settled(migrated_url, clock, size=60, per_page=10, switches=switches)
    students = sorted(world.upstream())
    for key in students:
        world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    logins = itertools.cycle(students)
    world.app.on_request = lambda _: (world.pass_time(seconds=1), world.school.login(next(logins)))[0]
    report = world.sync()
    assert (report.state, report.counts.updated) == (RunState.INCOMPLETE, 60)
    assert report.watermarks.modified == world.reports[0].watermarks.modified


def test_a_first_run_loses_nobody_while_one_student_leaves_without_a_trace_and_one_comes(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)

    def leave_and_come() -> None:
        world.school.purge(min(world.upstream()))
        world.school.create()

    before_page(world, 3, leave_and_come)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.upstream().keys() <= world.replica().keys()
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.upstream().keys() <= world.replica().keys()


def test_a_page_that_repeats_students_loses_nobody(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, per_page=100)
    twice = served(lambda d: {**d, "students": d["students"] + d["students"][:2]})
    world.app.faults.add(twice, make.on_list, times=None)
    world.sync()
    assert world.replica().keys() == world.upstream().keys()


def test_a_page_that_repeats_one_student_and_lacks_another_is_not_the_whole_list(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, per_page=100)
    twice = served(lambda d: {**d, "students": d["students"][:-1] + d["students"][:1]})
    world.app.faults.add(twice, make.on_list, times=None)
    report = world.sync()
    assert report.state is RunState.INCOMPLETE
