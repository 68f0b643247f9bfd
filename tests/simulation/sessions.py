"""Sessions of PostgreSQL that are used again: half the time of a small run goes to new ones, and to empty stages."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import event

from rostersync.store.stage import tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


class _KeptSession(psycopg.Connection[Any]):
    """A session that does not end when it is closed, but is as good as a new one to whoever opens the next."""

    kept: list[psycopg.Connection[Any]]
    staged = False

    def close(self) -> None:
        if self.closed or self.info.transaction_status is TransactionStatus.UNKNOWN:
            super().close()
            return
        self.rollback()
        self.autocommit = True
        last = tables.TABLES[-1].name
        row = self.execute("SELECT pg_advisory_unlock_all(), to_regclass('pg_temp.' || %s)", [last]).fetchone()
        self.staged = row is not None and row[1] is not None
        if not self.staged:
            self.execute("DISCARD TEMP")
        self.autocommit = False
        self.kept.append(self)


@contextmanager
def kept_sessions(engine: Engine) -> Iterator[None]:
    """Have the sessions of `engine` used again, where they are those of PostgreSQL."""
    kept: list[psycopg.Connection[Any]] = []
    kind = type("KeptSession", (_KeptSession,), {"kept": kept})

    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return kept.pop() if kept else kind.connect(*arguments, **options)

    def tell(session: Any, record: Any) -> None:
        record.info["staged"] = session.staged

    postgres = engine.dialect.name == "postgresql"
    if postgres:
        event.listen(engine, "do_connect", connect)
        event.listen(engine, "connect", tell)
    try:
        yield
    finally:
        if postgres:
            event.remove(engine, "do_connect", connect)
            event.remove(engine, "connect", tell)
        for session in kept:
            psycopg.Connection.close(session)
