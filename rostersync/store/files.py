"""The files beside a SQLite database: only ever plain files, so that nothing planted in their place is followed.

Whoever may write the database's folder may put a link, a pipe or a device there. A file that we open ourselves (locks)
is opened without following a link, and looked at before it is used. SQLite opens its own files (the database, its
journals, the stage) by their path, and what it opens cannot be chosen from Python: they are looked at just before.
Between the look and the opening they may still be exchanged, and a link to the database would be followed (SQLite
refuses links for its journals). That this gains nobody anything has another reason: the process has no more rights than
the folder's owner, because a command of root becomes that owner first (`cli/ownership.py`).
"""

from __future__ import annotations

import os
import stat
from typing import IO, TYPE_CHECKING, BinaryIO

from rostersync.errors import DatabaseUnreachable, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOURNALS = ("-wal", "-shm", "-journal")
"""What SQLite appends to a database's name for the files that it makes beside it."""

_CHUNK = 2**20

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotPlain(OSError):
    """Something else than a plain file with one name stands in a file's place; `strerror` says what."""

    HINT = "find out who put it there, and move it away"


def open_plain(path: Path, flags: int) -> int:
    """Open the plain file at `path`, and return its descriptor; a new one is for its owner only.

    Never waits, and never follows a link in the last step of the path. Raises `NotPlain`, and `OSError` as `os.open`.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        is_plain(path)  # a link, a folder or a socket is not opened at all
        raise
    try:
        _require_plain(os.fstat(handle))
    except NotPlain:
        os.close(handle)
        raise
    return handle


def copy(source: IO[bytes], target: BinaryIO, tell: Callable[[int], None]) -> None:
    """Copy `source` to the disk that `target` is on, a file without a buffer.

    `tell` is called with the number of bytes that are copied. Raises `StoreError`.
    """
    done = 0
    try:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            while chunk:  # a disk that becomes full takes a part of it
                chunk = chunk[target.write(chunk) :]
            tell(done)
        os.fsync(target.fileno())
    except OSError as error:
        message = f"cannot write {target.name}: {error.strerror}"
        raise StoreError(message, "nothing was changed; free some space, and run it again") from error


def is_plain(path: Path) -> bool:
    """Tell whether there is a plain file at `path`: False for nothing. Raises `NotPlain`, and `OSError` as `os.lstat`.

    It is not opened: closing a descriptor of a database would end the locks that SQLite holds on it in this process.
    """
    try:
        _require_plain(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def database_exists(path: Path) -> bool:
    """Tell whether there is a database at `path`, a plain file as its journals are; False where there is no file.

    Raises `DatabaseUnreachable`.
    """
    found = _is_ours(path, "the database")
    for suffix in JOURNALS:
        _is_ours(path.with_name(path.name + suffix), "the database's journal")
    return found


def _is_ours(path: Path, what: str) -> bool:
    try:
        return is_plain(path)
    except NotPlain as error:
        raise DatabaseUnreachable(f"{what} {path} is {error.strerror}", NotPlain.HINT) from None
    except OSError as error:
        hint = "let this user read the database's folder"
        raise DatabaseUnreachable(f"cannot look at {what} {path}: {error.strerror}", hint) from error


def _require_plain(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotPlain(0, _KINDS.get(stat.S_IFMT(found.st_mode), "no plain file"))
    if found.st_nlink > 1:
        raise NotPlain(0, "a hard link: the same file has another name as well")
