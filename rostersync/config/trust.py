"""Check whether anyone except this user and root could have written or replaced a file."""

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
"""The user that the systemd unit runs as. The package creates this user, and a group with the same name."""


def why_not_trusted(path: Path) -> str:
    """Return the reason why another user may have written or replaced the file at `path`.

    If no other user can have done so, return an empty string.
    """
    real = path.resolve()
    for place in dict.fromkeys((real, path.absolute().parent, real.parent)):
        if reason := _reason(place, place.stat()):
            return f"{place} {reason}"
    return ""


def shared_place(path: Path) -> Path | None:
    """Return the first place where another user could change or replace `path`, or None if there is no such place.

    The function checks `path` itself and all folders above `path`. If one of these is a symbolic link, the function
    also checks the link's target and all folders above the target.
    """
    path = path.absolute()
    for place, status in _way_to(path):
        # A folder with the sticky bit, such as /tmp, is safe as a parent of `path`, because users cannot rename or
        # delete another user's files in this folder. `path` itself must not be a sticky folder, because any user can
        # add files to a sticky folder.
        if place != path and status.st_mode & stat.S_ISVTX and status.st_uid in {0, os.geteuid()}:
            continue
        if _reason(place, status):
            return place
    return None


def shared_place_of_command(words: Sequence[str]) -> Path | None:
    """Return the first place where another user could change a command, or None if there is no such place.

    The function calls `shared_place` for the command's program and for each argument that is a file, such as a script.
    """
    program = shutil.which(words[0]) or words[0]
    files = [Path(word).absolute() for word in (program, *words[1:]) if os.path.isfile(word)]  # noqa: PTH113 - never raises
    return next((place for file in files if (place := shared_place(file))), None)


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the path and each folder above it.

    For a symbolic link, also yield the link's target and all folders above the target.
    """
    for place in (path, *path.parents):
        if place.is_symlink():
            yield place, place.lstat()
            yield from _way_to(place.parent / place.readlink())
        yield place, place.stat()


def _reason(place: Path, status: os.stat_result) -> str:
    if status.st_uid not in {0, os.geteuid()}:
        return "belongs to another user"
    if stat.S_ISLNK(status.st_mode):  # the mode of a link has no effect
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "can be changed by every user"
    if status.st_mode & stat.S_IWGRP and status.st_gid != _primary_group(status.st_uid):
        return "can be changed by a group other than its owner's private group"
    if status.st_mode & stat.S_IWGRP and _has_access_list(place):  # the group bits are the list's mask
        return "can be changed by users named in its access list"
    return ""


def _has_access_list(place: Path) -> bool:
    """Return whether a file or folder has a POSIX access list. On systems other than Linux, return False."""
    try:
        return bool(os.getxattr(place, "system.posix_acl_access"))
    except (AttributeError, OSError):
        return False


def foreign_owner(path: Path) -> int | None:
    """Return the uid of a file's owner, or None if the owner is this user or root, or if the file does not exist."""
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
    """Return the name of the user that this process runs as, or the uid if the user has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _primary_group(user: int) -> int | None:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return None
