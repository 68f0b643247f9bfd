"""Define the tables of the stage, and create them.

On SQLite they are in a file beside the database, which is attached to the connection of the run. The file is unlinked
at once, so nothing remains of it when the process ends. On PostgreSQL they are temporary tables of the run's session.
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
    Column("reading", Integer, nullable=False),  # the last reading of its list that has the row
    Column("page", Integer),  # the number of the page with the row; NULL if the row does not come from a page
    Column("rejected", Text),  # why the record cannot be decoded; NULL if it can
    Column("deleted_at", Timestamp),
    Column("updated_ms", BigInteger),  # `updated_at` of the record, in milliseconds since 1970
    Column("content_hash", LargeBinary),
)

# The commit copies these rows. They are not part of `staged`, because each reading writes the rows of `staged` again,
# so those must be small.
records = Table(
    "records",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    *student_columns(),
    Column("served_status", Text),  # as the API served it, and as the content hash covers it; `status` may be derived
)

deletions = Table(
    "deletions",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),  # negative if the record has no readable id
    Column("reading", Integer, nullable=False),  # the last reading of the deleted feed that has the row
    Column("deleted_at", Timestamp),
)

answers = Table(
    "answers",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("answer", Text, nullable=False),  # see `terms.Found`
    Column("deleted_at", Timestamp),  # from the record in the answer, if it has one
    Column("record", LargeBinary),  # the record of a living student, as `records.encode` writes it
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
    """Create an empty stage on the connection, and return the set of its tables that have rows, which is empty.

    `database` is the path beside which the stage's file is created; None on PostgreSQL.
    """
    if database is not None:
        attach_scratch_file(connection, database.parent)
    with connection.begin(), past_sqlalchemy(connection) as driver:
        for statement in _definitions(connection.dialect):
            driver.execute(statement)
    return set()


def clear(connection: Connection, filled: set[Table]) -> None:
    """Empty the stage for another run: delete the rows of the tables in `filled`, and empty the set."""
    # On PostgreSQL, the space of rows that are only deleted from a temporary table would never be reused.
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
