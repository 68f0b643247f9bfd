"""Write a new file that appears under its name only when it is complete.

A command that root starts switches to another user before it writes the content of the new file. This other user may
lack permission to rename the file. A helper process therefore keeps root's rights, and renames the file once the file
is complete. If the command ends before the file is complete, even by SIGKILL, the helper process deletes the file.
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
"""The script uses `os.rename`, because `mv` would follow a link to a folder that another user has put at `path`."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty file that only its owner can read.

    If the context ends without an error, rename the file to `path`.

    Raises `ConfigError` if `path` already exists or cannot be created, and `RostersyncError` if the file cannot be
    renamed.
    """
    if os.path.lexists(path):
        raise ConfigError([f"{path} already exists, and was not overwritten"], "choose another name")
    try:
        handle, part = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        hint = "choose a folder that this user can write to"
        raise ConfigError([f"cannot write {path}: {error.strerror}"], hint) from error
    naming = subprocess.Popen(  # noqa: S603 - the arguments are our own
        [sys.executable, "-I", "-S", "-c", _NAMING, part, str(path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C on a terminal does not end this process
        env={},
    )
    with naming, open(part, "wb", buffering=0, opener=lambda *_: handle) as file:
        yield file
        naming.communicate(b"whole")
    if naming.returncode:
        raise RostersyncError(f"cannot give {part} the name {path}", "the new backup was deleted; try again")
