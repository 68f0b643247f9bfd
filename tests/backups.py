"""For tests of backups: what a database holds, and files as administrators make them without the program."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from conftest import see_views
from sqlalchemy import make_url, text

from rostersync.store.database.engine import open_engine
from rostersync.store.schema.tables import metadata
from rostersync.store.schema.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

_OF_THE_MOMENT = {"fence", "holder", "held_since", "age_seconds"}
"""Columns that a restore or the clock changes."""


def content(url: str) -> dict[str, list[str]]:
    """Return the rows of all tables and views, as texts; without daemons, and without columns of the moment."""
    names = [*(set(metadata.tables) - {"daemon"}), *(view.name for view in VIEWS)]
    with open_engine(url).connect() as connection, connection.begin():
        see_views(connection)
        return {name: _rows(connection, name) for name in names}


def _rows(connection: Connection, name: str) -> list[str]:
    found = connection.execute(text(f"SELECT * FROM {name}")).mappings()
    return sorted(repr({key: _plain(row[key]) for key in row if key not in _OF_THE_MOMENT}) for row in found)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def dumped_by_hand(url: str, file: Path, *options: str) -> Path:
    """Make a backup as somebody does without `db backup`: pg_dump of the whole database, or VACUUM INTO."""
    if make_url(url).get_backend_name() == "sqlite":
        with closing(sqlite3.connect(make_url(url).database or "")) as connection:
            connection.execute("VACUUM INTO ?", (str(file),))
        return file
    command = ["pg_dump", "--format=custom", *options, f"--file={file}", libpq(url)]
    subprocess.run(command, check=True, env=os.environ)
    return file


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Overwrite the students of an SQLite database; it goes with the context, for nobody could search it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'student'").fetchone()
    with path.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)
    try:
        yield
    finally:
        for file_of in path.parent.glob(f"{path.name}*"):
            if file_of.suffix != ".lock":
                file_of.unlink()
