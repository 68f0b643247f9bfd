"""Write a new file that gets its name only when it is complete.

A command that root runs becomes the service's user before it writes the content. That user may not be allowed to rename
files in the folder. So a shell, which stays root, waits for the command and then gives the file its name. If the
command ends without success, even by SIGKILL, the shell deletes the file.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from rostersync.errors import ConfigError, RostersyncError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAMING = 'read -r _ && mv -f -- "$1" "$2"; status=$?; rm -f -- "$1"; exit $status'


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
    # Start the shell in a new session, so that Ctrl-C on a terminal does not reach it.
    command = ["sh", "-c", _NAMING, "sh", part, str(path)]
    shell = subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with shell, os.fdopen(handle, "wb", buffering=0) as file:
        yield file
        shell.communicate(b"whole\n")
    if shell.returncode:
        raise RostersyncError(f"cannot give {part} the name {path}", "the backup was deleted; try again")
