"""Read the state of the sources for administrators: freshness, last lock holder, and held removals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Boolean, and_, func, select, text

from rostersync.store.database.types import JsonTuple, Timestamp
from rostersync.store.replica import runs
from rostersync.store.schema.tables import held_removal, student
from rostersync.store.schema.tables import run as _run
from rostersync.store.schema.views import SYNC_HEALTH

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from rostersync.report import RunReport


class Health(msgspec.Struct, frozen=True):
    """A row of the view `sync_health`, and more facts about the source, such as the lock's last holder.

    Times are UTC.
    """

    source: str
    last_success_at: datetime | None
    age_seconds: int | None
    last_state: str | None
    last_run_id: int | None
    last_finished_at: datetime | None
    last_error: str | None
    last_notices: tuple[str, ...] | None
    held_run_id: int | None
    live_students: int
    deleted_students: int
    quarantined: int
    modified_watermark: datetime | None
    deleted_watermark: datetime | None
    last_clean_full_at: datetime | None
    history_starts_at: datetime | None
    deleted_feed_ignored: bool
    details_waiting: int
    """The number of details that must still be read. If lists return every key that GET returns, the number is 0."""
    holder: str | None
    """The process that took the lock most recently, or None if it has released the lock.

    `Store.is_held` checks whether the lock is still held.
    """


_WITH_SOURCE = """
SELECT h.source, h.last_success_at, h.age_seconds, h.last_state, h.last_run_id,
       (SELECT r.finished_at FROM run r WHERE r.run_id = h.last_run_id) AS last_finished_at,
       (SELECT r.error FROM run r WHERE r.run_id = h.last_run_id) AS last_error,
       (SELECT r.notices FROM run r WHERE r.run_id = h.last_run_id) AS last_notices,
       h.held_run_id, h.live_students, h.deleted_students,
       h.quarantined, h.modified_watermark, h.deleted_watermark, h.last_clean_full_at, h.history_starts_at,
       s.deleted_feed_ignored, s.holder,
       CASE WHEN {detail_keys} > 0 THEN
         (SELECT count(*) FROM student t LEFT JOIN student_detail d ON d.source = t.source AND d.id = t.id
           WHERE t.source = s.name AND t.deleted_at IS NULL AND (d.id IS NULL OR d.waiting_since IS NOT NULL))
       ELSE 0 END AS details_waiting
  FROM ({health}) h JOIN source s ON s.name = h.source
 ORDER BY h.source
"""


def _health_query(dialect: str) -> Any:
    # We use the view's query instead of the view, so that PostgreSQL does not look up the view's name in another
    # schema. We find the last run of each source with subqueries. If the query used a join, PostgreSQL might read all
    # runs, because it does not know that there are only a few sources.
    sqlite = dialect == "sqlite"
    detail_keys = "json_array_length(s.keys, '$.detail')" if sqlite else "jsonb_array_length(s.keys -> 'detail')"
    return text(_WITH_SOURCE.format(health=SYNC_HEALTH.query(dialect), detail_keys=detail_keys)).columns(
        last_success_at=Timestamp(),
        last_finished_at=Timestamp(),
        last_notices=JsonTuple(),
        modified_watermark=Timestamp(),
        deleted_watermark=Timestamp(),
        last_clean_full_at=Timestamp(),
        history_starts_at=Timestamp(),
        deleted_feed_ignored=Boolean(),
    )


_HEALTH = {dialect: _health_query(dialect) for dialect in ("sqlite", "postgresql")}


def health(connection: Connection) -> list[Health]:
    """Return the health of every source in the database, sorted by name.

    The result may include sources that are not configured.
    """
    with connection.begin():
        return [Health(**row) for row in connection.execute(_HEALTH[connection.dialect.name]).mappings()]


class HeldStudent(msgspec.Struct, frozen=True):
    """A student who will be removed only if the removal is approved. This object contains personal data.

    `known_since` is the end of the earliest run that has the student in an open plan. `deleted_at` is the time of the
    deletion if ManageBac reports it, and otherwise None.
    """

    id: int
    last_name: str | None
    first_name: str | None
    deletion_source: str
    known_since: datetime
    deleted_at: datetime | None


class RunDetails(msgspec.Struct, frozen=True):
    """A run, the state of its plan, and the students who are still held.

    `plan` is `open`, `approved` or `superseded`, or None if the run has no plan.
    """

    report: RunReport
    plan: str | None
    held: tuple[HeldStudent, ...]


def run_details(connection: Connection, run_id: int) -> RunDetails | None:
    """Return a run with its plan, or None if the run does not exist."""
    with connection.begin():
        run = connection.execute(select(_run.c.source, _run.c.plan).where(_run.c.run_id == run_id)).first()
        held = _held_students(connection, run.source, run_id) if run else ()
    return RunDetails(runs.report(connection, run_id), run.plan, held) if run else None


def _held_students(connection: Connection, source: str, run_id: int) -> tuple[HeldStudent, ...]:
    """Return the students in the plan of a run, sorted by id. A plan that is not open has no students."""
    # Only open plans have rows in `held_removal`, because closing a plan deletes its rows.
    plans = select(held_removal.c.id, func.min(_run.c.run_id).label("run_id")).join_from(
        held_removal, _run, and_(_run.c.run_id == held_removal.c.run_id, _run.c.source == source)
    )
    first = plans.group_by(held_removal.c.id).subquery()
    stored = and_(student.c.source == source, student.c.id == held_removal.c.id)
    rows = connection.execute(
        select(
            held_removal.c.id,
            student.c.last_name,
            student.c.first_name,
            held_removal.c.deletion_source,
            _run.c.finished_at.label("known_since"),
            held_removal.c.deleted_at,
        )
        .join(first, first.c.id == held_removal.c.id)
        .join(_run, _run.c.run_id == first.c.run_id)
        .outerjoin(student, stored)
        .where(held_removal.c.run_id == run_id)
        .order_by(held_removal.c.id)
    )
    return tuple(HeldStudent(**row) for row in rows.mappings())
