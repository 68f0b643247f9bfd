"""Open only plain files, and check that a SQLite database and its journals are plain files.

A user who can write to a folder can replace a file that we use there with a link, a pipe or a device.

* If we open a file ourselves, such as a lock file, we do not follow a link, and we check the open file before we use
  it.
* SQLite opens the database and its journals by their paths, so we check these paths just before SQLite opens them.

When SQLite opens a file, a user can still replace the file between the check and the opening. In that case, SQLite
would follow a link in place of the database, but not a link in place of a journal. A link in place of the database does
not help an attacker, because our process has no more rights than the owner of the folder. If root runs a command, the
command first switches to the folder's owner (`cli/ownership.py`).
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
"""The suffixes that SQLite appends to the name of a database to name the files that it creates beside the database."""

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
    """The path leads to something other than a plain file, or the file has several hard links.

    The attribute `strerror` describes what is at the path.
    """

    HINT = "find out who put it there, and move it away"


def open_plain(path: Path, flags: int) -> int:
    """Open the plain file at `path`, and return its file descriptor.

    A newly created file has the mode 0600.

    This function never waits, and never follows a link in the last part of the path. Raises `NotPlain` if the file is
    not a plain file. If the file cannot be opened for another reason, raises the `OSError` of `os.open`.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        is_plain(path)  # raises NotPlain if the path is a link, a folder or a socket, which os.open cannot open
        raise
    try:
        _require_plain(os.fstat(handle))
    except NotPlain:
        os.close(handle)
        raise
    return handle


def copy(source: IO[bytes], target: BinaryIO, report: Callable[[int], None]) -> None:
    """Copy `source` to the unbuffered file `target`, and wait until the disk has stored the data.

    `report` is called after each chunk with the number of bytes copied so far. Raises `StoreError` if writing fails.
    """
    done = 0
    try:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            while chunk:  # if the disk fills up, a write may accept only part of the chunk
                chunk = chunk[target.write(chunk) :]
            report(done)
        os.fsync(target.fileno())
    except OSError as error:
        message = f"cannot write {target.name}: {error.strerror}"
        raise StoreError(message, "nothing was changed; free some space, and run it again") from error


def is_plain(path: Path) -> bool:
    """Return whether there is a plain file at `path`. Return False if the path does not exist.

    The file is not opened, because closing a descriptor of a database file ends the locks that SQLite has on the file
    in this process. Raises `NotPlain` if another kind of file is at `path`. If the path cannot be examined, raises the
    `OSError` of `os.lstat`.
    """
    try:
        _require_plain(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def database_exists(path: Path) -> bool:
    """Return whether a database file exists at `path`.

    Raises `DatabaseUnreachable` if the database or one of its journals is not a plain file, or cannot be examined.
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
