"""Give log lines a priority in systemd's journal, so that `journalctl -p warning` shows problems: see sd-daemon(3)."""

from __future__ import annotations

import logging
import os
from typing import TextIO

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_journal(stream: TextIO) -> bool:
    """Return whether `stream` is still connected to the journal, as systemd set it up."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it has no file descriptor, or is closed
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def priority(level: int) -> str:
    """Return the prefix that gives a line the journal's priority for a logging level."""
    number = next((number for lowest, number in _PRIORITIES if level >= lowest), _DEBUG)
    return f"<{number}>"
