"""Write the details of a run to the database, in the run's transaction.

A detail contains the keys that only GET serves (see `rostersync.projections`). docs/reference/statements.md shows the
SQL.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, bindparam, case, delete, exists, false, or_, select, update

from rostersync.store.database.statements import SOURCE, upsert
from rostersync.store.database.types import Timestamp
from rostersync.store.schema.tables import student_detail
from rostersync.store.stage.details import IS_NEWER, IS_USED
from rostersync.store.stage.queries import ALIVE, found, lives
from rostersync.store.stage.tables import answers, candidates, details, staged
from rostersync.store.stage.terms import Found

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.report import SourceState
    from rostersync.store.stage import Stage

_NOW = bindparam("now", type_=Timestamp)
_NEEDED = bindparam("needed", type_=Boolean)
_MINE = student_detail.c.source == SOURCE
_FACTS = ("record", "updated_ms", "settled", "read_at", "waiting_since")


def let_wait(stage: Stage, after: SourceState, *, now: datetime) -> None:
    """Mark details so that a later run reads them again.

    A detail is marked if the student's list row is newer (or may be newer) and GET has not returned the student in this
    run. Call this function before writing the run's students.

    Args:
        stage: The stage of the run. The run's transaction must be open on the stage's connection.
        after: The state of the source after the run.
        now: The time at which the run ended (UTC).

    """
    if after.has_details:
        needed = bool(after.keys.detail)
        stage.session.connection.execute(_LET_WAIT, {"run_source": stage.session.source, "now": now, "needed": needed})


def apply(stage: Stage, after: SourceState, *, now: datetime) -> None:
    """Write the details of a run to the database. Call this function after writing the run's students.

    The parameters are the same as for `let_wait`.
    """
    needed = bool(after.keys.detail)
    session = stage.session
    if not needed and not after.has_details and session.is_empty(details):
        return  # for this school, as for nearly every school, lists serve all keys
    parameters = {"run_source": session.source, "now": now, "needed": needed}
    for statement in (_DROP_GONE, _put(session.dialect), _DROP_UNUSED, _requeue(session.dialect)):
        session.connection.execute(statement, parameters)


_DROP_GONE = delete(student_detail).where(_MINE, exists().where(candidates.c.id == student_detail.c.id))
_DROP_UNUSED = delete(student_detail).where(_MINE, ~IS_USED)


@cache
def _put(dialect: str) -> Any:
    """Return the upsert that writes the staged details to the database."""
    rows = select(SOURCE, details.c.id, *(details.c[name] for name in _FACTS))
    living = rows.where(lives(details.c.id), or_(details.c.record.is_not(None), _NEEDED, _is_stored(details.c.id)))
    new = upsert(dialect, student_detail).from_select(["source", "id", *_FACTS], living)
    facts: dict[str, Any] = {name: new.excluded[name] for name in _FACTS}
    # If this run did not read the detail, the staged detail is a copy of the stored detail, perhaps with fewer keys.
    # `let_wait` may have changed `waiting_since` in the database since the copy was made, so keep the stored value.
    was_read = new.excluded.read_at.is_distinct_from(student_detail.c.read_at)
    facts["waiting_since"] = case((was_read, new.excluded.waiting_since), else_=student_detail.c.waiting_since)
    return new.on_conflict_do_update(index_elements=["source", "id"], set_=facts)


@cache
def _requeue(dialect: str) -> Any:
    """Return the upsert that moves students whose GET response was unusable to the end of the queue."""
    asked = select(SOURCE, answers.c.id, false(), _NOW).where(found(Found.UNANSWERED), lives(answers.c.id))
    chosen = asked.where(or_(_NEEDED, _is_stored(answers.c.id)))
    new = upsert(dialect, student_detail).from_select(["source", "id", "settled", "waiting_since"], chosen)
    return new.on_conflict_do_update(
        index_elements=["source", "id"], set_={"waiting_since": new.excluded.waiting_since}
    )


def _is_stored(key: Any) -> Any:
    return exists().where(_MINE, student_detail.c.id == key)


_WAS_READ = exists().where(answers.c.id == staged.c.id, answers.c.record.is_not(None))
_ROW_IS_NEWER = exists().where(ALIVE, staged.c.id == student_detail.c.id, IS_NEWER, ~_WAS_READ)
_LET_WAIT = (
    update(student_detail)
    .where(_MINE, student_detail.c.waiting_since.is_(None), IS_USED, _ROW_IS_NEWER)
    .values(waiting_since=_NOW)
)
