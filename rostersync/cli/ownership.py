"""A command of root goes on as the owner of the database's folder before it touches anything in there.

What root does in a folder of somebody else, that user can direct elsewhere: by a link in the place of a file, or by
exchanging a file between two steps. And what root leaves there, the service cannot use. So root reads what only root
may read (the configuration, tokens, files named on the command line), and then is the folder's owner for good.
"""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rostersync.errors import DatabaseUnreachable
from rostersync.store.engine import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.config import Config

_PROGRAM = Path(__file__).parents[1]

_IMPORTED_LATER = (
    "alembic.command",
    "alembic.config",  # these two: to set the database up
    "encodings.idna",  # names of hosts
    "rich.progress",
    "rich.table",  # these two: on a terminal
)
"""Modules that are otherwise imported at their first use: by then Python's own folder may be closed to this user."""


def as_owner(config: Config) -> Config:
    """Become the owner of the SQLite database's folder, and return `config` with the tokens read before.

    Does nothing unless the process is root's and the folder is somebody else's. Raises `DatabaseUnreachable` where that
    user cannot be become, or where others could exchange the folder of root.
    """
    path = sqlite_path(config.database.url)
    if path is None or os.geteuid() != 0:
        return config
    try:
        folder = path.parent.stat()
    except OSError:  # whoever opens the database reports it
        return config
    if folder.st_uid == 0:
        _require_unshared(path.parent)
        return config
    config = config.with_tokens()
    for name in _IMPORTED_LATER:
        importlib.import_module(name)
    _become(folder, path.parent)
    return config


def _become(owner: os.stat_result, folder: Path) -> None:
    """Give up root's rights for good: groups first, because a user who is not root cannot."""
    try:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    except OSError as error:
        message = f"cannot become the owner of {folder} (uid {owner.st_uid}): {error.strerror}"
        raise DatabaseUnreachable(message, "run the command as that user") from error
    if not os.access(_PROGRAM, os.R_OK | os.X_OK):
        message = f"the owner of {folder} (uid {owner.st_uid}) cannot read the program in {_PROGRAM}"
        raise DatabaseUnreachable(message, "install it where every user can read it, such as below /opt")


def _require_unshared(folder: Path) -> None:
    """Raise `DatabaseUnreachable` where somebody but root may put files into `folder`, or exchange it as a whole."""
    for place, found in _way_to(folder):
        others_write = found.st_mode & (stat.S_IWOTH if found.st_gid == 0 else stat.S_IWOTH | stat.S_IWGRP)
        exempt = place != folder and found.st_mode & stat.S_ISVTX  # in /tmp nobody renames what is another's
        if found.st_uid != 0 or (others_write and not exempt):
            message = f"{folder} is root's, and not safe: others than root may write {place}"
            hint = f"chown {folder} to the user of the service, or let root alone write {place}"
            raise DatabaseUnreachable(message, hint)


def _way_to(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each folder that the path goes through, those of its links included."""
    for place in (folder, *folder.parents):
        if place.is_symlink():
            yield from _way_to(place.parent / place.readlink())
        yield place, place.stat()
