"""From the stage into the tables: the statements of a run's one transaction that change students.

They have some sixty columns each and are made once; `source`, `run_id` and `now` are their parameters.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from rostersync.store.models import PAYLOAD, Quarantine, student, student_version
from rostersync.store.stage.tables import answers, removals, staged
from rostersync.store.statements import SOURCE
from rostersync.store.types import JsonTuple, Timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from rostersync.report import Counts

_RUN_ID = bindparam("this_run", type_=BigInteger)
_NOW = bindparam("now", type_=Timestamp)

_MINE = and_(student.c.source == SOURCE, student.c.id == staged.c.id)
_CHANGED = and_(_MINE, staged.c.verdict.in_(("updated", "restored")))
_VERSIONED = or_(staged.c.versioned, staged.c.verdict == "restored")
_REMOVED = and_(student.c.source == SOURCE, student.c.id == removals.c.id)

_RELEASE_THOSE_WITHOUT_ID = delete(Quarantine).where(
    Quarantine.source == SOURCE, Quarantine.id < 0, ~exists().where(staged.c.id == Quarantine.id)
)


def apply(connection: Connection, source: str, counts: Counts, *, run_id: int, now: datetime) -> None:
    """Carry out the stage's verdicts and removals, of which there are so many. Call it inside the run's transaction.

    A version begins at `now`, or a millisecond after the student's previous one where our clock has gone back.
    """
    parameters = {"run_source": source, "this_run": run_id, "now": now}
    for concerned, statements in _statements(connection.dialect.name).items():
        if any(getattr(counts, name) for name in concerned) or not concerned:
            for statement in statements:
                connection.execute(statement, parameters)


def release_those_without_id(connection: Connection, source: str) -> None:
    """Let go of the records without an id that a clean full crawl no longer showed."""
    connection.execute(_RELEASE_THOSE_WITHOUT_ID, {"run_source": source})


@cache
def _statements(dialect: str) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Return the statements by what there must be some of; the last ones are always needed."""
    begins = _version_start(dialect)
    return {
        ("updated", "restored"): (_supersede(begins, and_(_CHANGED, _VERSIONED), staged), _update_changed(begins)),
        ("inserted",): (_insert_new(),),
        ("deleted",): (_supersede(begins, _REMOVED, removals), _tombstone(begins)),
        ("quarantined",): (_quarantine(dialect),),
        (): (_release_quarantined(), _requeue_unanswered()),
    }


def _version_start(dialect: str) -> ColumnElement[Any]:
    """Return when the new version of a stored student begins: max(now, the previous one's start + 1 ms)."""
    later = "strftime('%Y-%m-%dT%H:%M:%fZ', student.valid_from, '+0.001 seconds')"
    if dialect == "postgresql":
        later = "student.valid_from + interval '1 millisecond'"
    return case((student.c.valid_from < _NOW, _NOW), else_=text(later))


def _supersede(begins: ColumnElement[Any], which: ColumnElement[bool], stage: Any) -> Any:
    """Copy the stored rows that are about to change to the superseded versions."""
    columns = [column.name for column in student_version.c]
    stored = (begins if name == "valid_to" else student.c[name] for name in columns)
    return insert(student_version).from_select(columns, select(*stored).join_from(student, stage, which))


def _update_changed(begins: ColumnElement[Any]) -> Any:
    """Replace, never merge: what is absent upstream becomes NULL."""
    values: dict[str, Any] = {name: staged.c[name] for name in (*PAYLOAD, "content_hash")}
    values |= {"deleted_at": None, "deletion_source": None}
    facts = {
        "valid_from": begins,
        "op": case((staged.c.verdict == "restored", "restore"), else_="update"),
        "changed_fields": staged.c.changed_fields,
        "run_id": _RUN_ID,
    }
    values |= {name: case((_VERSIONED, value), else_=student.c[name]) for name, value in facts.items()}
    return update(student).where(_CHANGED).values(values)


def _insert_new() -> Any:
    facts: dict[str, Any] = {
        "source": SOURCE,
        "id": staged.c.id,
        **{name: staged.c[name] for name in (*PAYLOAD, "content_hash")},
        "first_seen_at": _NOW,
        "valid_from": _NOW,
        "op": literal("insert"),
        "changed_fields": literal((), JsonTuple),
        "run_id": _RUN_ID,
    }
    return insert(student).from_select(list(facts), select(*facts.values()).where(staged.c.verdict == "inserted"))


def _tombstone(begins: ColumnElement[Any]) -> Any:
    """Make tombstones: the last known fields stay, for rows of the deleted feed may be stubs."""
    given = select(answers.c.deleted_at).where(answers.c.id == removals.c.id).scalar_subquery()
    facts = {
        "deleted_at": func.coalesce(removals.c.deleted_at, given, _NOW),
        "deletion_source": removals.c.deletion_source,
        "valid_from": begins,
        "op": "delete",
        "changed_fields": literal((), JsonTuple),
        "run_id": _RUN_ID,
    }
    return update(student).where(_REMOVED).values(facts)


def _quarantine(dialect: str) -> Any:
    """Put into quarantine what could not be decoded."""
    make = sqlite.insert if dialect == "sqlite" else postgresql.insert
    bad = select(SOURCE, staged.c.id, staged.c.rejected, _NOW, _NOW).where(staged.c.verdict == "quarantined")
    new = make(Quarantine).from_select(["source", "id", "reason", "first_seen_at", "last_seen_at"], bad)
    again = {"reason": new.excluded.reason, "last_seen_at": new.excluded.last_seen_at}
    return new.on_conflict_do_update(index_elements=["source", "id"], set_=again)


def _release_quarantined() -> Any:
    """Let go of what decodes now, and of what is gone: but not of those whose removal is held, who are still living."""
    decoded = exists().where(staged.c.id == Quarantine.id, staged.c.verdict != "quarantined")
    gone = exists().where(answers.c.id == Quarantine.id, answers.c.answer == "gone")
    living = exists().where(student.c.source == SOURCE, student.c.id == Quarantine.id, student.c.deleted_at.is_(None))
    return delete(Quarantine).where(Quarantine.source == SOURCE, or_(decoded, and_(gone, ~living)))


def _requeue_unanswered() -> Any:
    """Let those in quarantine who were asked for in vain wait behind the others."""
    asked = exists().where(answers.c.id == Quarantine.id, answers.c.answer == "unanswered")
    return update(Quarantine).where(Quarantine.source == SOURCE, asked).values(last_seen_at=_NOW)
