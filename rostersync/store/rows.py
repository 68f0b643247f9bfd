"""A student as the values of a row, and back; and rows written as fast as each driver can.

SQLAlchemy handles each value of each row by itself, which costs more than all else that a full run does. So what comes
in bulk goes past it: as tuples to SQLite, and to PostgreSQL by COPY. What a value must be for that is said here, once.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

from rostersync.clock import to_epoch_ms
from rostersync.records import FIELDS, Kind, Student, status_of
from rostersync.store.engine import past_sqlalchemy
from rostersync.store.tables import PAYLOAD
from rostersync.store.types import Timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Table
    from sqlalchemy.engine import Row as SqlRow

NAMES = ("id", *PAYLOAD)
"""The columns that make a `Student`."""

TIMESTAMP = Timestamp()


def milliseconds(moment: datetime | None) -> int | None:
    """Return a time in milliseconds since 1970, as the stage stores `updated_at`; None for None."""
    return None if moment is None else to_epoch_ms(moment)


def student_of(row: SqlRow[Any], offset: int) -> Student:
    """Return the student whose columns `NAMES` begin at `offset` of a row."""
    return Student(**{name: row[offset + index] for index, name in enumerate(NAMES)})


def values_of(student: Student) -> tuple[Any, ...]:
    """Return a student as `insert_all` puts them into the stage's table `records`. Both drivers take these values."""
    row = list(msgspec.to_builtins(astuple(student)[:_EXTRA]))
    for place in _TIMES:
        if (text := row[place]) is not None:
            row[place] = f"{text[:_MILLISECONDS]}Z" if len(text) > _MILLISECONDS else f"{text[:_SECONDS]}.000Z"
    for place in _ARRAYS:
        if (array := row[place]) is not None:
            row[place] = _JSON.encode(array).decode()
    row[_STATUS] = status_of(student)
    return *row, _JSON.encode(student.extra).decode(), student.status


_JSON = msgspec.json.Encoder(order="deterministic")
_TIMES = [NAMES.index(field.name) for field in FIELDS if field.kind is Kind.TIMESTAMP]
_ARRAYS = [NAMES.index(field.name) for field in FIELDS if field.kind in {Kind.TEXTS, Kind.INTEGERS}]
_STATUS, _EXTRA = NAMES.index("status"), NAMES.index("extra")
_SECONDS, _MILLISECONDS = (
    len("2026-03-01T07:30:15"),
    len("2026-03-01T07:30:15.000"),
)  # msgspec writes six digits, or none


@lru_cache(maxsize=100)
def _insert(dialect: str, place: str, names: tuple[str, ...]) -> str:
    if dialect == "postgresql":
        return f"COPY {place} ({', '.join(names)}) FROM STDIN"
    return f"INSERT INTO {place} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our names


def insert_all(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert new rows into a table in one statement. Call it inside a transaction.

    Args:
        connection: The connection, inside a transaction.
        table: A table of the database or of the stage.
        rows: For each row the values of all columns, as the driver takes them. At least two columns have some.

    """
    if not rows:
        return
    # Each value that a driver takes costs time, also NULL. So a column that no row fills is left out.
    filled = [place for place, values in enumerate(zip(*rows, strict=True)) if values.count(None) < len(rows)]
    pick = itemgetter(*filled)
    made = list(map(pick, rows))
    schemas = connection.get_execution_options().get("schema_translate_map", {})
    place = ".".join(filter(None, (schemas.get(table.schema, table.schema), table.name)))
    statement = _insert(connection.dialect.name, place, pick(table.c.keys()))
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(statement, made)
        return
    with past_sqlalchemy(connection) as driver, driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in made:
            copy.write_row(row)
