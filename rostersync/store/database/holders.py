"""Return the name of this process, and find out which process holds a lock that we are waiting for."""

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
"""The position of the byte that the writer of a SQLite database in WAL mode locks in the shared-memory file."""

_BLOCKERS = text("""
SELECT pid, application_name, usename, host(client_addr) AS client_addr FROM pg_stat_activity
 WHERE pid = ANY(pg_blocking_pids(:waits)) ORDER BY pid
""")


def this_process(purpose: str) -> str:
    """Return the name of this process to show to other processes, such as `rostersync run (pid 12 on school)`."""
    return f"{purpose} (pid {os.getpid()} on {socket.gethostname()})"


@contextmanager
def naming_holders(connection: Connection, patience: float) -> Iterator[None]:
    """If waiting for a PostgreSQL lock times out, add the sessions that held the lock to the `LockTimedOut` error.

    The server knows the holders only while our session is waiting for the lock. So a thread with its own session
    asks for the holders three times during `patience`, which is the number of seconds that a session waits for a lock.
    If the transaction ends before the first of these times, the only cost is starting the thread.
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
    """Return the name of the process that holds the write lock of a SQLite file, or "" if the process is unknown.

    This function reads /proc. In the systemd service, this function always returns "", because the unit makes other
    processes invisible in /proc.
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
