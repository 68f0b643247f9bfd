"""Whether a file can only have been written, or put in its place, by this user or by root."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVICE_USER = "rostersync"
"""The user of the unit, whom the package creates, and the name of this user's own group."""


def why_not_trusted(path: Path) -> str:
    """Return why others may have written the file at `path`, or put it there; nothing where they cannot have."""
    real = path.resolve()
    for place in dict.fromkeys((real, path.absolute().parent, real.parent)):
        if reason := _reason(place, place.stat()):
            return f"{place} {reason}"
    return ""


def shared_place(path: Path) -> Path | None:
    """Return the first place on the way to `path` where another user could change or exchange it, or None.

    The way begins with `path` itself and has all folders above it, also those that a link leads through.
    """
    path = path.absolute()
    for place, status in _way_to(path):
        # In a folder such as /tmp, nobody can rename another user's file. They can add files to it, though.
        if place != path and status.st_mode & stat.S_ISVTX and status.st_uid in {0, os.geteuid()}:
            continue
        if _reason(place, status):
            return place
    return None


def shared_place_of_command(words: Sequence[str]) -> Path | None:
    """Return where another user could change a command: its program, or a file among its arguments, such as a script.

    Returns None if there is no such place.
    """
    program = shutil.which(words[0]) or words[0]
    files = [Path(word).absolute() for word in (program, *words[1:]) if os.path.isfile(word)]  # noqa: PTH113 - never raises
    return next((place for file in files if (place := shared_place(file))), None)


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each place that the path goes through, and each place that its links go through."""
    for place in (path, *path.parents):
        if place.is_symlink():
            yield place, place.lstat()
            yield from _way_to(place.parent / place.readlink())
        yield place, place.stat()


def _reason(place: Path, status: os.stat_result) -> str:
    if status.st_uid not in {0, os.geteuid()}:
        return "belongs to another user"
    if stat.S_ISLNK(status.st_mode):  # its mode means nothing
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "can be changed by everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid != _primary_group(status.st_uid):
        return "can be changed by a group that is not its owner's own"
    if status.st_mode & stat.S_IWGRP and _has_access_list(place):  # then these bits are the list's mask
        return "can be changed by users whom its access list names"
    return ""


def _has_access_list(place: Path) -> bool:
    """Return whether a file or folder has a POSIX access list beside its mode. Only Linux tells."""
    try:
        return bool(os.getxattr(place, "system.posix_acl_access"))
    except (AttributeError, OSError):
        return False


def foreign_owner(path: Path) -> int | None:
    """Return the uid of a file's owner if that is neither this user nor root, else None."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return None
    return None if owner in {0, os.geteuid()} else owner


def service_group() -> int | None:
    """Return the gid of the service's group, or None if this machine has no such group."""
    try:
        return grp.getgrnam(SERVICE_USER).gr_gid
    except KeyError:
        return None


def this_user() -> str:
    """Return the name of the user that the process runs as, or the uid if it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _primary_group(user: int) -> int | None:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return None
