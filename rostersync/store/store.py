"""Open a SQLite or PostgreSQL database, and provide connections to it.

Only this package and the module `rostersync.models` contain SQL, apart from the migrations.
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
    """Open the configured database.

    The setting `database.auto_upgrade` says whether to upgrade a PostgreSQL database.
    """
    database = config.database
    return Store(database.url, clock, create=create, auto_upgrade=database.auto_upgrade, keep_sessions=keep_sessions)


class Store:
    """An open database that has the schema of this version."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        create: bool = False,
        auto_upgrade: bool = False,
        keep_sessions: bool = False,
    ) -> None:
        """Open the database at `url`. If the database is a SQLite file, make it readable by its owner only.

        Args:
            url: The url of the database.
            clock: The clock that returns the time at which a lock is taken.
            create: Whether to set up a database that is missing or empty, and to upgrade a SQLite database with an
                older schema. Default: False.
            auto_upgrade: Whether `create` also upgrades a PostgreSQL database with an older schema. Default: False.
            keep_sessions: Whether to keep PostgreSQL sessions for reuse, as in `open_engine`. If True, the caller must
                call `close`. Default: False.

        Raises:
            NoDatabase: The database is missing or empty, and `create` is False.
            SchemaOutdated: The database has an older schema, and this call is not allowed to upgrade it.
            SchemaTooNew: A later version of rostersync wrote the schema.
            DatabaseUnreachable: The database cannot be used, or its file cannot be made private.
            ConfigError: The connection to the server would not be protected; see the module `tls`.
            StoreError: The database belongs to another program, or cannot be set up or upgraded.

        """
        self.clock = clock
        self.path = sqlite_path(url)
        self.engine = open_engine(url, create=create, keep_sessions=keep_sessions)
        with self.engine.connect() as connection, connection.begin():
            level = revisions.level(connection)
        if self.path:  # only after the query above has shown that the file is a database
            keep_private(self.path)
        if level is Level.EMPTY and not create:
            raise NoDatabase("the database is empty", "the first `rostersync sync` creates the tables")
        if create and (level is Level.EMPTY or (level is Level.OLDER and (self.path or auto_upgrade))):
            revisions.upgrade(self.engine)
        elif level is not Level.CURRENT:
            with self.engine.connect() as connection, connection.begin():
                revisions.require_current(connection)

    def close(self) -> None:
        """Close the sessions that were kept for reuse because of `keep_sessions`."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection without a transaction.

        Most of the store's reading functions open their own transaction.
        """
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection with an open transaction that can write.

        The transaction is committed at the end of the block.
        """
        with self.engine.connect() as connection, writing(connection):
            yield connection

    @contextmanager
    def lease(self, source: str, purpose: str, *, held: bool = False) -> Iterator[Lease]:
        """Yield a lease, which is the right to write to `source`.

        Raises `LockHeld` if another process has locked the source.

        Args:
            source: The name of the source.
            purpose: What the process does, such as "rostersync run". Other processes show this text to their users.
            held: Whether this process already has the lock, and keeps the lock when the lease ends; see `held_locks`.
                Default: False.

        """
        lease = lock.acquire(self.engine, self.path, source, self.clock, purpose, held=held)
        try:
            yield lease
        finally:
            lease.release()

    def held_locks(self, purpose: str) -> HeldLocks:
        """Return an object that can hold the locks of a daemon, but has no lock yet."""
        return HeldLocks(self.engine, self.path, self.clock, purpose)

    def is_held(self, source: str) -> bool:
        """Return whether `source` is locked now, by this process or by another one."""
        with self.engine.connect() as connection, connection.begin():
            return lock.is_held(connection, self.path, source)

    def stage(self, connection: Connection, source: str) -> Stage:
        """Return an empty stage on `connection`, which only one run at a time may use.

        When the connection ends, the stage is deleted.
        """
        # The pool may reuse a session, which then still has the stage of an earlier run. `info` exists for as long as
        # the session does.
        filled = connection.info.get("filled_stage_tables")
        if filled is None:
            filled = connection.info["filled_stage_tables"] = stage.attach(connection, self.path)
        else:
            stage.clear(connection, filled)
        return Stage(StageSession(connection, source, filled))
