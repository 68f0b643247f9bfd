"""Make sure that a restore never lowers ids or fence numbers, and that no other process writes during the restore.

Hooks and scripts use run ids as keys, so the id of a run must never be used for another run. If a fence number became
smaller, a process that had lost its lock before the restore could commit again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, inspect, select, text, update

from rostersync.errors import LockHeld, StoreError
from rostersync.report import RequestState
from rostersync.store.database import own_schema
from rostersync.store.database.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.queue import daemons, lock
from rostersync.store.schema.tables import REQUEST_IS_OPEN, daemon, run_request, source
from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import Connection

_NUMBERED = {"run": "run_id", "run_request": "request_id", "audit": "audit_id"}
"""The tables in which the database assigns the ids, with the name of the id column."""

SEQUENCES = {f"{table}_{column}_seq": table for table, column in _NUMBERED.items()}
"""The PostgreSQL sequences that generate the ids, each with the name of its table."""

_LAST_VALUES = text("""
SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = :place AND sequencename = ANY(:names)
""")


class Used(msgspec.Struct, frozen=True):
    """The highest id that was ever assigned in each table, and the fence number of each source."""

    ids: dict[str, int]
    fences: dict[str, int]


NOTHING_USED = Used({}, {})


def place_of_tables(connection: Connection) -> str | None:
    """Return the prefix of table names in a database of any schema revision.

    Return None if the database is empty.
    """
    if inspect(connection).has_table("alembic_version"):
        return "" if connection.dialect.name == "sqlite" else f"{SCHEMA}."
    if connection.dialect.name == "postgresql" and own_schema.earlier_tables(connection):
        return f"{OF_VIEWS}."
    return None


def used(connection: Connection) -> Used:
    """Return the highest ids and fence numbers in a database, which may have any schema revision."""
    place = place_of_tables(connection)
    if place is None:
        return NOTHING_USED
    if connection.dialect.name == "sqlite":
        ids = _sqlite_ids(connection)
    else:
        asked = {"place": place.rstrip("."), "names": list(SEQUENCES)}
        ids = {SEQUENCES[name]: number or 0 for name, number in connection.execute(_LAST_VALUES, asked)}
    fences = connection.exec_driver_sql(f"SELECT name, fence FROM {place}source")  # noqa: S608 - our own text
    return Used(ids, {name: fence for name, fence in fences})  # noqa: C416 - unpacks the rows for the type checker


def _sqlite_ids(connection: Connection) -> dict[str, int]:
    found = connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")
    return {name: number for name, number in found if name in _NUMBERED}


def described(connection: Connection) -> str:
    """Return the number of current students and the newest run, in words for the user.

    The database may have any schema revision.
    """
    place = place_of_tables(connection)
    if place is None:
        return "empty"
    living = f"SELECT count(*) FROM {place}student WHERE deleted_at IS NULL"  # noqa: S608 - our own text
    newest_run = f"SELECT max(run_id) FROM {place}run"  # noqa: S608 - the same
    students = connection.exec_driver_sql(living).scalar_one()
    newest = connection.exec_driver_sql(newest_run).scalar_one()
    return f"{count(students, 'student')}, {f'last run {newest}' if newest else 'no run'}"


@contextmanager
def undisturbed(
    connection: Connection | None, database: Path | None, sources: Iterable[str], now: datetime
) -> Iterator[None]:
    """Lock all sources in the database and also `sources`, so that no process can write students.

    A name in `sources` need not be in the database yet. Raises `StoreError` with the name of the process if a daemon is
    active or a run is in progress.
    """
    names = set(sources)
    if connection is not None:
        _require_no_daemon(connection, now)
        with connection.begin():
            names |= used(connection).fences.keys()
    try:
        with lock.all_taken(connection, database, sorted(names)):
            yield
    except LockHeld as error:
        raise StoreError(error.message, "nothing was changed; wait until it ends, then restore again") from error


def _require_no_daemon(connection: Connection, now: datetime) -> None:
    with connection.begin():
        known = inspect(connection).has_table(daemon.name)
    if known and (active := daemons.alive(connection, now)):
        message = f"a daemon uses the database: {', '.join(row.name for row in active)}"
        seconds = int(daemons.ALIVE_FOR.total_seconds())
        hint = f"stop it first: systemctl stop rostersync; if it was killed, wait {seconds} s and restore again"
        raise StoreError(message, hint)


def go_on(connection: Connection, before: Used) -> None:
    """Make sure that new ids and fence numbers are higher than any in the restored database or in `before`.

    `before` contains the ids and fence numbers that were used before the restore. The restored database must have this
    version's schema. The rows of daemons are deleted, and open requests are withdrawn, because the processes that
    created these rows are gone. Call this function inside a transaction.
    """
    connection.execute(delete(daemon))
    connection.execute(update(run_request).where(REQUEST_IS_OPEN).values(state=str(RequestState.WITHDRAWN), waiters=0))
    for name, fence in connection.execute(select(source.c.name, source.c.fence)).all():
        newest = max(fence, before.fences.get(name, 0)) + 1
        of_source = update(source).where(source.c.name == name)
        connection.execute(of_source.values(fence=newest, holder=None, held_since=None))
    ids = used(connection).ids
    for table, column in _NUMBERED.items():
        if newest := max(ids.get(table, 0), before.ids.get(table, 0)):
            _set_newest_id(connection, table, column, newest)


def _set_newest_id(connection: Connection, table: str, column: str, newest: int) -> None:
    if connection.dialect.name == "postgresql":
        query = text("SELECT setval(pg_get_serial_sequence(:table, :column), :newest)")
        connection.execute(query, {"table": f"{SCHEMA}.{table}", "column": column, "newest": newest})
        return
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), {"table": table})
    row = {"table": table, "newest": newest}
    connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :newest)"), row)
