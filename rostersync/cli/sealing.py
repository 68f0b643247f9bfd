"""Protect this process's memory and environment from the user's other processes: they hold tokens and students."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def seal() -> None:
    """Prevent core dumps, and prevent other processes of this user from reading this one's memory and environment.

    On Linux, this lasts until the process becomes another user, so call it again then. If the system does not offer
    one of the two protections, or a sandbox forbids it, continue without it.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
