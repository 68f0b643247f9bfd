"""A database for dry runs: what is there can be read, and nothing is left behind."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rostersync.store import schema
from rostersync.store.engine import open_engine, open_memory, sqlite_path
from rostersync.store.files import database_exists
from rostersync.store.schema import Level
from rostersync.store.stage import Stage
from rostersync.store.stage.tables import attach
from rostersync.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection


@contextmanager
def unchanged_database(url: str, source: str) -> Iterator[tuple[Connection, Stage]]:
    """Lend a connection to the database at `url`, and a stage. A database that is missing counts as empty.

    Raises `SchemaOutdated` or `SchemaTooNew` where the schema does not fit: nothing is upgraded for a dry run.
    """
    path = sqlite_path(url)
    engine = open_memory() if _is_nothing(path) else open_engine(url, read_only=True)
    with engine.connect() as connection:
        _require_tables(connection)
        attach(connection, path)
        try:
            yield connection, Stage(connection, source)
        finally:
            connection.invalidate()  # temporary tables go with the session


def _is_nothing(path: Path | None) -> bool:
    """Tell whether a SQLite file is missing, or was made and never set up."""
    return path is not None and (not database_exists(path) or path.stat().st_size == 0)


def _require_tables(connection: Connection) -> None:
    """Let an empty database have its tables as temporary ones of this session."""
    with connection.begin():
        if schema.level(connection) is not Level.EMPTY:
            schema.require_current(connection)
            return
        if connection.dialect.name == "postgresql":
            connection.execution_options(schema_translate_map={None: "pg_temp", "stage": "pg_temp"})
        metadata.create_all(connection, checkfirst=False)
