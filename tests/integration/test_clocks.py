"""Clocks that are wrong, ours or the server's: no change is passed over, and no watermark stays in the future."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from harness import GUARD_OFF, World
from msgspec.structs import replace
from sqlalchemy import update
from steps import GUARD_AT_FIVE, before_page, settled

from rostersync.report import RunKind, RunState, Watermarks
from rostersync.simulator.switches import Switches
from rostersync.store.schema.tables import source
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from datetime import datetime

    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


# Watermarks from the future --------------------------------------------------------------------------------------


def put_watermarks(world: World, moment: datetime) -> None:
    with world.store.writing() as connection:
        connection.execute(update(source).values(modified_watermark=moment, deleted_watermark=moment))


def test_a_watermark_in_the_servers_future_makes_the_run_full_and_is_replaced(world: World) -> None:
    put_watermarks(world, world.clock.now() + timedelta(hours=1))
    began = world.clock.now()
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.SUCCEEDED)
    for mark in (report.watermarks.modified, report.watermarks.deleted):
        assert mark is not None
        assert mark <= began


def test_a_watermark_that_is_ahead_by_less_than_the_overlap_does_not_go_back(world: World) -> None:
    ahead = world.clock.now() + timedelta(minutes=9)
    put_watermarks(world, ahead)
    for report in (world.sync(), world.full()):
        assert report.state is RunState.SUCCEEDED
        assert report.watermarks == Watermarks(ahead, ahead)
    assert [run.kind for run in world.reports[-2:]] == [RunKind.INCREMENTAL, RunKind.FULL]


def test_a_watermark_from_the_future_stays_until_a_clean_full_run_replaces_it(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=SyncPolicy(guard=GuardPolicy(max_deletions=0)))
    world.sync()
    before = world.reports[-1].watermarks
    set_servers_clock(world, -5000)
    world.school.delete(min(world.upstream()))
    world.pass_time(hours=1)
    held = world.sync()
    assert (held.kind, held.state) == (RunKind.FULL, RunState.HELD)
    assert held.watermarks.deleted == before.deleted
    assert held.watermarks.modified < before.modified
    world.pass_time(minutes=5)
    approved = world.sync(held.kind, approves=held.run_id)
    assert (approved.state, approved.watermarks.deleted < before.deleted) == (RunState.SUCCEEDED, True)
    world.pass_time(minutes=5)
    assert world.sync().kind is RunKind.INCREMENTAL
    assert world.replica() == world.upstream()


# The server's clock ----------------------------------------------------------------------------------------------


def set_servers_clock(world: World, seconds: float) -> None:
    switches = world.school.switches
    world.school.switches = replace(switches, clock_skew=switches.clock_skew + seconds)


def test_a_server_whose_clock_is_ahead_or_behind_is_read_incrementally(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=Switches(clock_skew=-5000.0), per_page=5)
    assert world.sync().kind is RunKind.INCREMENTAL
    set_servers_clock(world, 9000)
    world.pass_time(hours=1)
    assert world.sync().kind is RunKind.INCREMENTAL
    assert world.replica() == world.upstream()


def test_a_server_clock_that_falls_while_the_roster_is_read_hides_no_row(migrated_url: str, clock: ManualClock) -> None:
    """The student who leaves and the one who comes after it bear stamps that no feed of the run asks for."""
    world = World(migrated_url, clock, policy=GUARD_OFF)

    def fall() -> None:
        set_servers_clock(world, -3600)
        world.school.delete(min(world.upstream()))
        world.school.create()

    before_page(world, 3, fall)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_without_a_date_no_watermark_moves_every_run_is_full_and_says_why(world: World) -> None:
    before = world.reports[-1].watermarks
    world.dateless = 1.0
    for _ in range(2):
        world.pass_time(hours=1)
        report = world.sync()
        assert (report.kind, report.state, report.watermarks) == (RunKind.FULL, RunState.SUCCEEDED, before)
        assert "the server sends no Date" in report.notices[0]
    world.dateless = 0.0
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.kind, report.notices) == (RunKind.INCREMENTAL, ())
    assert report.watermarks != before


def test_a_date_on_later_responses_only_moves_no_watermark(world: World) -> None:
    before = world.reports[-1].watermarks
    world.dateless = 1.0
    world.app.on_request = lambda _: setattr(world, "dateless", 0.0 if world.app.log else 1.0)
    world.app.log.clear()
    report = world.sync()
    assert (report.kind, report.watermarks) == (RunKind.FULL, before)


# Our clock -------------------------------------------------------------------------------------------------------


def test_a_clock_that_was_ahead_once_does_not_switch_off_max_age(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.clock.time += timedelta(days=365)
    world.school.switches = replace(world.school.switches, clock_skew=-365 * 86400.0)
    world.sync()
    world.clock.time -= timedelta(days=365)
    world.school.switches = replace(world.school.switches, clock_skew=0.0)
    world.pass_time(days=8)
    assert world.sync().kind is RunKind.FULL


def test_removals_dated_a_year_ahead_by_a_wrong_clock_do_not_weigh_on_the_guard_for_a_year(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    *gone, last = sorted(world.upstream())[:6]
    year = timedelta(days=365)
    clock.time += year
    world.school.switches = replace(world.school.switches, clock_skew=-year.total_seconds())  # ours alone is wrong
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    world.policy = GUARD_OFF
    assert world.sync().counts.deleted == 5
    world.policy = GUARD_AT_FIVE
    clock.time -= year
    world.school.switches = replace(world.school.switches, clock_skew=0.0)
    world.school.delete(last)
    world.pass_time(days=2)
    assert world.sync().state is RunState.SUCCEEDED


def test_removals_of_today_weigh_on_the_guard_when_the_clock_went_back_an_hour(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(5, max_deletion_percent=100)))
    *gone, last = sorted(world.upstream())[:6]
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    assert world.sync().counts.deleted == 5
    clock.time -= timedelta(hours=1)
    world.school.delete(last)
    world.pass_time(minutes=5)
    assert world.sync().state is RunState.HELD
