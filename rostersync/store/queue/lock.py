"""Use a lock and a fence number to make sure that only one process at a time writes to a source.

On SQLite, the lock is an advisory lock on a file beside the database. On PostgreSQL, the lock is an advisory lock of
the session, so the URL must point to the server itself or to a pooler in session mode. On both databases, the lock ends
when the process that holds it ends. A process can lose a lock without noticing, for example because the connection died
or the file is on a network disk. Therefore each new holder increases the source's fence number. Every commit begins
with a conditional UPDATE, which succeeds only if the fence number has not changed.
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
from rostersync.store.database.engine import writing
from rostersync.store.database.files import NotPlain, open_plain
from rostersync.store.database.holders import this_process
from rostersync.store.database.statements import upsert
from rostersync.store.database.types import Timestamp
from rostersync.store.schema.tables import source as _table

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
        """Return whether this process still has the lock."""
        ...

    def unlock(self) -> None:
        """Release the lock, but leave the session or the file open. May raise an error."""
        ...

    def release(self) -> None:
        """Close the lock's file, if there is one. Never raises an error."""
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
        return True  # the lock ends only when the session does, and `HeldLocks.require` checks the session

    def unlock(self) -> None:
        with self._connection.begin():
            self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})

    def release(self) -> None:
        """Do nothing, because the `Lease` or the `HeldLocks` closes the session, which ends the lock."""


class Lease:
    """The right to write to one source, with the database connection to use for the source.

    Between calls of the store's functions, no transaction is open on the connection.
    """

    def __init__(self, connection: Connection, source: str, fence: int, lock: _Lock | None) -> None:
        """`lock` is released together with the lease. `lock` is None if a `HeldLocks` object has the lock."""
        self.connection = connection
        self.source = source
        self.fence = fence
        self._lock = lock
        self._mine: dict[str, Any] = {"of": source, "mine": fence}

    def pass_fence(self) -> None:
        """Raise `LockLost` if another process has become the writer since this lease began.

        Call this first in each transaction that writes.
        """
        if self.connection.execute(_PASS_FENCE, self._mine).rowcount != 1:
            message = f"source {self.source}: another process has taken over as its writer"
            raise LockLost(message, "nothing of this run was applied; run it again")

    def release(self) -> None:
        """Close the connection, and release the lock if it belongs to the lease.

        Never raises an error. If an unlock fails, closing the session or the file still ends the lock.
        """
        is_usable = False
        try:
            with suppress(Exception):  # if the session is dead, its lock has already ended
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
    """Become the writer of `source`. Raises `LockHeld` with the name of the holder if the source is locked.

    `database` is the SQLite file, or None on PostgreSQL. If `held` is True, a `HeldLocks` object of this process
    already has the lock.
    """
    connection = engine.connect()
    try:
        lock = None if held else _take(connection, database, source)
    except BaseException as error:
        if not isinstance(error, LockHeld):  # the session may have the lock, so close it rather than reuse it
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
    """Lock the sources, so that no other process can write to them.

    On PostgreSQL, the locks last as long as the session of `connection`. On SQLite, `connection` is only used to find
    the name of a holder, and is None if the database cannot be read. Raises `LockHeld` if a source is locked by another
    process.
    """
    with ExitStack() as locks:
        for source in sources:
            locks.callback(_take(connection, database, source).release)
        yield


class HeldLocks:
    """The locks that a daemon holds for as long as it runs. On PostgreSQL, one session has all these locks.

    Only one thread may use this object. The locks end when the session or the process ends. `require` forgets the locks
    that were lost.
    """

    def __init__(self, engine: Engine, database: Path | None, clock: Clock, purpose: str) -> None:
        """Create an object that holds no lock yet. Other processes see `purpose` as part of the holder's name."""
        self._engine, self._database, self._clock, self._purpose = engine, database, clock, purpose
        self._session: Connection | None = None
        self._locks: dict[str, tuple[_Lock, int]] = {}

    def __contains__(self, source: str) -> bool:
        return source in self._locks

    def sources(self) -> list[str]:
        """Return the names of the sources that this object has locked."""
        return list(self._locks)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield the connection that holds the locks, or on SQLite a new connection, because there the locks are files.

        If the block raises `DatabaseUnreachable` on PostgreSQL, all locks are dropped, because the session may be lost.
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
        """Lock `source`.

        Raises `LockHeld` with the name of the holder if another process has the lock, and `StoreError` if locking
        fails.
        """
        with self.connection() as connection:
            lock = _take(connection, self._database, source)
            try:
                self._locks[source] = lock, _raise_fence(connection, source, self._clock, self._purpose)
            except BaseException:
                with suppress(StoreError):  # otherwise the session would keep a lock that is not in `_locks`
                    lock.unlock()
                lock.release()
                raise

    def require(self) -> None:
        """Forget the locks that were lost because the session ended or because a lock file was replaced.

        Raises `DatabaseUnreachable` if the session has ended.
        """
        if self._session is not None:
            with self.connection() as connection, connection.begin():
                connection.exec_driver_sql("SELECT 1")
        for source in [source for source, (lock, _) in self._locks.items() if not lock.is_held()]:
            self._locks.pop(source)[0].release()

    def release(self, source: str) -> None:
        """Unlock one source."""
        lock, fence = self._locks.pop(source)
        with suppress(StoreError), self.connection() as connection:
            _forget_holder(connection, {"of": source, "mine": fence})
            lock.unlock()
        lock.release()

    def drop(self) -> None:
        """Release all locks at once, and close the session. Never raises an error."""
        for lock, _ in self._locks.values():
            lock.release()
        self._locks.clear()
        if self._session is not None:
            self._session.invalidate()
            self._session.close()
            self._session = None


def lock_path(database: Path, source: str) -> Path:
    """Return the path of the lock file of `source`, which is beside the SQLite file `database`.

    The name of a configured source can always be part of a file name. A name that another program has written into the
    database may contain characters that do not belong in a file name. For a name with these characters, the file name
    contains a hash of the source's name.
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
    """Return whether `source` is locked now, by this process or by another one."""
    if database is None:
        return connection.execute(_HOLDER, {"key": advisory_key(source)}).first() is not None
    return _file_is_locked(lock_path(database, source))


def _file_is_locked(path: Path) -> bool:
    """Return whether another process has locked a file.

    To find out whether the file is locked, try briefly to take a shared lock. A writer that tries to lock the file at
    the same moment fails, and tries again.
    """
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
    """Lock the row of a source until the transaction ends. If the row does not exist, insert it first."""
    if connection.scalar(_LOCK_ROW, {"of": source}) is None:
        new = upsert(connection.dialect.name, _table).values(name=source, fence=0, unknown_keys=[])
        connection.execute(new.on_conflict_do_nothing())
        connection.execute(_LOCK_ROW, {"of": source})


def _locked(connection: Connection | None, database: Path | None, source: str) -> LockHeld:
    """Return the error to raise if a source is locked, with the name of the lock's holder.

    The holder has written its name into the source's row. If a session of another PostgreSQL role has the lock, the
    error contains the name of this role and its server process instead.
    """
    hint = "wait until it ends, or use a longer --wait"
    if connection is None:
        return LockHeld(f"source {source} is locked by another process", hint)
    with connection.begin():
        if database is None:  # the key is not secret, so any role that may connect can take the lock
            session = connection.execute(_HOLDER, {"key": advisory_key(source)}).first()
            if session and session.is_ours is False:
                role, by = f"the database role {session.role} (server pid {session.pid})", session.application_name
                message = f"source {source} is locked by {role}" + (f", application {by}" if by else "")
                hint = f"if that is not rostersync, end it: SELECT pg_terminate_backend({session.pid})"
                return LockHeld(message, hint)
        holder = connection.scalar(select(_source.holder).where(_source.name == source))
    return LockHeld(f"source {source} is locked by {holder or 'another process'}", hint)
