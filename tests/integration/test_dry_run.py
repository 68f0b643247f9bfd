"""A dry run tells what the run would do, and changes nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from harness import World
from sqlalchemy import text
from steps import GUARD_AT_FIVE, delete, settled

from rostersync.report import RunState
from rostersync.simulator import churn

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_a_dry_run_counts_what_the_run_then_does_and_leaves_no_trace(world: World) -> None:
    churn(world.school, random.Random(3), 60)
    world.pass_time(minutes=5)
    before = world.snapshot()
    dry = world.dry_run()
    assert world.snapshot() == before
    report = world.sync()
    assert (dry.state, dry.run_id) == (RunState.DRY_RUN, None)
    assert dry.counts == report.counts
    assert report.counts.fetched > 0


def test_a_dry_run_of_a_first_run_creates_no_database(tmp_path: object, sqlite_url: str, clock: ManualClock) -> None:
    world = World(sqlite_url, clock)
    assert world.store.path is not None
    world.store.path.unlink()
    dry = world.dry_run()
    assert dry.counts.inserted == len(world.upstream())
    assert [path.name for path in world.store.path.parent.iterdir() if path.suffix == ".db"] == []


def test_a_dry_run_treats_a_file_that_was_never_set_up_as_an_empty_database(
    sqlite_url: str, clock: ManualClock
) -> None:
    world = World(sqlite_url, clock)
    assert world.store.path is not None
    for path in world.store.path.parent.iterdir():
        path.unlink()
    world.store.path.touch()
    assert world.dry_run().counts.inserted == len(world.upstream())


@pytest.mark.usefixtures("compiled_anew")
def test_a_dry_run_on_an_empty_postgresql_database_leaves_it_empty(postgres_url: str, clock: ManualClock) -> None:
    world = World(postgres_url, clock)
    with world.store.engine.connect() as connection, connection.begin():
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    assert world.dry_run().counts.inserted == len(world.upstream())
    assert world.rows("SELECT * FROM pg_tables WHERE schemaname = 'public'") == []


def test_a_dry_run_whose_removals_would_be_held_has_the_exit_status_of_a_held_run(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, per_page=5, policy=GUARD_AT_FIVE)
    delete(world, 6)
    dry = world.dry_run()
    assert (dry.state, dry.exit_status, dry.counts.removals_held) == (RunState.DRY_RUN, 3, 6)
