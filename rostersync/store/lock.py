"""One writer per source: a lock that ends with its holder, and a fence that each later holder raises.

SQLite: an advisory lock on a file beside the database. PostgreSQL: an advisory lock of the session, so the url must
reach the server itself or a pooler in session mode. Either may be lost without notice (a file on a network disk, a
connection that died); therefore every commit begins with a conditional UPDATE that only the latest holder passes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import and_, bindparam, select, text, update

from rostersync.errors import DatabaseUnreachable, LockHeld, LockLost, StoreError
from rostersync.store.engine import writing
from rostersync.store.files import NotPlain, open_plain
from rostersync.store.holders import this_process
from rostersync.store.statements import upsert
from rostersync.store.tables import source as _table
from rostersync.store.types import Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from rostersync.clock import Clock


_source = _table.c
_NAMED = _source.name == bindparam("of")
_MINE = and_(_NAMED, _source.fence == bindparam("mine"))
_PASS_FENCE = update(_table).where(_MINE).values(fence=_source.fence)
_GIVE_UP = update(_table).where(_MINE).values(holder=None, held_since=None)
_RAISE_FENCE = (
    update(_table)
    .where(_NAMED)
    .values(fence=_source.fence + 1, holder=bindparam("by"), held_since=bindparam("now", type_=Timestamp))
    .returning(_source.fence)
)
_LOCK_ROW = select(_source.name).where(_NAMED).with_for_update()


class _Lock(Protocol):
    def is_held(self) -> bool:
        """Tell whether it still keeps others away."""
        ...

    def unlock(self) -> None:
        """Give it up, and leave the session that it is in as it is."""
        ...

    def release(self) -> None:
        """Give it up; never raises."""
        ...


class _FileLock:
    def __init__(self, path: Path) -> None:
        try:
            self._fd = open_plain(path, os.O_RDWR | os.O_CREAT)
        except NotPlain as error:
            raise _planted(path, error) from None
        except OSError as error:
            hint = "make the database's folder writable for this user"
            raise DatabaseUnreachable(f"cannot open the lock file {path}: {error.strerror}", hint) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise
        self._path = path

    def is_held(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self._path))
        except OSError:
            return False

    def unlock(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def release(self) -> None:
        os.close(self._fd)


class _SessionLock:
    def __init__(self, connection: Connection, source: str) -> None:
        self._connection, self._key = connection, advisory_key(source)
        with connection.begin():
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}):
                raise BlockingIOError

    def is_held(self) -> bool:
        return True  # or its session would have ended

    def unlock(self) -> None:
        with self._connection.begin():
            self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})

    def release(self) -> None:
        """Do nothing: the lock ends with the session, which ends with the lease, or with all that is held."""


class Lease:
    """The right to write one source, with the connection that holds it.

    No transaction is open on the connection except inside one of the store's functions.
    """

    def __init__(self, connection: Connection, source: str, fence: int, lock: _Lock | None) -> None:
        """`lock` is given up with the lease; None: the process holds it for longer, by `HeldLocks`."""
        self.connection = connection
        self.source = source
        self.fence = fence
        self._lock = lock
        self._mine: dict[str, Any] = {"of": source, "mine": fence}

    def pass_fence(self) -> None:
        """Begin a commit: raise `LockLost` unless this lease is the source's latest. Call it inside a transaction."""
        if self.connection.execute(_PASS_FENCE, self._mine).rowcount != 1:
            message = f"source {self.source}: another process has taken over as its writer"
            raise LockLost(message, "nothing of this run was applied; run it again")

    def release(self) -> None:
        """Give the source up, as far as it goes with the lease. Never raises: the next holder does not depend on it."""
        is_usable = False
        try:
            with suppress(Exception):  # a session that is dead gives the source up as well
                if self._lock is not None:
                    _forget_holder(self.connection, self._mine)
                    self._lock.unlock()
                is_usable = True
        finally:
            if not is_usable:
                self.connection.invalidate()
            self.connection.close()
            if self._lock is not None:
                self._lock.release()


def _forget_holder(connection: Connection, mine: dict[str, Any]) -> None:
    with writing(connection):
        connection.execute(_GIVE_UP, mine)


def acquire(
    engine: Engine, database: Path | None, source: str, clock: Clock, purpose: str, *, held: bool = False
) -> Lease:
    """Become the writer of `source`, or raise `LockHeld`, naming the holder. A file lock is beside `database`.

    With `held` the process has the lock already: see `HeldLocks`.
    """
    connection = engine.connect()
    try:
        lock = None if held else _take(connection, database, source)
    except BaseException as error:
        if not isinstance(error, LockHeld):  # the session may have the lock: it must end, not wait for another use
            connection.invalidate()
        connection.close()
        raise
    try:
        return Lease(connection, source, _raise_fence(connection, source, clock, purpose), lock)
    except BaseException:
        connection.invalidate()
        connection.close()
        if lock is not None:
            lock.release()
        raise


def _take(connection: Connection | None, database: Path | None, source: str) -> _Lock:
    try:
        if database is not None:
            return _FileLock(lock_path(database, source))
        assert connection is not None
        return _SessionLock(connection, source)
    except BlockingIOError:
        raise _locked(connection, database, source) from None


@contextmanager
def all_taken(connection: Connection | None, database: Path | None, sources: Iterable[str]) -> Iterator[None]:
    """Keep every writer away from the sources. On PostgreSQL the locks last as long as the session of `connection`.

    On SQLite `connection` only serves to name a holder; it is None if the database cannot be read. Raises `LockHeld`.
    """
    with ExitStack() as locks:
        for source in sources:
            locks.callback(_take(connection, database, source).release)
        yield


class HeldLocks:
    """The locks that a daemon holds for as long as it lives; on PostgreSQL all of them in one session.

    For one thread. The locks go with the session, and with the process; that they are still there `require` tells.
    """

    def __init__(self, engine: Engine, database: Path | None, clock: Clock, purpose: str) -> None:
        """Hold nothing yet; `purpose` tells others who holds a source."""
        self._engine, self._database, self._clock, self._purpose = engine, database, clock, purpose
        self._session: Connection | None = None
        self._locks: dict[str, tuple[_Lock, int]] = {}

    def __contains__(self, source: str) -> bool:
        return source in self._locks

    def sources(self) -> list[str]:
        """Return the sources that are held."""
        return list(self._locks)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend the connection that the locks are in; on SQLite, whose locks are files, a new one.

        Raises `DatabaseUnreachable`; where that ended the session, the locks are lost.
        """
        if self._database is not None:
            with self._engine.connect() as connection:
                yield connection
            return
        if self._session is None:
            self._session = self._engine.connect()
        try:
            yield self._session
        except DatabaseUnreachable:
            self.drop()
            raise

    def take(self, source: str) -> None:
        """Take the lock of `source`. Raises `LockHeld`, naming the holder, and `StoreError`."""
        with self.connection() as connection:
            lock = _take(connection, self._database, source)
            try:
                self._locks[source] = lock, _raise_fence(connection, source, self._clock, self._purpose)
            except BaseException:
                with suppress(StoreError):  # or the session would keep it, and nobody know
                    lock.unlock()
                lock.release()
                raise

    def require(self) -> None:
        """Give up the locks that others may have taken meanwhile: the database went away, or a file was exchanged.

        Raises `DatabaseUnreachable`.
        """
        if self._session is not None:
            with self.connection() as connection, connection.begin():
                connection.exec_driver_sql("SELECT 1")
        for source in [source for source, (lock, _) in self._locks.items() if not lock.is_held()]:
            self._locks.pop(source)[0].release()

    def release(self, source: str) -> None:
        """Give up one source."""
        lock, fence = self._locks.pop(source)
        with suppress(StoreError), self.connection() as connection:
            _forget_holder(connection, {"of": source, "mine": fence})
            lock.unlock()
        lock.release()

    def drop(self) -> None:
        """Give up everything at once. Never raises."""
        for lock, _ in self._locks.values():
            lock.release()
        self._locks.clear()
        if self._session is not None:
            self._session.invalidate()
            self._session.close()
            self._session = None


def lock_path(database: Path, source: str) -> Path:
    """Return the lock file of `source` beside the SQLite file `database`.

    A configured source has a name that a file can bear; one in a database from elsewhere need not.
    """
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", source)
    name = source if fits else hashlib.blake2b(source.encode(), digest_size=16).hexdigest()
    return database.with_name(f"{database.name}-{name}.lock")


def advisory_key(source: str) -> int:
    """Return the 64-bit key of a source's advisory lock."""
    digest = hashlib.blake2b(f"rostersync source {source}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


_HOLDER = text("""
SELECT pid, application_name, usename AS role, usename = current_user AS is_ours
  FROM pg_locks LEFT JOIN (SELECT pid, application_name, usename FROM pg_stat_activity) a USING (pid)
 WHERE locktype = 'advisory' AND granted AND objsubid = 1
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND ((classid::bigint << 32) | objid::bigint) = :key
""")


def is_held(connection: Connection, database: Path | None, source: str) -> bool:
    """Return whether any process holds the lock of `source` now."""
    if database is None:
        return connection.execute(_HOLDER, {"key": advisory_key(source)}).first() is not None
    return _file_is_locked(lock_path(database, source))


def _file_is_locked(path: Path) -> bool:
    """Try a shared lock for an instant: a writer that comes in that instant tries again anyway."""
    try:
        fd = open_plain(path, os.O_RDONLY)
    except NotPlain as error:
        raise _planted(path, error) from None
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _planted(path: Path, error: NotPlain) -> DatabaseUnreachable:
    return DatabaseUnreachable(f"the lock file {path} is {error.strerror}", NotPlain.HINT)


def _raise_fence(connection: Connection, source: str, clock: Clock, purpose: str) -> int:
    claim = {"of": source, "by": this_process(purpose), "now": clock.now()}
    with writing(connection):
        fence = connection.scalar(_RAISE_FENCE, claim)
        if fence is None:
            lock_source(connection, source)
            fence = connection.execute(_RAISE_FENCE, claim).scalar_one()
    return int(fence)


def lock_source(connection: Connection, source: str) -> None:
    """Keep others from the source's row until the transaction ends; there is one afterwards."""
    if connection.scalar(_LOCK_ROW, {"of": source}) is None:
        new = upsert(connection.dialect.name, _table).values(name=source, fence=0, unknown_keys=[])
        connection.execute(new.on_conflict_do_nothing())
        connection.execute(_LOCK_ROW, {"of": source})


def _locked(connection: Connection | None, database: Path | None, source: str) -> LockHeld:
    """Return the error that names the holder: the process that said so, or on PostgreSQL a role that is not ours."""
    hint = "wait until it ends, or use a longer --wait"
    if connection is None:
        return LockHeld(f"source {source} is locked by another process", hint)
    with connection.begin():
        if database is None:  # the key is no secret: whoever may connect can take the lock
            session = connection.execute(_HOLDER, {"key": advisory_key(source)}).first()
            if session and session.is_ours is False:
                role, by = f"the database role {session.role} (server pid {session.pid})", session.application_name
                message = f"source {source} is locked by {role}" + (f", application {by}" if by else "")
                hint = f"if that is not rostersync, end it: SELECT pg_terminate_backend({session.pid})"
                return LockHeld(message, hint)
        holder = connection.scalar(select(_source.holder).where(_source.name == source))
    return LockHeld(f"source {source} is locked by {holder or 'another process'}", hint)
