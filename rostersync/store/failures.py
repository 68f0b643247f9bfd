"""A small file beside a daemon's state, for failures that leave no run in the database, which may be away, or full."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rostersync.clock import from_text, to_text
from rostersync.store.engine import sqlite_path
from rostersync.store.files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

STATE = Path("/var/lib/rostersync")
"""Where the service keeps its state, as its unit says."""

THE_DAEMON = ""
"""In place of a source's name: the failure is the daemon's own."""

_LARGEST = 2**20


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, without a run that would tell. `source` may be `THE_DAEMON`."""

    source: str
    at: datetime
    error: str
    hint: str


def failures_file(url: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of the daemon that uses the database at `url`; None where it has no place.

    Beside an SQLite database; for PostgreSQL in the service's folder of state, where there is one.
    """
    database = sqlite_path(url)
    if database is not None:
        return database.with_name(f"{database.name}-daemon.json")
    folder = Path(environ.get("STATE_DIRECTORY", STATE))
    return folder / "daemon.json" if folder.is_dir() else None


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write the failures that last; without any the file goes. Never raises: what it would tell is in the log as well.

    The file is for its owner only, and written in place: on a full disk there is no room for another.
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
    """Return the failures that last, none where there is no file, or one that cannot be read."""
    try:
        if path is None:
            return []
        with os.fdopen(open_plain(path, os.O_RDONLY), encoding="utf-8") as file:
            rows = json.loads(file.read(_LARGEST))["failures"]
        return [Failure(row["source"], from_text(row["at"]), row["error"], row["hint"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []
