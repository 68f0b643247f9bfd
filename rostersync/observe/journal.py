"""Give log lines a priority in systemd's journal, so that `journalctl -p warning` shows problems. See sd-daemon(3)."""

from __future__ import annotations

import logging
import os
from typing import TextIO

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_journal(stream: TextIO) -> bool:
    """Return whether `stream` is the connection to the journal that systemd has set up."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # the stream has no file descriptor, or it is closed
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def priority(level: int) -> str:
    """Return the prefix that sets the priority of a log line in the journal."""
    number = next((number for lowest, number in _PRIORITIES if level >= lowest), _DEBUG)
    return f"<{number}>"
