"""A student's record as the columns of a row, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rostersync.records import Rejected, Student, content_hash, row_key
from rostersync.store.models import PAYLOAD

if TYPE_CHECKING:
    from sqlalchemy.engine import Row as SqlRow

    from rostersync.records import Row

NAMES = ("id", *PAYLOAD)
"""The columns that make a `Student`."""


def columns_of(row: Row, reading: int) -> dict[str, Any]:
    """Return a row of the stage for a record that a reading has brought."""
    facts = {"id": row_key(row), "reading": reading, "stale": False, "versioned": True, "changed_fields": ()}
    if isinstance(row, Rejected):
        return {**facts, **dict.fromkeys(PAYLOAD), "rejected": row.reason, "deleted_at": None, "content_hash": None}
    payload = {name: getattr(row, name) for name in PAYLOAD}
    return {**facts, **payload, "rejected": None, "deleted_at": row.deleted_at, "content_hash": content_hash(row)}


def student_of(row: SqlRow[Any], offset: int) -> Student:
    """Return the student whose columns `NAMES` begin at `offset` of a row."""
    return Student(**{name: row[offset + index] for index, name in enumerate(NAMES)})
