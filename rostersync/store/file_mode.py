"""Keeping an SQLite database to its owner: whoever can read the file can read every student."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from rostersync.errors import DatabaseUnreachable
from rostersync.logger import get_logger
from rostersync.store.files import JOURNALS

if TYPE_CHECKING:
    from pathlib import Path

log = get_logger(__name__)


def keep_private(database: Path) -> None:
    """Take the database, and the files that SQLite keeps beside it, away from everybody but their owner.

    Raises `DatabaseUnreachable` where that cannot be, as for somebody who is not the owner.
    """
    for suffix in ("", *JOURNALS):  # which SQLite makes with the mode of the database
        _narrow(database.with_name(database.name + suffix))


def _narrow(path: Path) -> None:
    """Change the mode by name: to open and close the file here would end the locks that SQLite has on it."""
    mode = 0
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & (stat.S_IRWXG | stat.S_IRWXO):
            return
        path.chmod(mode & stat.S_IRWXU)
    except FileNotFoundError:  # there is none, or another process was the last to close it
        return
    except OSError as error:
        message = f"others can read the database: {path} has mode {mode:04o}, and this user cannot change that"
        raise DatabaseUnreachable(message, f"let its owner run: chmod 600 {path}") from error
    log.warning("database_made_private", file=path, before=f"{mode:04o}")
