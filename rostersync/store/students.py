"""From the stage into the tables: the statements of a run's one transaction that change students."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, delete, exists, func, insert, literal, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from rostersync.records import FIELD_NAMES
from rostersync.store.models import Quarantine, student, student_version
from rostersync.store.stage import proof, removal, sighted
from rostersync.store.types import JsonTuple, Timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

_PAYLOAD = (*FIELD_NAMES, "extra")


def apply(connection: Connection, source: str, *, run_id: int, now: datetime) -> None:
    """Carry out the stage's verdicts and removals. Call it inside the run's transaction.

    A version begins at `now`, or a millisecond after the student's previous one where our clock has gone back.
    """
    for statement in _statements(connection, source, run_id, now):
        connection.execute(statement)


def _statements(connection: Connection, source: str, run_id: int, now: datetime) -> list[Any]:
    begins = _version_start(connection.dialect.name, now)
    matched = and_(student.c.source == source, student.c.id == sighted.c.id)
    changed = and_(matched, sighted.c.verdict.in_(("updated", "restored")))
    versioned = or_(sighted.c.versioned, sighted.c.verdict == "restored")
    removed = and_(student.c.source == source, student.c.id == removal.c.id)
    return [
        _supersede(select(student, begins.label("valid_to")).join(sighted, and_(changed, versioned))),
        _update_changed(changed, versioned, begins, run_id),
        _insert_new(source, run_id, now),
        _supersede(select(student, begins.label("valid_to")).join(removal, removed)),
        _bury(removed, begins, run_id, now),
        *_quarantine(connection, source, now),
    ]


def _version_start(dialect: str, now: datetime) -> ColumnElement[Any]:
    """Return when the new version of a stored student begins: max(now, his previous one's start + 1 ms)."""
    later = "strftime('%Y-%m-%dT%H:%M:%fZ', student.valid_from, '+0.001 seconds')"
    if dialect == "postgresql":
        later = "student.valid_from + interval '1 millisecond'"
    moment = literal(now, Timestamp)
    return case((student.c.valid_from < moment, moment), else_=text(later))


def _supersede(rows: Any) -> Any:
    """Copy the stored rows that are about to change to the superseded versions."""
    stored = rows.subquery()
    columns = [column.name for column in student_version.c]
    return insert(student_version).from_select(columns, select(*(stored.c[name] for name in columns)))


def _update_changed(
    changed: ColumnElement[bool], versioned: ColumnElement[bool], begins: ColumnElement[Any], run_id: int
) -> Any:
    """Replace, never merge: what is absent upstream becomes NULL."""
    values: dict[str, Any] = {name: sighted.c[name] for name in (*_PAYLOAD, "content_hash")}
    values |= {"deleted_at": None, "deletion_source": None}
    restored = sighted.c.verdict == "restored"
    facts = {
        "valid_from": begins,
        "op": case((restored, "restore"), else_="update"),
        "changed_fields": sighted.c.changed_fields,
        "run_id": literal(run_id),
    }
    values |= {name: case((versioned, value), else_=student.c[name]) for name, value in facts.items()}
    return update(student).where(changed).values(values)


def _insert_new(source: str, run_id: int, now: datetime) -> Any:
    facts: dict[str, Any] = {
        "source": literal(source),
        "id": sighted.c.id,
        **{name: sighted.c[name] for name in (*_PAYLOAD, "content_hash")},
        "first_seen_at": literal(now, Timestamp),
        "valid_from": literal(now, Timestamp),
        "op": literal("insert"),
        "changed_fields": literal((), JsonTuple),
        "run_id": literal(run_id),
    }
    rows = select(*(value.label(name) for name, value in facts.items())).where(sighted.c.verdict == "inserted")
    return insert(student).from_select(list(facts), rows)


def _bury(removed: ColumnElement[bool], begins: ColumnElement[Any], run_id: int, now: datetime) -> Any:
    """Make tombstones: the last known fields stay, for rows of the deleted feed may be stubs."""
    return (
        update(student)
        .where(removed)
        .values(
            deleted_at=func.coalesce(removal.c.deleted_at, literal(now, Timestamp)),
            deletion_source=removal.c.deletion_source,
            valid_from=begins,
            op="delete",
            changed_fields=literal((), JsonTuple),
            run_id=run_id,
        )
    )


def _quarantine(connection: Connection, source: str, now: datetime) -> list[Any]:
    """Take in what could not be decoded; let go what decodes now, and what is gone."""
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    moment = literal(now, Timestamp)
    bad = select(literal(source), sighted.c.id, sighted.c.rejected, moment, moment)
    new = make(Quarantine).from_select(
        ["source", "id", "reason", "first_seen_at", "last_seen_at"], bad.where(sighted.c.verdict == "quarantined")
    )
    mine = Quarantine.source == source
    decoded = exists().where(sighted.c.id == Quarantine.id, sighted.c.verdict != "quarantined")
    gone = exists().where(proof.c.id == Quarantine.id, proof.c.answer == "gone")
    return [
        new.on_conflict_do_update(
            index_elements=["source", "id"], set_={"reason": new.excluded.reason, "last_seen_at": moment}
        ),
        delete(Quarantine).where(mine, or_(decoded, gone)),
    ]


def release_nameless(connection: Connection, source: str) -> None:
    """Let go of the records without an id that a clean full crawl no longer showed."""
    still = exists().where(sighted.c.id == Quarantine.id)
    connection.execute(delete(Quarantine).where(Quarantine.source == source, Quarantine.id < 0, ~still))
