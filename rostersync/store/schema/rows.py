"""Convert a student to the values of a row, convert a row to a student, and insert many rows quickly.

SQLAlchemy converts each value of each row separately, which takes longer than everything else in a full run. So we
bypass SQLAlchemy to insert many rows: we pass tuples to the SQLite driver, and use COPY on PostgreSQL. The function
`values_of` returns values that both drivers accept.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

from rostersync.clock import to_epoch_ms
from rostersync.records import FIELDS, Kind, Student, status_of
from rostersync.store.database.engine import past_sqlalchemy
from rostersync.store.database.types import Timestamp
from rostersync.store.schema.tables import PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Table
    from sqlalchemy.engine import Row as SqlRow

NAMES = ("id", *PAYLOAD)
"""The names of the columns that contain the values of a `Student`."""

TIMESTAMP = Timestamp()


def milliseconds(moment: datetime | None) -> int | None:
    """Return a time in milliseconds since 1970, or None if `moment` is None.

    The stage stores `updated_at` in milliseconds since 1970.
    """
    return None if moment is None else to_epoch_ms(moment)


def student_of(row: SqlRow[Any], offset: int) -> Student:
    """Return the student from a row. The student's values begin at column number `offset`, in the order of `NAMES`."""
    return Student(**{name: row[offset + index] for index, name in enumerate(NAMES)})


def values_of(student: Student) -> tuple[Any, ...]:
    """Return the values of a student's row in the stage's table `records`.

    Both database drivers accept these values.
    """
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
)  # msgspec writes the fraction of a second with six digits, or omits it


@lru_cache(maxsize=100)
def _insert(dialect: str, place: str, names: tuple[str, ...]) -> str:
    if dialect == "postgresql":
        return f"COPY {place} ({', '.join(names)}) FROM STDIN"
    return f"INSERT INTO {place} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our names


def insert_all(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert new rows into a table with one statement.

    Args:
        connection: A connection with an open transaction.
        table: The table, which may belong to the stage.
        rows: The values of all columns for each row, in a form that the driver accepts. At least two columns must
            contain values other than None.

    """
    if not rows:
        return
    # Passing a value to a driver takes time, even if the value is NULL. So we leave out each column that is NULL in all
    # rows.
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
