"""The first load of a large school on PostgreSQL: its statistics are gathered, and nobody waits for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import World
from sqlalchemy import NullPool, create_engine, text

from rostersync.report import RunState
from rostersync.store.database.statements import CHUNK

if TYPE_CHECKING:
    from conftest import ManualClock

GATHERED = "SELECT attname FROM pg_stats WHERE schemaname = 'rostersync' AND tablename = 'student'"


def test_a_first_load_has_the_table_analyzed(postgres_url: str, clock: ManualClock) -> None:
    world = World(postgres_url, clock, size=CHUNK + 1, per_page=200)
    assert world.sync().counts.inserted == CHUNK + 1
    assert {row["attname"] for row in world.rows(GATHERED)} >= {"source", "id", "deleted_at", "status"}


def test_a_first_load_does_not_wait_for_another_session_that_analyzes_the_table(
    postgres_url: str, clock: ManualClock
) -> None:
    world = World(postgres_url, clock, size=CHUNK + 1, per_page=200)
    with create_engine(postgres_url, poolclass=NullPool).begin() as other:
        other.execute(text("LOCK TABLE rostersync.student IN SHARE UPDATE EXCLUSIVE MODE"))  # as ANALYZE does
        assert world.sync().state is RunState.SUCCEEDED
    assert world.rows(GATHERED) == []
