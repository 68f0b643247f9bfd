"""Define the tables of the stage, and create them.

On SQLite, the tables are in a separate file in the same folder as the database. The file is attached to the run's
connection and unlinked immediately, so it disappears when the process ends. On PostgreSQL, the tables are temporary
tables of the run's session.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.schema import CreateTable

from rostersync.store.database.engine import attach_scratch_file, past_sqlalchemy
from rostersync.store.database.types import Timestamp
from rostersync.store.schema.tables import Key, student_columns

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Dialect

_STAGE = MetaData(schema="stage")

staged = Table(
    "staged",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),  # negative if the record has no readable id
    Column("reading", Integer, nullable=False),  # the last reading of the list in which the row occurred
    Column("page", Integer),  # the number of the page that contained the row, or NULL if the row is not from a page
    Column("rejected", Text),  # why the record cannot be decoded, or NULL if it can be decoded
    Column("deleted_at", Timestamp),
    Column("updated_ms", BigInteger),  # the record's `updated_at`, in milliseconds since 1970
    Column("content_hash", LargeBinary),
)

# The commit copies the rows of `records` to the replica. The records are not columns of `staged`, because each reading
# of a list rewrites the rows of `staged`, so these rows should be small.
records = Table(
    "records",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    *student_columns(),
    Column("served_status", Text),  # the status from the API, which the content hash includes; `status` may be derived
)

deletions = Table(
    "deletions",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),  # negative if the record has no readable id
    Column("reading", Integer, nullable=False),  # the last reading of the deleted feed in which the row occurred
    Column("deleted_at", Timestamp),
)

answers = Table(
    "answers",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("answer", Text, nullable=False),  # see `terms.Found`
    Column("deleted_at", Timestamp),  # the `deleted_at` of the record in the GET response, or NULL
    Column("record", LargeBinary),  # the record of a current student, as `records.encode` returns it
)

details = Table(  # the rows that the commit writes into the table `student_detail`
    "details",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("record", LargeBinary),
    Column("updated_ms", BigInteger),
    Column("settled", Boolean, nullable=False),
    Column("read_at", Timestamp),
    Column("waiting_since", Timestamp),
    Column("renewed", Boolean, nullable=False),  # whether the combined record differs from the stored student
)

candidates = Table(
    "candidates",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("deletion_source", Text, nullable=False),
    Column("deleted_at", Timestamp),
    Column("planned", Boolean, nullable=False),  # whether the removal is in the plan that is being approved
)

TABLES = _STAGE.sorted_tables


def attach(connection: Connection, database: Path | None) -> set[Table]:
    """Create an empty stage on the connection. Return an empty set, to which a `StageSession` adds the tables it fills.

    On SQLite, `database` is the path of the database, and the stage's file is created in the same folder. On
    PostgreSQL, `database` is None.
    """
    if database is not None:
        attach_scratch_file(connection, database.parent)
    with connection.begin(), past_sqlalchemy(connection) as driver:
        for statement in _definitions(connection.dialect):
            driver.execute(statement)
    return set()


def clear(connection: Connection, filled: set[Table]) -> None:
    """Delete the rows of the tables in `filled`, and empty this set, so that another run can use the stage."""
    # On PostgreSQL, the tables are truncated, because the space freed by deleting rows from a temporary table is never
    # reused.
    empty = "TRUNCATE pg_temp." if connection.dialect.name == "postgresql" else "DELETE FROM stage."
    with connection.begin():
        for table in filled:
            connection.exec_driver_sql(f"{empty}{table.name}")
    filled.clear()


@cache
def _definitions(dialect: Dialect) -> list[str]:
    place = {"stage": "pg_temp" if dialect.name == "postgresql" else "stage"}
    return [
        str(CreateTable(table).compile(dialect=dialect, schema_translate_map=place, render_schema_translate=True))
        for table in TABLES
    ]
