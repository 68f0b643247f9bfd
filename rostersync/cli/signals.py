"""SIGTERM and Ctrl-C: the first asks the process to end, a second one ends it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from rostersync.clock import SystemClock

GRACE = 4.0
"""Seconds that an orderly end may take. Nothing is ever half applied, so it is safe to end without one."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(clock: SystemClock, others: Mapping[int, Callable[[], None]] | None = None) -> Iterator[None]:
    """Let a signal stop `clock`; a second one, or `GRACE` seconds, end the process with status 128 + its number.

    `others` are signals that only have something called, each time, in a thread of its own. Does nothing outside the
    main thread, where no signal arrives.
    """
    others = others or {}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, _do_nothing) for number in (*_SIGNALS, *others)}
    # The interpreter writes the number here at once, whatever the main thread is doing: a handler in Python would
    # have to wait for that thread, and might need a lock that it holds.
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, clock, others), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()


def _do_nothing(*_: object) -> None:
    """Handle a signal, so that it neither kills nor raises."""


def _watch(reader: socket.socket, clock: SystemClock, others: Mapping[int, Callable[[], None]]) -> None:
    with reader:
        while (got := reader.recv(1)) and got[0] in others:
            others[got[0]]()
        if not got:
            return
        clock.stop(got[0])
        if last := _second(reader, got, others):
            os.write(2, f"ended by {signal.Signals(last[0]).name} without waiting for unfinished work\n".encode())
            os._exit(128 + last[0])


def _second(reader: socket.socket, first: bytes, others: Collection[int]) -> bytes:
    """Wait for the second signal; return the first where the time is over, nothing where the process ends by itself."""
    reader.settimeout(GRACE)
    try:
        while (got := reader.recv(1)) and got[0] in others:
            pass
    except TimeoutError:
        return first
    return got
