"""Switch from root to the service's user before a command uses the database or calls a hook.

With SQLite, the service's user is the owner of the database's folder. If root wrote in another user's folder, that user
could redirect the write by putting a link in place of a file, or by replacing a file between two steps. In addition,
the service would be unable to use files that belong to root. With PostgreSQL, root becomes the user of the systemd
unit, whose rights are enough for a hook.

Root first reads the files that only root may read: the configuration, the tokens, and files named on the command line.
Then the process switches to the service's user for good.
"""

from __future__ import annotations

import importlib
import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rostersync.cli.sealing import seal
from rostersync.config import SERVICE_USER, shared_place
from rostersync.errors import DatabaseUnreachable
from rostersync.logger import get_logger
from rostersync.store.database.engine import sqlite_path

if TYPE_CHECKING:
    from rostersync.config import Config

log = get_logger(__name__)

_PROGRAM = Path(__file__).parents[1]

_IMPORTED_LATER = (
    "alembic.command",
    "alembic.config",  # alembic sets up the database
    "encodings.idna",  # used to look up host names
    "rich.progress",
    "rich.table",  # rich is used on a terminal
)
"""Modules to import while this process is root, because the service's user may be unable to read Python's folder."""

_IMPORTED_LATER_FOR_POSTGRESQL = ("psycopg", "sqlalchemy.dialects.postgresql.psycopg")


class _User(msgspec.Struct, frozen=True):
    """The user to become. `who` describes the user in error messages."""

    uid: int
    gid: int
    who: str


def as_owner(config: Config) -> Config:
    """If this process runs as root, become the service's user. Return a copy of `config` with the tokens.

    Root reads the tokens, because the service's user may be unable to read their files. The process remains root if
    root owns the SQLite database's folder, or if the service's user does not exist, as in a container. Raises
    `DatabaseUnreachable` if the process cannot switch to that user, or if root owns the folder but other users could
    change or replace it.
    """
    if os.geteuid() != 0:
        return config
    path = sqlite_path(config.database.url)
    user = _service() if path is None else _owner(path.parent)
    if user is None:
        return config
    config = config.with_tokens()
    for name in (*_IMPORTED_LATER, *(() if path else _IMPORTED_LATER_FOR_POSTGRESQL)):
        importlib.import_module(name)
    _become(user)
    seal()
    return config


def _owner(folder: Path) -> _User | None:
    """Return the owner of the database's folder, or None if it is root or the folder does not exist."""
    try:
        found = folder.stat()
    except OSError:  # opening the database reports the error
        return None
    if found.st_uid != 0:
        return _User(found.st_uid, found.st_gid, f"the owner of {folder} (uid {found.st_uid})")
    if place := shared_place(folder):
        message = f"{folder} belongs to root, but is not safe: users other than root can write to {place}"
        hint = f"chown {folder} to the service's user, or let only root write {place}"
        raise DatabaseUnreachable(message, hint)
    return None


def _service() -> _User | None:
    """Return the systemd unit's user, or None if that user is root.

    If the user does not exist, log a warning and return None.
    """
    try:
        found = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        log.warning("root_keeps_its_rights", reason=f"there is no user {SERVICE_USER}")
        return None
    if found.pw_uid == 0:
        return None
    return _User(found.pw_uid, found.pw_gid, f"the user {SERVICE_USER} (uid {found.pw_uid})")


def _become(user: _User) -> None:
    """Give up root's rights permanently. The groups are set first, because only root can change them."""
    try:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        message = f"cannot become {user.who}: {error.strerror}"
        raise DatabaseUnreachable(message, "run the command as that user") from error
    if not os.access(_PROGRAM, os.R_OK | os.X_OK):
        message = f"{user.who} cannot read the program in {_PROGRAM}"
        raise DatabaseUnreachable(message, "install it where every user can read it, such as in /opt")
    os.environ["HOME"] = "/"  # libpq and hooks look for files in HOME, and this user cannot read root's home folder
    with suppress(KeyError):
        os.environ["HOME"] = pwd.getpwuid(user.uid).pw_dir
