"""How fresh a source is, by its latest runs: on both databases, and under clocks that were wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from harness import World
from reports import ask
from sqlalchemy import select

from rostersync.models import SyncHealth
from rostersync.report import RunState
from rostersync.simulator import faults

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    clock.time = datetime.now(UTC)  # the views go by the database's own clock
    return World(migrated_url, clock)


def health(world: World) -> SyncHealth:
    (row,) = ask(world.url, select(SyncHealth))
    return row


def test_a_success_just_now_is_of_age_nought_even_where_the_databases_clock_is_a_little_behind(world: World) -> None:
    world.pass_time(seconds=20)
    world.sync()
    assert health(world).age_seconds == 0


def test_a_success_in_the_future_is_none(world: World) -> None:
    world.pass_time(days=100)
    world.sync()
    row = health(world)
    assert (row.last_success_at, row.age_seconds, row.last_state) == (None, None, "succeeded")


def test_behind_a_success_in_the_future_the_one_before_it_counts_and_then_the_latest(world: World) -> None:
    world.pass_time(hours=-3)
    world.sync()
    world.pass_time(days=100)
    world.sync()
    assert health(world).age_seconds // 60 in {179, 180}
    world.pass_time(days=-100, hours=2)
    assert world.sync().state is RunState.SUCCEEDED
    assert health(world).age_seconds // 60 in {59, 60}


def test_the_latest_success_counts_and_not_one_before_it_with_a_later_time(world: World) -> None:
    world.pass_time(hours=-1)
    world.sync()
    world.pass_time(hours=-1)
    world.sync()
    assert health(world).age_seconds > timedelta(minutes=110).total_seconds()


def test_a_failure_after_a_success_in_the_future_makes_none_of_it(world: World) -> None:
    world.pass_time(days=100)
    world.sync()
    world.pass_time(days=-100)
    world.app.faults.add(faults.unauthorized(), times=None)
    assert world.sync().state is RunState.FAILED
    assert health(world).last_success_at is None
