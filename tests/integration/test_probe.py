"""Looking at a PostgreSQL server: does it keep a session's lock?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, text

from rostersync.store import probe
from rostersync.store.database.engine import open_engine

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Pooled:
    """A connection as a pooler in transaction mode lends it: each transaction may be in another session."""

    def __init__(self, *sessions: Connection) -> None:
        self._sessions = list(sessions)

    def begin(self) -> AbstractContextManager[Any]:
        self._sessions.append(self._sessions.pop(0))
        return self._sessions[0].begin()

    def scalar(self, *query: Any) -> Any:
        return self._sessions[0].scalar(*query)

    def execute(self, *query: Any) -> Any:
        return self._sessions[0].execute(*query)


def judge(first: object, second: object) -> bool:
    return probe.is_one_session(cast("Connection", first), cast("Connection", second))


def test_a_server_keeps_sessions_and_the_probes_lock_is_given_back(postgres_url: str) -> None:
    assert probe.keeps_sessions(postgres_url)
    with open_engine(postgres_url).connect() as connection, connection.begin():
        assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


def test_a_pooler_that_changes_sessions_between_transactions_is_found_out(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        assert judge(one, two)
        assert not judge(Pooled(one, two), three)


def test_a_pooler_that_lends_one_session_to_two_is_found_out_without_waiting_for_another(postgres_url: str) -> None:
    with open_engine(postgres_url).connect() as only:
        assert not judge(Pooled(only), Pooled(only))
        with only.begin():
            assert only.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
