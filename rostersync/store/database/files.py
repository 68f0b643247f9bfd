"""Open plain files only, and check that a SQLite database and its journals are plain files.

A user who can write a folder can put a link, a pipe or a device in place of a file that we use there.

* If we open a file ourselves, such as a lock, we do not follow a link, and we check the open file before we use it.
* SQLite opens the database and its journals by path, so we check what is there just before it does.

In the second case, the file can still be exchanged between the check and the opening. SQLite would then follow a link
in place of the database. (For journals, SQLite refuses links.) An attacker gains nothing by that: our process has no
more rights than the owner of the folder, because a command of root first switches to that owner (`cli/ownership.py`).
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
"""The suffixes that SQLite appends to a database's name for the files that it creates beside it."""

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
    """A path leads to something other than a plain file with a single name. `strerror` says what it is."""

    HINT = "find out who put it there, and move it away"


def open_plain(path: Path, flags: int) -> int:
    """Open the plain file at `path`, and return its descriptor. If `flags` create the file, its mode is 0600.

    Never blocks, and never follows a link in the last part of the path. Raises `NotPlain`, and `OSError` as `os.open`
    does.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        is_plain(path)  # raises NotPlain if the path is a link, a folder or a socket, which os.open refuses
        raise
    try:
        _require_plain(os.fstat(handle))
    except NotPlain:
        os.close(handle)
        raise
    return handle


def copy(source: IO[bytes], target: BinaryIO, report: Callable[[int], None]) -> None:
    """Copy `source` to `target`, which must be unbuffered, and wait until the disk has it.

    `report` is called with the number of bytes copied so far. Raises `StoreError` if `target` cannot be written.
    """
    done = 0
    try:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            while chunk:  # a disk that becomes full may accept only a part of the chunk
                chunk = chunk[target.write(chunk) :]
            report(done)
        os.fsync(target.fileno())
    except OSError as error:
        message = f"cannot write {target.name}: {error.strerror}"
        raise StoreError(message, "nothing was changed; free some space, and run it again") from error


def is_plain(path: Path) -> bool:
    """Return whether there is a plain file at `path`; False if the path does not exist.

    The file is not opened, because closing a descriptor of a database would end the locks that SQLite holds on it in
    this process. Raises `NotPlain`, and `OSError` as `os.lstat` does.
    """
    try:
        _require_plain(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def database_exists(path: Path) -> bool:
    """Return whether there is a file at `path`.

    Raises `DatabaseUnreachable` if the file or one of its journals is not a plain file, or cannot be examined.
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
        raise NotPlain(0, _KINDS.get(stat.S_IFMT(found.st_mode), "not a plain file"))
    if found.st_nlink > 1:
        raise NotPlain(0, "a hard link: the same file also has another name")
