"""Forgetting a source."""

from __future__ import annotations

import pytest
from conftest import ManualClock
from harness import SOURCE, World

from rostersync.errors import LockHeld, StoreError
from rostersync.store.forget import forget, holdings


def test_a_forgotten_source_leaves_no_row_and_its_neighbour_stays(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)
    neighbour = World(migrated_url, clock, seed=2, store=world.store, source="neighbour")
    for school in (world, neighbour):
        school.sync()
        school.pass_time(hours=1)
        school.school.update(min(school.upstream()), nickname="Changed")
        school.pass_time(minutes=1)
        school.sync()
    with world.store.reading() as connection:
        kept = holdings(connection, SOURCE)
    with world.store.lease(SOURCE, "test") as lease:
        assert forget(lease) == kept
    for table in ("student", "student_version", "run", "run_request", "quarantine"):
        assert {row["source"] for row in world.rows(f"SELECT source FROM {table}")} <= {"neighbour"}
    assert [row["name"] for row in world.rows("SELECT name FROM source")] == ["neighbour"]
    assert neighbour.replica() == neighbour.upstream()


def test_a_source_that_somebody_writes_cannot_be_forgotten(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)
    world.sync()
    with world.store.lease(SOURCE, "rostersync run"), pytest.raises(LockHeld), world.store.lease(SOURCE, "forget"):
        pass


def test_an_unknown_source_has_no_holdings(migrated_url: str, clock: ManualClock) -> None:
    with World(migrated_url, clock).store.reading() as connection:
        assert holdings(connection, "nowhere") is None


def test_whoever_waits_for_a_source_that_is_forgotten_is_told(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)
    world.sync()
    with world.store.lease(SOURCE, "rostersync source forget") as lease:

        def forget_it(_event: object, _seconds: float) -> bool:
            clock.wait = ManualClock.wait.__get__(clock)  # type: ignore[method-assign]
            forget(lease)
            return False

        clock.wait = forget_it  # type: ignore[method-assign]
        with pytest.raises(StoreError, match="withdrawn"):
            world.sync()
