"""Examine and upgrade a database for `rostersync check` and `rostersync db`.

Only the function `upgrade` changes the database.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.store.database import own_schema
from rostersync.store.database.engine import open_engine, sqlite_path
from rostersync.store.database.file_mode import keep_private
from rostersync.store.database.files import database_exists
from rostersync.store.queue.lock import advisory_key
from rostersync.store.replica import head_count
from rostersync.store.schema import drift, revisions
from rostersync.store.schema.revisions import Level
from rostersync.store.schema.view_upgrade import changed_views

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rostersync.store.schema.drift import Drift
    from rostersync.store.schema.revisions import Step

_PID = text("SELECT pg_backend_pid()")
_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_UNLOCK = text("SELECT pg_advisory_unlock(:key)")
_IS_MINE = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = pg_backend_pid()"
    " AND ((classid::bigint << 32) | objid::bigint) = :key"
)


def level(url: str) -> Level:
    """Return whether the database at `url` is empty, or has an older schema, this version's schema, or a newer schema.

    A missing file counts as an empty database. Raises `DatabaseUnreachable`, or `StoreError` if the database contains
    the tables of another program.
    """
    path = sqlite_path(url)
    if path is not None and not database_exists(path):
        return Level.EMPTY
    with open_engine(url, read_only=True).connect() as connection, connection.begin():
        return revisions.level(connection)


def require_privileges(url: str) -> None:
    """Raise `StoreError` if the PostgreSQL role in `url` is not allowed to create or upgrade the tables and views."""
    with open_engine(url, read_only=True).connect() as connection, connection.begin():
        own_schema.require_privileges(connection)


def revision(url: str) -> str | None:
    """Return the revision of the schema, or None if the database is empty.

    Raises `NoDatabase` if the file is missing.
    """
    with open_engine(url, read_only=True).connect() as connection, connection.begin():
        return revisions.revision(connection)


def upgrade(url: str) -> str | None:
    """Upgrade the schema of a database to this version, and return its earlier revision. Create a missing database."""
    before = revisions.upgrade(open_engine(url, create=True))
    if path := sqlite_path(url):
        keep_private(path)
    return before


def preview_upgrade(url: str) -> tuple[str, list[Step], list[str]]:
    """Return the revision of an older schema, the migrations to run, and the views that would change.

    The database does not change. On PostgreSQL, the views are created in a transaction that is rolled back.
    """
    engine = open_engine(url, read_only=True)
    begin = "read" if sqlite_path(url) else "write"
    with engine.connect().execution_options(begin=begin) as connection, connection.begin() as trial:
        found = revisions.revision(connection) or ""
        preview = found, revisions.steps_after(connection, found), changed_views(connection)
        trial.rollback()
        return preview


def differences(url: str) -> list[Drift]:
    """Return how the database's tables and views differ from this version's schema.

    Raises the errors of `drift.drift`.
    """
    return drift.drift(open_engine(url, read_only=True))


def miscounted(url: str) -> list[str]:
    """Return a line for each stored number of students that differs from the actual number; see `head_count`."""
    with open_engine(url, read_only=True).connect() as connection, connection.begin():
        return head_count.differences(connection)


def keeps_sessions(url: str) -> bool:
    """Return whether a lock in a PostgreSQL session remains after a transaction.

    If the lock ended with the transaction, a source could have two writers.

    If a pooler in transaction mode is in use, the result is False, because each transaction may get another session.
    """
    # Use transactions instead of autocommit, because a pooler never changes the session within a transaction.
    engine = open_engine(url).execution_options(begin="write")
    with engine.connect() as first, engine.connect() as second:
        return is_one_session(first, second)


def is_one_session(first: Connection, second: Connection) -> bool:
    """Return whether all transactions of `first` use the same session.

    `second` begins a transaction between two transactions of `first`, so that a pooler may give `second` the session of
    `first`.
    """
    key = {"key": advisory_key(f"check {uuid.uuid4()}")}
    with first.begin():
        session = first.scalar(_PID)
        first.execute(_LOCK, key)
    with second.begin():
        if second.scalar(_PID) == session:  # otherwise, `first` would wait for this transaction to end
            second.execute(_UNLOCK, key)
            return False
        with first.begin():
            kept = first.scalar(_PID) == session and bool(first.scalar(_IS_MINE, key))
            first.execute(_UNLOCK, key)
    return kept
