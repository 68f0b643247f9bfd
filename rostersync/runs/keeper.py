"""A program that starts a hook and remains the ancestor of every process that the hook starts.

On Linux, if the parent of such a process ends, the process becomes a child of this program, even if the process has its
own session. So while this program runs, all processes of the hook are its descendants, and the module `hooks` can find
and kill them. This program does not import any module of rostersync, so it starts within hundredths of a second, and no
secret is in its memory.

Usage: `keeper.py FD COMMAND...`. FD is one end of a socket pair. The program writes `status N` or `errno N` to FD.
After the program has written `status`, it waits until the other end of the socket pair is closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)  # the hook may send a signal to the whole process group

_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""The signals that Python ignores. In the hook, these signals have their default effect."""


def main(caller: socket.socket, command: list[str]) -> None:
    """Start the command, wait until it ends, and report its status.

    Finally, collect other child processes that have ended.
    """
    with suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    caller.set_inheritable(False)  # so that the hook cannot write to the socket
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
    """Close our copies of the hook's input and output, so that the caller notices when the hook closes them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)


def _status_of(hook: int) -> int:
    """Wait until the hook ends, and collect orphaned processes meanwhile.

    Return the hook's exit status, or the negated number of the signal that ended the hook.
    """
    while True:
        child, status = os.wait()
        if child == hook:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
