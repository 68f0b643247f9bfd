"""Which process this one is, and which one holds a lock that it waits for."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from rostersync.errors import LockTimedOut, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Row

_WRITE_LOCK = 120
"""The byte of the file of shared memory that the writer of an SQLite database in WAL mode has locked."""

_BLOCKERS = text("""
SELECT pid, application_name, usename, host(client_addr) AS client_addr FROM pg_stat_activity
 WHERE pid = ANY(pg_blocking_pids(:waits)) ORDER BY pid
""")


def this_process(purpose: str) -> str:
    """Return how others are told of this process, as in `rostersync run (pid 12 on school)`."""
    return f"{purpose} (pid {os.getpid()} on {socket.gethostname()})"


@contextmanager
def naming_holders(connection: Connection, patience: float) -> Iterator[None]:
    """Add to a `LockTimedOut` which sessions of PostgreSQL held the lock.

    The server knows this only while a session waits. So another session asks, a few times within the `patience` of
    seconds that a lock is waited for; a transaction that is over sooner costs a thread and no session.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    over = threading.Event()
    found: list[Row[Any]] = []
    driver = connection.connection.driver_connection
    assert driver is not None, "the connection is open"
    facts = (connection.engine, driver.info.backend_pid, patience / 3, over, found)
    threading.Thread(target=_look, args=facts, name="lock-holders", daemon=True).start()
    try:
        yield
    except LockTimedOut as error:
        if not found:
            raise
        message = f"{error.message}: {', '.join(map(_session, found))}"
        raise LockTimedOut(message, f"if it hangs, end it: SELECT pg_terminate_backend({found[0].pid})") from error
    finally:
        over.set()


def _look(engine: Engine, waits: int, every: float, over: threading.Event, found: list[Row[Any]]) -> None:
    while not over.wait(every):
        with suppress(StoreError), engine.connect() as another, another.begin():
            found[:] = another.execute(_BLOCKERS, {"waits": waits}).all()


def _session(holder: Row[Any]) -> str:
    where = f", from {holder.client_addr}" if holder.client_addr else ""
    name = holder.application_name or "a program without a name"
    return f"{name} (server pid {holder.pid}, role {holder.usename}{where})"


def sqlite_writer(database: Path) -> str:
    """Return which process holds the write lock of a SQLite file; empty if Linux does not say.

    It says so to processes that see all of /proc: not to the service, whose unit hides it.
    """
    try:
        shared = Path(f"{database}-shm").stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        place = f"{os.major(shared.st_dev):02x}:{os.minor(shared.st_dev):02x}:{shared.st_ino}"
        # 1: POSIX  ADVISORY  WRITE 4711 08:01:1234 120 120
        locks = [words for words in map(str.split, lines) if words[1] == "POSIX" and words[5] == place]
        pid = next(words[4] for words in locks if words[3] == "WRITE" and int(words[6]) <= _WRITE_LOCK <= int(words[7]))
        return f"{Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()} (pid {pid})"
    except (OSError, ValueError, IndexError, StopIteration):
        return ""
