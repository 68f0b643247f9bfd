"""Handle SIGTERM and Ctrl-C. The first signal asks the process to stop, and the second one ends it at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from rostersync.cancel import CancelScope

GRACE = 4.0
"""After a signal, the process has this many seconds to stop by itself. Ending the process after this grace period is
safe, because each run is applied as a whole or not at all.
"""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(scope: CancelScope, others: Mapping[int, Callable[[], None]] | None = None) -> Iterator[None]:
    """Cancel `scope` at the first SIGTERM or SIGINT. At the second signal, or after `GRACE` seconds, end the process.

    If this function ends the process, the exit status is 128 plus the signal's number. `others` maps additional signals
    to functions, which are called in the thread that waits for signals. Outside the main thread, this function does
    nothing, because only the main thread can set signal handlers.
    """
    others = others or {}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, _do_nothing) for number in (*_SIGNALS, *others)}
    # The interpreter writes the signal's number to this socket at once. A signal handler written in Python would run in
    # the main thread. The handler would have to wait until the main thread runs Python code again, and might need a
    # lock that the main thread holds.
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, scope, others), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()


def _do_nothing(*_: object) -> None:
    """Do nothing. A signal that has this handler neither kills the process nor raises an exception."""


def _watch(reader: socket.socket, scope: CancelScope, others: Mapping[int, Callable[[], None]]) -> None:
    with reader:
        while (got := reader.recv(1)) and got[0] in others:
            others[got[0]]()
        if not got:
            return
        scope.cancel(got[0])
        if last := _second(reader, got, others):
            os.write(2, f"ended by {signal.Signals(last[0]).name} without waiting for unfinished work\n".encode())
            os._exit(128 + last[0])


def _second(reader: socket.socket, first: bytes, others: Collection[int]) -> bytes:
    """Wait for the second signal and return it.

    Return `first` if no second signal arrives within `GRACE` seconds, or b"" if the context ends earlier.
    """
    reader.settimeout(GRACE)
    try:
        while (got := reader.recv(1)) and got[0] in others:
            pass
    except TimeoutError:
        return first
    return got
