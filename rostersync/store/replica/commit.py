"""Commit everything that a run writes, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select, text, update

from rostersync.errors import DatabaseUnreachable
from rostersync.report import Counts, RunOutcome, RunReport, RunState
from rostersync.store.database.engine import writing
from rostersync.store.queue import requests
from rostersync.store.replica import details, head_count, students
from rostersync.store.schema.tables import PLAN_IS_OPEN, PlanState, held_removal
from rostersync.store.schema.tables import run as _run
from rostersync.store.schema.tables import source as _source
from rostersync.store.stage.tables import candidates

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, Connection, Engine

    from rostersync.projections import Keys
    from rostersync.store.queue.lock import Lease
    from rostersync.store.stage import Stage

# Each statement is built only once, because building a statement takes longer than executing it.

_OF: BindParameter[Any] = bindparam("of")

_RECORD = insert(_run).returning(_run.c.run_id)
_UPDATE_SOURCE = update(_source).where(_source.c.name == _OF)
_OPEN_PLANS = (
    select(_run.c.run_id)
    .where(_run.c.source == _OF, _run.c.kind.in_(bindparam("kinds", expanding=True)), PLAN_IS_OPEN)
    .where(_run.c.run_id != bindparam("this_run"))
)


class RunResult(msgspec.Struct, frozen=True):
    """Everything that a run writes to the database, except the rows from the stage."""

    report: RunReport
    outcome: RunOutcome
    request_id: int
    approves: int | None = None
    """The id of the held run whose approved plan this run carries out, or None if no plan was approved."""


def commit(lease: Lease, stage: Stage, result: RunResult) -> int:
    """Write everything about a run in a single transaction, and return the run's id.

    If the run has failed, the transaction only records the run, and does not change students, watermarks or plans.
    Raises `LockLost` if another process now holds the source's lock. Raises `StoreError` if the database fails.
    """
    connection, run_id = lease.connection, None
    try:
        with writing(connection):
            lease.pass_fence()
            run_id = _record_run(connection, result)
            if result.report.state is not RunState.FAILED:
                _hold_or_apply(stage, result, run_id)
                _update_source(connection, lease.source, result)
                _end_holds(connection, result, run_id)
            requests.close(connection, result.request_id, run_id)
    except DatabaseUnreachable:
        # The connection has failed, but the server may already have committed the transaction. If it has, the run is
        # recorded, and the failure of the connection does not matter.
        if run_id is None or not _is_recorded(connection.engine, run_id, result.report):
            raise
    students.analyze(connection, result.report.counts)
    return run_id


def _is_recorded(engine: Engine, run_id: int, report: RunReport) -> bool:
    """Return whether a run was committed. Raises `StoreError` if the database fails a second time.

    This function opens a new connection. The server may still be committing the transaction. The transaction keeps the
    source's row locked until it ends, because it has checked the fence. This function therefore waits until it can lock
    the source's row.
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
        "plan": str(PlanState.OPEN) if result.outcome.holds else None,
    }
    return int(connection.execute(_RECORD, {**figures, **row}).scalar_one())


def _hold_or_apply(stage: Stage, result: RunResult, run_id: int) -> None:
    """Write the plan of a run that holds removals, and then the students of the run.

    After the first step, the remaining candidates are the removals to carry out. The order of the other steps matters:
    see `details.let_wait` and `details.apply`.
    """
    connection, report = stage.session.connection, result.report
    if result.outcome.holds:
        planned = select(text(str(run_id)), candidates.c.id, candidates.c.deletion_source, candidates.c.deleted_at)
        wanted = planned.where(candidates.c.planned.is_(False))
        connection.execute(insert(held_removal).from_select(["run_id", "id", "deletion_source", "deleted_at"], wanted))
        connection.execute(delete(candidates).where(candidates.c.planned.is_(False)))
    details.let_wait(stage, result.outcome.source, now=report.finished_at)
    with head_count.kept(connection, report):
        students.apply(connection, report.source, report.counts, run_id=run_id, now=report.finished_at)
    details.apply(stage, result.outcome.source, now=report.finished_at)
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
    """Return the keys in a form that can be encoded as JSON. The salt is left out, because it has its own column."""
    known: dict[str, Any] = msgspec.to_builtins(keys, order="deterministic")
    return {name: value for name, value in known.items() if name != "salt"}


def _end_holds(connection: Connection, result: RunResult, run_id: int) -> None:
    """Close the plans that this run has carried out or made obsolete, and delete their lists of held removals."""
    if result.approves is not None:
        _close_plans(connection, [result.approves], PlanState.APPROVED)
    if kinds := [str(kind) for kind in result.outcome.closes_plans]:
        others = {"of": result.report.source, "kinds": kinds, "this_run": run_id}
        _close_plans(connection, list(connection.scalars(_OPEN_PLANS, others)), PlanState.SUPERSEDED)


def _close_plans(connection: Connection, run_ids: list[int], end: PlanState) -> None:
    if run_ids:
        connection.execute(update(_run).where(_run.c.run_id.in_(run_ids)).values(plan=str(end)))
        connection.execute(delete(held_removal).where(held_removal.c.run_id.in_(run_ids)))
