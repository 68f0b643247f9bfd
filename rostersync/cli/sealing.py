"""What keeps this process's memory and environment, which hold tokens and students, from the user's other processes."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def seal() -> None:
    """Let this process write no core dump, and no other process of its user read its memory or environment.

    On Linux this lasts until the process becomes another user, so call it again then. Where the system does not offer a
    part of it, or a sandbox forbids it, we go on without that part.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
