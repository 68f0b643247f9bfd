"""Whether a configuration that was found, not named, can only have been written by this user or by root."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path  # noqa: TC003 - needed when types are evaluated


def why_not_trusted(path: Path) -> str:
    """Return why others may have written the file at `path`, or put it there; nothing where they cannot have."""
    real = path.resolve()
    for place in dict.fromkeys((real, path.absolute().parent, real.parent)):
        if reason := _reason(place.stat()):
            return f"{place} {reason}"
    return ""


def _reason(status: os.stat_result) -> str:
    if status.st_uid not in {0, os.geteuid()}:
        return "belongs to another user"
    if status.st_mode & stat.S_IWOTH:
        return "can be changed by everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid != _primary_group(status.st_uid):
        return "can be changed by a group that is not its owner's own"
    return ""


def _primary_group(user: int) -> int | None:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return None
