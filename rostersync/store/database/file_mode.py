"""Make a SQLite database readable by its owner only, because anyone who can read it can read all student data."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from rostersync.errors import DatabaseUnreachable
from rostersync.logger import get_logger
from rostersync.store.database.files import JOURNALS

if TYPE_CHECKING:
    from pathlib import Path

log = get_logger(__name__)


def keep_private(database: Path) -> None:
    """Remove the access of the group and of others to the database, and to the files that SQLite creates beside it.

    Raises `DatabaseUnreachable` if this user is not allowed to change the mode, for example because another user owns
    the file.
    """
    for suffix in ("", *JOURNALS):  # SQLite gives a new journal the mode of the database
        _narrow(database.with_name(database.name + suffix))


def _narrow(path: Path) -> None:
    """Change the mode of a file so that only its owner has access, without opening the file.

    If we opened and closed the file, the locks that SQLite has on the file would end.
    """
    mode = 0
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & (stat.S_IRWXG | stat.S_IRWXO):
            return
        path.chmod(mode & stat.S_IRWXU)
    except FileNotFoundError:  # no such journal, or another process has just deleted it
        return
    except OSError as error:
        message = f"others can read the database: {path} has mode {mode:04o}, and this user cannot change that"
        raise DatabaseUnreachable(message, f"let its owner run: chmod 600 {path}") from error
    log.warning("database_made_private", file=path, before=f"{mode:04o}")
