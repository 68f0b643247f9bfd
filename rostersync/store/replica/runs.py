"""Read the recorded runs of a source, and the plans of its held runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, bindparam, func, select

from rostersync.report import Counts, RunKind, RunReport, RunState, Watermarks
from rostersync.store.schema.tables import PLAN_IS_OPEN, held_removal, student
from rostersync.store.schema.tables import run as _run
from rostersync.store.stage.tables import candidates

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

_HELD_STUDENTS = (
    select(held_removal.c.id)
    .join(_run, _run.c.run_id == held_removal.c.run_id)
    .join(student, and_(student.c.source == _run.c.source, student.c.id == held_removal.c.id))
    .where(
        _run.c.source == bindparam("of"),
        _run.c.kind == str(RunKind.INCREMENTAL),
        PLAN_IS_OPEN,
        student.c.deleted_at.is_(None),
    )
    .where(held_removal.c.id.not_in(select(candidates.c.id)))
    .distinct()
    .order_by(held_removal.c.id)
)


class Hold(msgspec.Struct, frozen=True):
    """A held run that has an open plan."""

    run_id: int
    source: str
    kind: RunKind


def report(connection: Connection, run_id: int) -> RunReport:
    """Return the report of a recorded run."""
    with connection.begin():
        row = connection.execute(select(_run).where(_run.c.run_id == run_id)).one()
    return _report(row)


def recent(connection: Connection, limit: int) -> list[RunReport]:
    """Return the reports of at most `limit` runs, with the newest run first."""
    with connection.begin():
        rows = connection.execute(select(_run).order_by(_run.c.run_id.desc()).limit(limit)).all()
    return [_report(row) for row in rows]


def last(connection: Connection, source: str) -> int:
    """Return the id of a source's last run, or 0 if the source has no runs yet."""
    with connection.begin():
        return int(connection.scalar(select(func.max(_run.c.run_id)).where(_run.c.source == source)) or 0)


def _report(row: Any) -> RunReport:
    return RunReport(
        run_id=row.run_id,
        source=row.source,
        kind=RunKind(row.kind),
        state=RunState(row.state),
        counts=Counts(**{name: getattr(row, name) for name in Counts.__struct_fields__}),
        requests=row.requests,
        retries=row.retries,
        duration_s=row.duration_s,
        watermarks=Watermarks(row.modified_watermark, row.deleted_watermark),
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
        notices=tuple(row.notices),
        exit_status=RunState(row.state).exit_status,
    )


def open_hold(connection: Connection, run_id: int) -> Hold | None:
    """Return the held run `run_id`, or None if there is no such run or its plan is not open."""
    with connection.begin():
        row = connection.execute(
            select(_run.c.source, _run.c.kind).where(_run.c.run_id == run_id, PLAN_IS_OPEN)
        ).first()
    return row and Hold(run_id, row.source, RunKind(row.kind))


def planned_removals(connection: Connection, run_id: int) -> list[tuple[int, str, datetime | None]]:
    """Return the removals in the plan of a run.

    Each removal has the student's id, the deletion source, and the time of the deletion. The time of the deletion is
    None if it is unknown.
    """
    with connection.begin():
        rows = connection.execute(
            select(held_removal.c.id, held_removal.c.deletion_source, held_removal.c.deleted_at).where(
                held_removal.c.run_id == run_id
            )
        )
        return [(row.id, row.deletion_source, row.deleted_at) for row in rows]


def held_students(connection: Connection, source: str) -> list[int]:
    """Return the ids of current students whose removal is part of an open plan of one of the source's incremental runs.

    Students who are candidates for removal in the current run are left out.
    """
    with connection.begin():
        return list(connection.scalars(_HELD_STUDENTS, {"of": source}))
