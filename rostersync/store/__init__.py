"""Everything that knows SQL: the one way to the database, whichever of the two it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rostersync.errors import NoDatabase
from rostersync.store import lock, schema, stage
from rostersync.store.engine import open_engine, sqlite_path, writing
from rostersync.store.file_mode import keep_private
from rostersync.store.lock import HeldLocks
from rostersync.store.schema import Level
from rostersync.store.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from rostersync.clock import Clock
    from rostersync.config import Config
    from rostersync.store.lock import Lease


def open_store(config: Config, clock: Clock, *, create: bool, keep_sessions: bool = False) -> Store:
    """Open the configured database; with `create` it is set up or upgraded where that is allowed. See `Store`."""
    database = config.database
    return Store(database.url, clock, create=create, auto_upgrade=database.auto_upgrade, keep_sessions=keep_sessions)


class Store:
    """A database whose schema is this version's."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        create: bool = False,
        auto_upgrade: bool = False,
        keep_sessions: bool = False,
    ) -> None:
        """Open the database at `url`.

        With `create` a missing or empty one is set up, and an older schema is upgraded: on SQLite always, on
        PostgreSQL with `auto_upgrade`. A file that others may read is taken away from them. Raises `NoDatabase`,
        `SchemaOutdated`, `SchemaTooNew` and `DatabaseUnreachable`.
        """
        self.clock = clock
        self.path = sqlite_path(url)
        self.engine = open_engine(url, create=create, keep_sessions=keep_sessions)
        with self.engine.connect() as connection, connection.begin():
            level = schema.level(connection)
        if self.path:  # now known to be a database, and not any file that somebody named by mistake
            keep_private(self.path)
        if level is Level.EMPTY and not create:
            raise NoDatabase("the database is empty", "the first `rostersync sync` creates the tables")
        if create and (level is Level.EMPTY or (level is Level.OLDER and (self.path or auto_upgrade))):
            schema.upgrade(self.engine)
        elif level is not Level.CURRENT:
            with self.engine.connect() as connection, connection.begin():
                schema.require_current(connection)

    def close(self) -> None:
        """End the sessions that are kept, where any are: for a store with `keep_sessions`, see `open_engine`."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection; each of the store's functions opens its own transaction on it."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend a connection in a transaction that writes, and is committed at the end."""
        with self.engine.connect() as connection, writing(connection):
            yield connection

    @contextmanager
    def lease(self, source: str, purpose: str, *, held: bool = False) -> Iterator[Lease]:
        """Be the writer of `source` for a while. Raises `LockHeld` when another process is.

        With `held` this process has the lock for longer: see `held_locks`.
        """
        lease = lock.acquire(self.engine, self.path, source, self.clock, purpose, held=held)
        try:
            yield lease
        finally:
            lease.release()

    def held_locks(self, purpose: str) -> HeldLocks:
        """Return what holds the locks of a daemon."""
        return HeldLocks(self.engine, self.path, self.clock, purpose)

    def is_held(self, source: str) -> bool:
        """Return whether any process is the writer of `source` now."""
        with self.engine.connect() as connection, connection.begin():
            return lock.is_held(connection, self.path, source)

    def stage(self, connection: Connection, source: str) -> Stage:
        """Give a connection an empty stage, for one run at a time; it goes with the connection."""
        if connection.info.get("staged"):
            stage.clear(connection)
        else:
            stage.attach(connection, self.path)
            connection.info["staged"] = True
        return Stage(connection, source)
