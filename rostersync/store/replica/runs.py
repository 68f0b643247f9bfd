"""Read the state of a source before a run, and commit everything that the run writes in one transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, bindparam, delete, exists, func, insert, select, text, update

from rostersync.errors import DatabaseUnreachable
from rostersync.projections import Keys, key_digest
from rostersync.report import Counts, RunKind, RunOutcome, RunReport, RunState, SourceState, Watermarks
from rostersync.store.database.engine import writing
from rostersync.store.database.types import Timestamp
from rostersync.store.queue import requests
from rostersync.store.replica import details, head_count, students
from rostersync.store.schema.tables import IS_GUARDED, PLAN_IS_OPEN, held_removal, quarantine, student, student_detail
from rostersync.store.schema.tables import run as _run
from rostersync.store.schema.tables import source as _source
from rostersync.store.stage.tables import removals, staged

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import BindParameter, Connection, Engine

    from rostersync.store.queue.lock import Lease

GUARD_WINDOW = timedelta(hours=24)

MAX_REPORTED_KEYS = 1_000
"""Once this many unknown keys of a source are known, no more are reported."""

# The statements of every run are built once, because building one takes longer than executing it.

_OF: BindParameter[Any] = bindparam("of")
_LIVING = and_(student.c.source == _OF, student.c.deleted_at.is_(None))

_STATE = select(_source, exists().where(student_detail.c.source == _OF).label("has_details")).where(
    _source.c.name == _OF
)
_COUNT_LIVING = select(_source.c.living).where(_source.c.name == _OF)
_SOME_LIVING = select(student.c.id).where(_LIVING).order_by(student.c.content_hash).limit(bindparam("at_most"))
_RECENT_REMOVALS = select(func.sum(_run.c.guarded)).where(
    _run.c.source == _OF,
    IS_GUARDED,
    _run.c.finished_at.between(bindparam("earliest", type_=Timestamp), bindparam("latest", type_=Timestamp)),
)
_QUARANTINED = (
    select(quarantine.c.id)
    .where(quarantine.c.source == _OF, quarantine.c.id > 0, quarantine.c.id.not_in(select(staged.c.id)))
    .order_by(quarantine.c.last_seen_at, quarantine.c.id)
    .limit(bindparam("at_most"))
)
_HELD = (
    select(held_removal.c.id)
    .join(_run, _run.c.run_id == held_removal.c.run_id)
    .join(student, and_(student.c.source == _run.c.source, student.c.id == held_removal.c.id))
    .where(
        _run.c.source == _OF,
        _run.c.kind == str(RunKind.INCREMENTAL),
        PLAN_IS_OPEN,
        student.c.deleted_at.is_(None),
    )
    .where(held_removal.c.id.not_in(select(removals.c.id)))
    .distinct()
    .order_by(held_removal.c.id)
)
_RECORD = insert(_run).returning(_run.c.run_id)
_UPDATE_SOURCE = update(_source).where(_source.c.name == _OF)
_OPEN_PLANS = (
    select(_run.c.run_id)
    .where(_run.c.source == _OF, _run.c.kind.in_(bindparam("kinds", expanding=True)), PLAN_IS_OPEN)
    .where(_run.c.run_id != bindparam("this_run"))
)


class RunResult(msgspec.Struct, frozen=True):
    """Everything that a run writes, except the rows in its stage."""

    report: RunReport
    outcome: RunOutcome
    request_id: int
    approves: int | None = None
    """The number of the held run with the approved plan that this run carries out; None without an approval."""


class Hold(msgspec.Struct, frozen=True):
    """A held run that has an open plan."""

    run_id: int
    source: str
    kind: RunKind


def state(connection: Connection, source: str) -> SourceState:
    """Return the stored state of a source, or an empty one if the database does not know the source."""
    with connection.begin():
        row = connection.execute(_STATE, {"of": source}).first()
    if row is None:
        return SourceState()
    others = {"watermarks", "unknown_keys", "keys"}
    known = {name: getattr(row, name) for name in SourceState.__struct_fields__ if name not in others}
    watermarks = Watermarks(row.modified_watermark, row.deleted_watermark)
    keys = msgspec.convert({**(row.keys or {}), "salt": row.salt or b""}, Keys)
    return SourceState(watermarks=watermarks, unknown_keys=tuple(row.unknown_keys), keys=keys, **known)


def with_digests(known: tuple[str, ...], names: Iterable[str], salt: bytes) -> tuple[str, ...]:
    """Return `known` and the salted digests of `names`, sorted; unchanged if `known` has `MAX_REPORTED_KEYS`."""
    if len(known) >= MAX_REPORTED_KEYS:
        return known
    return tuple(sorted({*known, *(key_digest(name, salt) for name in names)}))


def live_students(connection: Connection, source: str) -> int:
    """Return the number of living students in the replica of a source."""
    with connection.begin():
        return int(connection.scalar(_COUNT_LIVING, {"of": source}) or 0)


def some_living(connection: Connection, source: str, limit: int) -> list[int]:
    """Return the ids of at most `limit` living students. Their order looks random, so they are spread over the ids."""
    with connection.begin():
        return list(connection.scalars(_SOME_LIVING, {"of": source, "at_most": limit}))


def last(connection: Connection, source: str) -> int:
    """Return the number of a source's last run; 0 if the source has never run."""
    with connection.begin():
        return int(connection.scalar(select(func.max(_run.c.run_id)).where(_run.c.source == source)) or 0)


def recent_removals(connection: Connection, source: str, now: datetime) -> int:
    """Return the number of unapproved removals in the last 24 hours.

    A run that ended up to 24 hours after `now` counts as well, because our clock may have been set back since. If it
    ended later than that, our clock was wrong at that time, and the run does not count.
    """
    near = {"earliest": now - GUARD_WINDOW, "latest": now + GUARD_WINDOW}
    with connection.begin():
        return int(connection.scalar(_RECENT_REMOVALS, {"of": source, **near}) or 0)


def quarantined(connection: Connection, source: str, limit: int) -> list[int]:
    """Return at most `limit` ids in quarantine that this run has not received, the longest unseen first."""
    with connection.begin():
        return list(connection.scalars(_QUARANTINED, {"of": source, "at_most": limit}))


def open_hold(connection: Connection, run_id: int) -> Hold | None:
    """Return the held run `run_id`; None if it does not exist, or its plan is not open."""
    with connection.begin():
        row = connection.execute(
            select(_run.c.source, _run.c.kind).where(_run.c.run_id == run_id, PLAN_IS_OPEN)
        ).first()
    return row and Hold(run_id, row.source, RunKind(row.kind))


def planned_removals(connection: Connection, run_id: int) -> list[tuple[int, str, datetime | None]]:
    """Return the removals in the plan of a run: id, deletion source, and the time of the deletion if it is known."""
    with connection.begin():
        rows = connection.execute(
            select(held_removal.c.id, held_removal.c.deletion_source, held_removal.c.deleted_at).where(
                held_removal.c.run_id == run_id
            )
        )
        return [(row.id, row.deletion_source, row.deleted_at) for row in rows]


def held(connection: Connection, source: str) -> list[int]:
    """Return the ids of living students in open plans of incremental runs, except the stage's candidates."""
    with connection.begin():
        return list(connection.scalars(_HELD, {"of": source}))


def commit(lease: Lease, result: RunResult) -> int:
    """Write everything about a run in ONE transaction, or nothing, and return the run's number.

    A failed run is only recorded: students, watermarks and plans do not change. Raises `LockLost` if another process
    has become the source's writer, and `StoreError` if the database fails.
    """
    connection, run_id = lease.connection, None
    try:
        with writing(connection):
            lease.pass_fence()
            run_id = _record_run(connection, result)
            if result.report.state is not RunState.FAILED:
                _hold_or_apply(connection, result, run_id)
                _update_source(connection, lease.source, result)
                _end_holds(connection, result, run_id)
            requests.close(connection, result.request_id, run_id)
    except DatabaseUnreachable:
        # The connection may have failed after the server had committed. If so, the run is recorded.
        if run_id is None or not _is_recorded(connection.engine, run_id, result.report):
            raise
    students.analyze(connection, result.report.counts)
    return run_id


def _is_recorded(engine: Engine, run_id: int, report: RunReport) -> bool:
    """Return whether a run was committed, from a new connection. Raises `StoreError` if the database fails again.

    The server may still be committing. Until then the source's row is locked, because the commit has checked the fence.
    So we wait for that row first.
    """
    mine = (_run.c.run_id == run_id) & (_run.c.source == report.source) & (_run.c.started_at == report.started_at)
    with engine.connect() as connection, writing(connection):
        connection.execute(select(_source.c.name).where(_source.c.name == report.source).with_for_update())
        return connection.scalar(select(func.count()).select_from(_run).where(mine)) == 1


def _record_run(connection: Connection, result: RunResult) -> int:
    report = result.report
    figures = {name: getattr(report.counts, name) for name in Counts.__struct_fields__}
    row = {
        "source": report.source,
        "kind": str(report.kind),
        "state": str(report.state),
        "started_at": report.started_at,
        "finished_at": report.finished_at,
        "requests": report.requests,
        "retries": report.retries,
        "duration_s": report.duration_s,
        "modified_watermark": report.watermarks.modified,
        "deleted_watermark": report.watermarks.deleted,
        "error": report.error,
        "guarded": result.outcome.guarded,
        "notices": list(report.notices),
        "plan": "open" if result.outcome.holds else None,
    }
    return int(connection.execute(_RECORD, {**figures, **row}).scalar_one())


def _hold_or_apply(connection: Connection, result: RunResult, run_id: int) -> None:
    if result.outcome.holds:
        planned = select(text(str(run_id)), removals.c.id, removals.c.deletion_source, removals.c.deleted_at)
        wanted = planned.where(removals.c.planned.is_(False))
        connection.execute(insert(held_removal).from_select(["run_id", "id", "deletion_source", "deleted_at"], wanted))
        connection.execute(delete(removals).where(removals.c.planned.is_(False)))
    report = result.report
    details.let_wait(connection, report.source, result.outcome.source, now=report.finished_at)
    with head_count.kept(connection, report):
        students.apply(connection, report.source, report.counts, run_id=run_id, now=report.finished_at)
    details.apply(connection, report.source, result.outcome.source, now=report.finished_at)
    if result.outcome.swept:
        students.release_those_without_id(connection, report.source)


def _update_source(connection: Connection, source: str, result: RunResult) -> None:
    after = result.outcome.source
    known = {
        "modified_watermark": after.watermarks.modified,
        "deleted_watermark": after.watermarks.deleted,
        "last_clean_modified_at": after.last_clean_modified_at,
        "last_clean_full_at": after.last_clean_full_at,
        "history_starts_at": after.history_starts_at,
        "deleted_feed_ignored": after.deleted_feed_ignored,
        "unknown_keys": list(after.unknown_keys),
        "salt": after.salt,
        "fingerprint": after.fingerprint,
        "keys": _as_json(after.keys),
    }
    connection.execute(_UPDATE_SOURCE, {"of": source, **known})


def _as_json(keys: Keys) -> dict[str, Any]:
    """Return the keys without the salt, which has its own column."""
    known: dict[str, Any] = msgspec.to_builtins(keys, order="deterministic")
    return {name: value for name, value in known.items() if name != "salt"}


def _end_holds(connection: Connection, result: RunResult, run_id: int) -> None:
    """Close the plans that this run carried out or made pointless, and delete their removals."""
    if result.approves is not None:
        _close_plans(connection, [result.approves], "approved")
    if kinds := [str(kind) for kind in result.outcome.closes_plans]:
        others = {"of": result.report.source, "kinds": kinds, "this_run": run_id}
        _close_plans(connection, list(connection.scalars(_OPEN_PLANS, others)), "superseded")


def _close_plans(connection: Connection, run_ids: list[int], end: str) -> None:
    if run_ids:
        connection.execute(update(_run).where(_run.c.run_id.in_(run_ids)).values(plan=end))
        connection.execute(delete(held_removal).where(held_removal.c.run_id.in_(run_ids)))


def report(connection: Connection, run_id: int) -> RunReport:
    """Return a recorded run."""
    with connection.begin():
        row = connection.execute(select(_run).where(_run.c.run_id == run_id)).one()
    return _report(row)


def recent(connection: Connection, limit: int) -> list[RunReport]:
    """Return the newest runs, newest first."""
    with connection.begin():
        rows = connection.execute(select(_run).order_by(_run.c.run_id.desc()).limit(limit)).all()
    return [_report(row) for row in rows]


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
