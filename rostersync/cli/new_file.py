"""Write a new file that gets its name only when it is complete.

A command that root started switches to another user before it writes the file's content. So a second process keeps
root's rights, and waits to give the file its name. If the command ends in any other way, even by SIGKILL, the second
process deletes the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from rostersync.errors import ConfigError, RostersyncError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAMING = """\
import os, sys
part, path = sys.argv[1:]
try:
    os.rename(part, path if sys.stdin.read() else "")
except OSError:
    os.unlink(part)
    raise
"""
"""Not `mv`: if another user put a link to a folder in the place of the name, it would move the file into the folder."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty file that only its owner can read. It appears at `path` if the context ends without an error.

    Raises `ConfigError` if `path` already exists or cannot be created, and `RostersyncError` if the file cannot be
    given its name.
    """
    if os.path.lexists(path):
        raise ConfigError([f"{path} already exists, and was not overwritten"], "choose another name")
    try:
        handle, part = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        hint = "choose a folder that this user can write to"
        raise ConfigError([f"cannot write {path}: {error.strerror}"], hint) from error
    naming = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-I", "-S", "-c", _NAMING, part, str(path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C on a terminal does not reach it
        env={},
    )
    with naming, open(part, "wb", buffering=0, opener=lambda *_: handle) as file:
        yield file
        naming.communicate(b"whole")
    if naming.returncode:
        raise RostersyncError(f"cannot give {part} the name {path}", "the backup was deleted; try again")
