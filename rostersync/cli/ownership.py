"""A command of root becomes the service's user before it touches the database or calls a hook.

With SQLite that is the owner of the database's folder. What root does in another user's folder, that user can direct
elsewhere: by a link in the place of a file, or by exchanging a file between two steps. And the service cannot use the
files that root leaves there. With PostgreSQL it is the user that the unit names, because a hook needs no more rights
than that user has. So root reads what only root may read (the configuration, tokens, files named on the command line),
and then is that user for good.
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
from rostersync.store.engine import sqlite_path

if TYPE_CHECKING:
    from rostersync.config import Config

log = get_logger(__name__)

_PROGRAM = Path(__file__).parents[1]

_IMPORTED_LATER = (
    "alembic.command",
    "alembic.config",  # these two: to set the database up
    "encodings.idna",  # names of hosts
    "rich.progress",
    "rich.table",  # these two: on a terminal
)
"""Modules that are otherwise imported at their first use: by then Python's own folder may be closed to this user."""

_IMPORTED_LATER_FOR_POSTGRESQL = ("psycopg", "sqlalchemy.dialects.postgresql.psycopg")


class _User(msgspec.Struct, frozen=True):
    """The user to become; `who` says in an error which one that is."""

    uid: int
    gid: int
    who: str


def as_owner(config: Config) -> Config:
    """Become the service's user if the process is root's, and return `config` with the tokens read before.

    Root stays root if the folder of the SQLite database is root's, or if there is no such user, as in a container.
    Raises `DatabaseUnreachable` if we cannot switch to that user, or if other users could exchange the folder of root.
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
    except OSError:  # the error is reported when the database is opened
        return None
    if found.st_uid != 0:
        return _User(found.st_uid, found.st_gid, f"the owner of {folder} (uid {found.st_uid})")
    if place := shared_place(folder):
        message = f"{folder} is root's, and not safe: others than root may write {place}"
        hint = f"chown {folder} to the user of the service, or let root alone write {place}"
        raise DatabaseUnreachable(message, hint)
    return None


def _service() -> _User | None:
    """Return the unit's user, or None if it is root, or if this machine has no such user, which is logged."""
    try:
        found = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        log.warning("root_keeps_its_rights", reason=f"there is no user {SERVICE_USER}")
        return None
    if found.pw_uid == 0:
        return None
    return _User(found.pw_uid, found.pw_gid, f"the user {SERVICE_USER} (uid {found.pw_uid})")


def _become(user: _User) -> None:
    """Give up root's rights for good: groups first, because a user who is not root cannot."""
    try:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        message = f"cannot become {user.who}: {error.strerror}"
        raise DatabaseUnreachable(message, "run the command as that user") from error
    if not os.access(_PROGRAM, os.R_OK | os.X_OK):
        message = f"{user.who} cannot read the program in {_PROGRAM}"
        raise DatabaseUnreachable(message, "install it where every user can read it, such as below /opt")
    os.environ["HOME"] = "/"  # libpq and hooks look for files there, and this user cannot read root's home
    with suppress(KeyError):
        os.environ["HOME"] = pwd.getpwuid(user.uid).pw_dir
