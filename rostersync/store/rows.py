"""A student as the values of a row, and back; and rows written as fast as each driver can.

SQLAlchemy handles each value of each row by itself, which costs more than all else that a full run does. So what comes
in bulk goes past it: as tuples to SQLite, and to PostgreSQL by COPY. What a value must be for that is said here, once.
"""

from __future__ import annotations

from functools import cache, lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

from rostersync.clock import to_epoch_ms
from rostersync.records import (
    EXTRA,
    FIELDS,
    Kind,
    Rejected,
    Student,
    content_hash,
    decode,
    derive_status,
    row_key,
    with_status,
)
from rostersync.store.engine import past_sqlalchemy
from rostersync.store.tables import PAYLOAD
from rostersync.store.types import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Connection, Dialect, Table
    from sqlalchemy.engine import Row as SqlRow

    from rostersync.records import Row

NAMES = ("id", *PAYLOAD)
"""The columns that make a `Student`."""

TIMESTAMP = Timestamp()


def student_of(row: SqlRow[Any], offset: int) -> Student:
    """Return the student whose columns `NAMES` begin at `offset` of a row."""
    return Student(**{name: row[offset + index] for index, name in enumerate(NAMES)})


@cache
def values_of(dialect: str) -> Callable[[bytes], list[Any]]:
    """Return what makes the values of `NAMES`, as `insert_all` needs them, of an encoded student.

    The text is read in the form that drivers take, so that no value is made that would only be written as text again.
    """
    kinds: dict[str, Any] = {"id": int, "extra": msgspec.Raw} | {
        f.name: _AS_READ.get(f.kind, f.kind.value) for f in FIELDS
    }
    fields = [(name, kinds[name], None) for name in NAMES]  # absent is None; null is never written
    read = msgspec.json.Decoder(msgspec.defstruct("_Values", fields, rename={"extra": EXTRA})).decode
    times = [NAMES.index(f.name) for f in FIELDS if f.kind is Kind.TIMESTAMP and dialect == "sqlite"]
    arrays = [NAMES.index(f.name) for f in FIELDS if f.kind in {Kind.TEXTS, Kind.INTEGERS}]
    status, *implied = map(NAMES.index, ("status", "archived", "graduated_on", "withdrawn_on"))

    def values(record: bytes) -> list[Any]:
        row = list(astuple(read(record)))
        if not row[status]:
            has_odd_date = row[-1] is not None and b"ed_on" in bytes(row[-1])  # the name of one of the dates in `extra`
            row[status] = (
                with_status(decode(record)).status
                if has_odd_date
                else derive_status(None, *(row[place] for place in implied))
            )
        for place in times:
            if (text := row[place]) is not None:
                row[place] = f"{text[:19]}{text[19:23] if len(text) > _WHOLE_SECONDS else '.000'}Z"
        for place in arrays:
            if (text := row[place]) is not None:
                row[place] = bytes(text).decode()
        row[-1] = "{}" if row[-1] is None else bytes(row[-1]).decode()
        return row

    return values


_AS_READ: dict[Kind, Any] = {
    Kind.DATE: str,
    Kind.TIMESTAMP: str,
    Kind.TEXTS: msgspec.Raw,
    Kind.INTEGERS: msgspec.Raw,
}
_WHOLE_SECONDS = len("2026-03-01T07:30:15Z")  # what `records.encode` writes; else with six digits more


def staged_values(dialect: Dialect, reading: int) -> Callable[[Row, Mapping[int, bytes]], tuple[Any, ...]]:
    """Return what makes a row of the stage of a record that `reading` has brought; the students' texts are by id."""

    def values(row: Row, encoded: Mapping[int, bytes]) -> tuple[Any, ...]:
        if isinstance(row, Rejected):
            return row_key(row), reading, row.reason, None, None, None
        updated_ms = None if row.updated_at is None else to_epoch_ms(row.updated_at)
        deleted_at = TIMESTAMP.process_bind_param(row.deleted_at, dialect)
        return row.id, reading, None, deleted_at, updated_ms, content_hash(encoded[row.id])

    return values


@lru_cache(maxsize=100)
def _insert(dialect: str, place: str, names: tuple[str, ...]) -> str:
    if dialect == "postgresql":
        return f"COPY {place} ({', '.join(names)}) FROM STDIN"
    return f"INSERT INTO {place} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our names


def insert_all(
    connection: Connection, table: Table, rows: Iterable[tuple[Any, ...]], names: Iterable[str] | None = None
) -> None:
    """Insert new rows into a table in one statement. Call it inside a transaction.

    Args:
        connection: The connection, inside a transaction.
        table: A table of the database or of the stage.
        rows: The values of each row, as the driver takes them. At least two columns have a value in some row.
        names: The columns that the values belong to; by default all columns of the table.

    """
    made = list(rows)
    if not made:
        return
    columns = tuple(names or table.c.keys())
    # Each value that a driver takes costs time, also NULL. So a column that no row fills is left out.
    filled = [place for place, column in enumerate(zip(*made, strict=True)) if column.count(None) < len(made)]
    if len(filled) < len(columns):
        pick = itemgetter(*filled)
        columns, made = pick(columns), list(map(pick, made))
    schemas = connection.get_execution_options().get("schema_translate_map", {})
    place = ".".join(filter(None, (schemas.get(table.schema, table.schema), table.name)))
    statement = _insert(connection.dialect.name, place, columns)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(statement, made)
        return
    with past_sqlalchemy(connection) as driver, driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in made:
            copy.write_row(row)
