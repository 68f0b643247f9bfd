"""Open a SQLite or PostgreSQL database, and lend its connections.

Only this package and `rostersync.models` contain SQL. The migrations are outside the package.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rostersync.errors import NoDatabase
from rostersync.store import stage
from rostersync.store.database.engine import open_engine, sqlite_path, writing
from rostersync.store.database.file_mode import keep_private
from rostersync.store.queue import lock
from rostersync.store.queue.lock import HeldLocks
from rostersync.store.schema import revisions
from rostersync.store.schema.revisions import Level
from rostersync.store.stage import Stage, StageSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from rostersync.clock import Clock
    from rostersync.config import Config
    from rostersync.store.queue.lock import Lease


def open_store(config: Config, clock: Clock, *, create: bool, keep_sessions: bool = False) -> Store:
    """Open the configured database. `database.auto_upgrade` decides about upgrades of PostgreSQL. See `Store`."""
    database = config.database
    return Store(database.url, clock, create=create, auto_upgrade=database.auto_upgrade, keep_sessions=keep_sessions)


class Store:
    """A database that has the schema of this version."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        create: bool = False,
        auto_upgrade: bool = False,
        keep_sessions: bool = False,
    ) -> None:
        """Open the database at `url`, and make a SQLite file private to its owner.

        Args:
            url: The url of the database.
            clock: Gives the time at which a lock is taken.
            create: Whether to set up a database that is missing or empty, and to upgrade a SQLite database that has an
                older schema. Default: False.
            auto_upgrade: Whether `create` also upgrades a PostgreSQL database. Default: False.
            keep_sessions: Whether to keep sessions of PostgreSQL for reuse; see `open_engine`. If so, the caller must
                call `close`. Default: False.

        Raises:
            NoDatabase: The database is missing or empty, and `create` is False.
            SchemaOutdated: The schema is older, and was not upgraded.
            SchemaTooNew: A later version wrote the schema.
            DatabaseUnreachable: The database cannot be used, or its file cannot be made private.
            ConfigError: The connection to a server would not be protected; see `tls`.
            StoreError: The database belongs to another program, or cannot be set up or upgraded.

        """
        self.clock = clock
        self.path = sqlite_path(url)
        self.engine = open_engine(url, create=create, keep_sessions=keep_sessions)
        with self.engine.connect() as connection, connection.begin():
            level = revisions.level(connection)
        if self.path:  # only now: the url may have named a file that is not a database
            keep_private(self.path)
        if level is Level.EMPTY and not create:
            raise NoDatabase("the database is empty", "the first `rostersync sync` creates the tables")
        if create and (level is Level.EMPTY or (level is Level.OLDER and (self.path or auto_upgrade))):
            revisions.upgrade(self.engine)
        elif level is not Level.CURRENT:
            with self.engine.connect() as connection, connection.begin():
                revisions.require_current(connection)

    def close(self) -> None:
        """End the sessions that a store with `keep_sessions` has kept."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection without a transaction. Most functions of the store that read open their own transaction."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend a connection inside a transaction that can write. It is committed at the end."""
        with self.engine.connect() as connection, writing(connection):
            yield connection

    @contextmanager
    def lease(self, source: str, purpose: str, *, held: bool = False) -> Iterator[Lease]:
        """Lend the right to write `source`. Raises `LockHeld` if another process has it.

        Args:
            source: The name of the source.
            purpose: What the process does, such as "rostersync run". Other processes show it.
            held: Whether this process has the lock already, and keeps it afterwards; see `held_locks`. Default: False.

        """
        lease = lock.acquire(self.engine, self.path, source, self.clock, purpose, held=held)
        try:
            yield lease
        finally:
            lease.release()

    def held_locks(self, purpose: str) -> HeldLocks:
        """Return an object that can hold the locks of a daemon. It holds none yet."""
        return HeldLocks(self.engine, self.path, self.clock, purpose)

    def is_held(self, source: str) -> bool:
        """Return whether any process holds the lock of `source` now."""
        with self.engine.connect() as connection, connection.begin():
            return lock.is_held(connection, self.path, source)

    def stage(self, connection: Connection, source: str) -> Stage:
        """Return an empty stage on `connection`, for one run at a time. The stage ends with the connection."""
        # The pool may lend a session again, with the stage of an earlier run. `info` is kept as long as the session.
        filled = connection.info.get("filled_stage_tables")
        if filled is None:
            filled = connection.info["filled_stage_tables"] = stage.attach(connection, self.path)
        else:
            stage.clear(connection, filled)
        return Stage(StageSession(connection, source, filled))
