"""Keep a daemon's current failures in a small file, because the database may be unreachable or full.

The command `status` reads the file. The file contains only failures that are not recorded as a run in the database.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rostersync.clock import from_text, to_text
from rostersync.store.database.engine import sqlite_path
from rostersync.store.database.files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

STATE = Path("/var/lib/rostersync")
"""The state directory of the service, which is also set in the service's unit file."""

THE_DAEMON = ""
"""The value of `source` in a failure that concerns the daemon itself."""

_LARGEST = 2**20


class Failure(msgspec.Struct, frozen=True):
    """A failure that is not recorded as a run. `source` is the name of a source, or `THE_DAEMON`."""

    source: str
    at: datetime
    error: str
    hint: str


def failures_file(url: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path of the failures file for a daemon that uses the database at `url`.

    For SQLite, the file is beside the database. For PostgreSQL, the file is in the service's state directory. Returns
    None if the state directory does not exist.
    """
    database = sqlite_path(url)
    if database is not None:
        return database.with_name(f"{database.name}-daemon.json")
    folder = Path(environ.get("STATE_DIRECTORY", STATE))
    return folder / "daemon.json" if folder.is_dir() else None


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write the current failures, or delete the file if `failures` is empty.

    Only the owner of the file can read the file. The file is overwritten in place, because a full disk may have no
    space for a second file. This function never raises `OSError`, because even if the file cannot be written, the
    failures are in the log.
    """
    rows = [{"source": f.source, "at": to_text(f.at), "error": f.error, "hint": f.hint} for f in failures]
    with suppress(OSError):
        if not rows:
            path.unlink(missing_ok=True)
            return
        handle = open_plain(path, os.O_WRONLY | os.O_CREAT)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"failures": rows}, file)
            file.truncate()


def read_failures(path: Path | None) -> list[Failure]:
    """Return the failures in the file. The list is empty if the file is missing or cannot be read."""
    try:
        if path is None:
            return []
        with os.fdopen(open_plain(path, os.O_RDONLY), encoding="utf-8") as file:
            rows = json.loads(file.read(_LARGEST))["failures"]
        return [Failure(row["source"], from_text(row["at"]), row["error"], row["hint"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []
