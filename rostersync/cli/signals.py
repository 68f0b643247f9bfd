"""SIGTERM and Ctrl-C: the first asks the process to end, a second one ends it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.clock import SystemClock

GRACE = 4.0
"""Seconds that an orderly end may take. Nothing is ever half applied, so it is safe to end without one."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(clock: SystemClock) -> Iterator[None]:
    """Let a signal stop `clock`; a second one, or `GRACE` seconds, end the process with status 128 + its number.

    Does nothing outside the main thread, where no signal arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, _do_nothing) for number in _SIGNALS}
    # The interpreter writes the number here at once, whatever the main thread is doing: a handler in Python would
    # have to wait for that thread, and might need a lock that it holds.
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, clock), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()


def _do_nothing(*_: object) -> None:
    """Handle a signal, so that it neither kills nor raises."""


def _watch(reader: socket.socket, clock: SystemClock) -> None:
    with reader:
        if not (first := reader.recv(1)):
            return
        clock.stop(first[0])
        reader.settimeout(GRACE)
        try:
            last = reader.recv(1)
        except TimeoutError:
            last = first
        if last:
            os.write(2, f"ended by {signal.Signals(last[0]).name} without waiting for unfinished work\n".encode())
            os._exit(128 + last[0])
