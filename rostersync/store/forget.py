"""Delete all rows of a source, including the rows about its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select

from rostersync.store.database.engine import writing
from rostersync.store.schema.tables import (
    held_removal,
    quarantine,
    run,
    run_request,
    student,
    student_detail,
    student_version,
)
from rostersync.store.schema.tables import source as _source

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from rostersync.store.queue.lock import Lease


def _rows(source: str) -> dict[str, tuple[Any, ColumnElement[bool]]]:
    """Return, for each kind of row, the table and the SQL condition for the rows of `source`.

    Because of the foreign keys, a table comes before the tables that it refers to.
    """
    runs = select(run.c.run_id).where(run.c.source == source)
    return {
        "held removal": (held_removal, held_removal.c.run_id.in_(runs)),
        "quarantined record": (quarantine, quarantine.c.source == source),
        "earlier version": (student_version, student_version.c.source == source),
        "detail": (student_detail, student_detail.c.source == source),
        "student": (student, student.c.source == source),
        "request": (run_request, run_request.c.source == source),
        "run": (run, run.c.source == source),
    }


def holdings(connection: Connection, source: str) -> dict[str, int] | None:
    """Return the number of rows of a source by kind of row, or None if the source is not in the database."""
    with connection.begin():
        if connection.scalar(select(func.count()).where(_source.c.name == source)) == 0:
            return None
        counted = {
            kind: select(func.count()).select_from(table).where(which) for kind, (table, which) in _rows(source).items()
        }
        return {kind: int(connection.scalar(query) or 0) for kind, query in counted.items()}


def forget(lease: Lease) -> dict[str, int]:
    """Delete all rows of the lease's source in one transaction, except the rows in the audit log.

    Returns the number of deleted rows by kind of row. Raises `LockLost` if another process has become the source's
    writer.
    """
    with writing(lease.connection):
        lease.pass_fence()
        purged = {
            kind: lease.connection.execute(delete(table).where(which)).rowcount
            for kind, (table, which) in _rows(lease.source).items()
        }
        lease.connection.execute(delete(_source).where(_source.c.name == lease.source))
    return purged
