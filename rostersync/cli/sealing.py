"""Protect the tokens and student data in this process's memory from the user's other processes."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def seal() -> None:
    """Prevent core dumps, and prevent the user's other processes from reading this process's memory and environment.

    On Linux, the protection ends when the process becomes another user, so call this function again after that. If the
    system does not offer the limit on core dumps or the protection of memory, or a sandbox forbids it, continue without
    that protection.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
