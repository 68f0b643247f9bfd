"""Priorities for systemd's journal, so that `journalctl -p warning` shows what went wrong: see sd-daemon(3)."""

from __future__ import annotations

import logging
import os
from typing import TextIO

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_journal(stream: TextIO) -> bool:
    """Tell whether systemd has connected `stream` with the journal, and nobody has redirected it since."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file, or a closed one
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def priority(level: int) -> str:
    """Return what a line of a logging level begins with."""
    number = next((number for lowest, number in _PRIORITIES if level >= lowest), _DEBUG)
    return f"<{number}>"
