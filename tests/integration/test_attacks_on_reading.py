"""Attacks on the crawls and their watermarks: each once made a run say that it succeeded, and lose somebody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from harness import World

from rostersync.report import RunKind, RunState
from rostersync.simulator.switches import Switches
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.plan import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.simulator.messages import Request

GUARD_OFF = SyncPolicy(guard=GuardPolicy(max_deletions=1000, max_deletion_percent=100))


def first_run_while_one_leaves_and_one_comes(
    world: World, *, come: Callable[[World], object] = lambda w: w.school.create(), leave: Any = None
) -> None:
    """Before page 3 somebody of page 1 leaves, so that a row slips, and somebody else comes."""
    victim = min(world.upstream())
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            (leave or world.school.purge)(victim)
            come(world)

    world.app.on_request = happen
    report = world.sync()
    world.app.on_request = None
    world.pass_time(hours=1)
    if report.state is RunState.SUCCEEDED:
        world.sync()
        assert world.upstream().keys() <= world.replica().keys()


def test_a_first_run_while_one_leaves_without_a_trace_and_one_comes_loses_nobody(
    migrated_url: str, clock: ManualClock
) -> None:
    first_run_while_one_leaves_and_one_comes(World(migrated_url, clock, policy=GUARD_OFF))


def test_two_equal_records_without_an_id_are_counted_as_two(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.school.inject(None, {"first_name": "Nameless"})
    world.school.inject(None, {"first_name": "Nameless"})
    assert world.sync().state is RunState.SUCCEEDED


def test_a_clock_that_was_ahead_once_does_not_switch_off_max_age(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.clock.time += timedelta(days=365)
    world.school.switches = replace(world.school.switches, clock_skew=-365 * 86400.0)
    world.sync()
    world.clock.time -= timedelta(days=365)
    world.school.switches = replace(world.school.switches, clock_skew=0.0)
    world.pass_time(days=8)
    assert world.sync().kind is RunKind.FULL


def set_servers_clock(world: World, seconds: float) -> None:
    switches = world.school.switches
    world.school.switches = replace(switches, clock_skew=switches.clock_skew + seconds)


def test_a_fall_amid_the_roster_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    """Who leaves and who comes behind it bear stamps from before the windows of the feeds."""
    world = World(migrated_url, clock, policy=GUARD_OFF)
    victim = min(world.upstream())
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            set_servers_clock(world, -3600)
            world.school.delete(victim)
            world.school.create()

    world.app.on_request = happen
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_a_server_that_stays_where_it_is_ahead_or_behind_is_read_incrementally(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(clock_skew=-5000.0))
    world.sync()
    world.pass_time(hours=1)
    assert world.sync().kind is RunKind.INCREMENTAL
    set_servers_clock(world, 9000)
    world.pass_time(hours=1)
    assert world.sync().kind is RunKind.INCREMENTAL
    assert world.replica() == world.upstream()


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
