"""Open a database for a dry run, which can read everything but does not change the database."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rostersync.store.database.engine import open_engine, open_memory, sqlite_path
from rostersync.store.database.files import database_exists
from rostersync.store.schema import revisions
from rostersync.store.schema.revisions import Level
from rostersync.store.schema.tables import metadata
from rostersync.store.stage import Stage, StageSession, attach

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection


@contextmanager
def unchanged_database(url: str, source: str) -> Iterator[tuple[Connection, Stage]]:
    """Yield a connection to the database at `url`, and a stage for `source`. A missing SQLite file counts as empty.

    Raises `SchemaOutdated` or `SchemaTooNew` if the database has the schema of another version, because a dry run must
    not upgrade the schema. Also raises the errors of `open_engine`.
    """
    path = sqlite_path(url)
    engine = open_memory() if _is_missing_or_empty(path) else open_engine(url, read_only=True)
    with engine.connect() as connection:
        _require_tables(connection)
        session = StageSession(connection, source, attach(connection, path))
        try:
            yield connection, Stage(session)
        finally:
            connection.invalidate()  # end the session, which deletes the temporary tables


def _is_missing_or_empty(path: Path | None) -> bool:
    """Return whether `path` is the path of a SQLite file that is missing or has no tables yet."""
    return path is not None and (not database_exists(path) or path.stat().st_size == 0)


def _require_tables(connection: Connection) -> None:
    """Check the schema of the database. If the database is empty, create temporary tables in this session."""
    with connection.begin():
        if revisions.level(connection) is not Level.EMPTY:
            revisions.require_current(connection)
            return
        if connection.dialect.name == "postgresql":
            connection.execution_options(schema_translate_map={None: "pg_temp", "stage": "pg_temp"})
        metadata.create_all(connection, checkfirst=False)
