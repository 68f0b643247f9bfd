"""Where a run's rows lie until it commits: the stage's tables, and the place that they are made in.

SQLite: a file beside the database, attached to the lease's connection and unlinked at once, so that nothing of it
outlives the process. PostgreSQL: temporary tables of the lease's session.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.schema import CreateTable

from rostersync.store.engine import attach_scratch_file, past_sqlalchemy
from rostersync.store.statements import filled
from rostersync.store.tables import Key, student_columns
from rostersync.store.types import Timestamp

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Dialect

_STAGE = MetaData(schema="stage")

staged = Table(
    "staged",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),  # negative: a record without an id
    Column("reading", Integer, nullable=False),  # the last reading of its list that brought it
    Column("page", Integer),  # the number of the page that did; NULL: it was asked for by its id
    Column("rejected", Text),  # why it could not be decoded
    Column("deleted_at", Timestamp),
    Column("updated_ms", BigInteger),  # `updated_at` of the record, in milliseconds since 1970
    Column("content_hash", LargeBinary),
)

records = (
    Table(  # as the commit copies them; apart from `staged`, whose rows are small: each reading writes these again
        "records",
        _STAGE,
        Column("id", Key, primary_key=True, autoincrement=False),
        *student_columns(),
        Column("served_status", Text),  # what the content hash covers: `status` is derived if the API served none
    )
)

deletions = Table(
    "deletions",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),  # negative: a record without an id
    Column("reading", Integer, nullable=False),  # the last reading of the deleted feed that brought it
    Column("deleted_at", Timestamp),
)

answers = Table(
    "answers",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    # What GET answered last: alive, gone or unclear; or, if nothing follows from it, detail or unanswered.
    Column("answer", Text, nullable=False),
    Column("deleted_at", Timestamp),  # as the record said that it brought
    Column("record", LargeBinary),  # of a living student: `records.encode`
)

details = Table(  # what is to be written into the table `student_detail`
    "details",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("record", LargeBinary),
    Column("updated_ms", BigInteger),
    Column("settled", Boolean, nullable=False),
    Column("read_at", Timestamp),
    Column("waiting_since", Timestamp),
    Column("renewed", Boolean, nullable=False),  # whether the student is stored otherwise
)

removals = Table(
    "removals",
    _STAGE,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("deletion_source", Text, nullable=False),
    Column("deleted_at", Timestamp),
    Column("planned", Boolean, nullable=False),  # in the plan that is being approved
)

TABLES = _STAGE.sorted_tables


def attach(connection: Connection, database: Path | None) -> None:
    """Give the connection an empty stage: an unlinked file beside `database`, or the session's own temporary tables."""
    if database is not None:
        attach_scratch_file(connection, database.parent)
    with connection.begin(), past_sqlalchemy(connection) as driver:
        for statement in _definitions(connection.dialect):
            driver.execute(statement)


def clear(connection: Connection) -> None:
    """Empty the stage for another run."""
    # What is only deleted from a temporary table of PostgreSQL takes up room for ever.
    empty = "TRUNCATE pg_temp." if connection.dialect.name == "postgresql" else "DELETE FROM stage."
    with connection.begin():
        for table in filled(connection):
            connection.exec_driver_sql(f"{empty}{table.name}")
    filled(connection).clear()


@cache
def _definitions(dialect: Dialect) -> list[str]:
    place = {"stage": "pg_temp" if dialect.name == "postgresql" else "stage"}
    return [
        str(CreateTable(table).compile(dialect=dialect, schema_translate_map=place, render_schema_translate=True))
        for table in TABLES
    ]
