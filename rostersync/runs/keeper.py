"""A program that starts a hook and stays the ancestor of every process that the hook starts.

On Linux, if the parent of one of these processes ends, the process becomes a child of this program, even if the process
has its own session. So all of these processes are descendants of this program while it runs, and `hooks` can kill them.
This program imports no module of rostersync, so it starts within hundredths of a second and holds no secret.

Usage: `keeper.py FD COMMAND...`. FD is one end of a socket pair. The program writes `status N` or `errno N` to it, and
after a `status` it waits until the other end is closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)  # the hook may signal the whole process group

_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python ignores. The hook gets their default handling."""


def main(caller: socket.socket, command: list[str]) -> None:
    """Start the command and report how it ended; then collect the children that have ended."""
    with suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    caller.set_inheritable(False)  # so that the hook cannot send a report itself
    try:
        hook = os.posix_spawnp(command[0], command, os.environ, setsigdef=(*_IGNORED, *_BY_PYTHON))
    except OSError as error:
        caller.sendall(b"errno %d\n" % (error.errno or 0))
        return
    _let_go_of_the_streams()
    with suppress(OSError):  # the caller has ended
        caller.sendall(b"status %d\n" % _status_of(hook))
        caller.recv(1)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _let_go_of_the_streams() -> None:
    """Close our copies of the hook's streams, so that the caller notices when the hook closes its own."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)


def _status_of(hook: int) -> int:
    """Wait for the hook, and collect its orphans meanwhile. Return its exit status, or the negative signal number."""
    while True:
        child, status = os.wait()
        if child == hook:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
