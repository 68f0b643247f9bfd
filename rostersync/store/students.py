"""From the stage into the tables: what a run's one transaction changes of students.

A new student is copied from the stage. The stored row of a changed student becomes a superseded version; then the
student's staged row replaces it. `source`, `run_id` and `now` are parameters of the statements, which are made once.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Text,
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

from rostersync.errors import StoreError
from rostersync.records import changed_fields
from rostersync.store.comparison import VERDICT, judged
from rostersync.store.own_schema import SCHEMA
from rostersync.store.rows import NAMES, student_of
from rostersync.store.stage.tables import answers, records, removals, staged
from rostersync.store.statements import CHUNK, SOURCE, among_ids, upsert
from rostersync.store.tables import PAYLOAD, quarantine, student, student_version
from rostersync.store.types import JsonTuple, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

    from rostersync.report import Counts

_RUN_ID = bindparam("this_run", type_=BigInteger)
_NOW = bindparam("now", type_=Timestamp)

_MINE = student.c.source == SOURCE
_REMOVED = and_(_MINE, student.c.id == removals.c.id)

_NEW = judged(verdicts=("inserted",))
_CHANGED = judged(
    *(table.c[name] for table in (student, records) for name in NAMES),
    VERDICT.label("verdict"),
    verdicts=("updated", "restored"),
)
_RECEIVED = {**{name: records.c[name] for name in PAYLOAD}, "content_hash": staged.c.content_hash}
_FACTS_OF_NEW = {
    "source": SOURCE,
    "id": staged.c.id,
    "first_seen_at": _NOW,
    "valid_from": _NOW,
    "op": literal("insert", Text),
    "changed_fields": literal((), JsonTuple),
    "run_id": _RUN_ID,
}
_STAGED = staged.join(records, records.c.id == staged.c.id)
_INSERT = insert(student).from_select(
    [*_FACTS_OF_NEW, *_RECEIVED],
    select(*_FACTS_OF_NEW.values(), *_RECEIVED.values()).select_from(_STAGED).where(among_ids(staged.c.id)),
)
# What was received replaces what is stored, and is not merged with it: what is absent upstream becomes NULL.
_REPLACE = (
    update(student)
    .where(_MINE, student.c.id == staged.c.id, staged.c.id == records.c.id, among_ids(staged.c.id))
    .values({**_RECEIVED, "deleted_at": None, "deletion_source": None})
)

_ANALYZED = ("source", "id", "deleted_at", "status")  # what the program's own queries and its views ask for

_DECODED = exists().where(staged.c.id == quarantine.c.id, staged.c.rejected.is_(None))
_GONE = exists().where(answers.c.id == quarantine.c.id, answers.c.answer == "gone")
_STORED = exists().where(_MINE, student.c.id == quarantine.c.id, student.c.deleted_at.is_(None))
_RELEASE_QUARANTINED = delete(quarantine).where(  # whose removal is held is stored as living, and stays
    quarantine.c.source == SOURCE, or_(_DECODED, and_(_GONE, ~_STORED))
)
_ASKED_IN_VAIN = exists().where(answers.c.id == quarantine.c.id, answers.c.answer == "unanswered")
_REQUEUE_UNANSWERED = (  # so that they wait behind the others
    update(quarantine).where(quarantine.c.source == SOURCE, _ASKED_IN_VAIN).values(last_seen_at=_NOW)
)
_RELEASE_THOSE_WITHOUT_ID = delete(quarantine).where(
    quarantine.c.source == SOURCE, quarantine.c.id < 0, ~exists().where(staged.c.id == quarantine.c.id)
)


def apply(connection: Connection, source: str, counts: Counts, *, run_id: int, now: datetime) -> None:
    """Carry out the stage's verdicts and removals, of which there are so many. Call it inside the run's transaction.

    A version begins at `now`, or a millisecond after the student's previous one where our clock has gone back.
    """
    write = _Write(connection, {"run_source": source, "this_run": run_id, "now": now})
    if counts.updated or counts.restored:
        write.changed(counts.updated + counts.restored)
    if counts.inserted:
        write.new(counts.inserted)
    if counts.deleted:
        write.removals()
    if counts.quarantined:
        write.do(_quarantine(write.dialect))
    write.do(_RELEASE_QUARANTINED)
    write.do(_REQUEUE_UNANSWERED)


def release_those_without_id(connection: Connection, source: str) -> None:
    """Let go of the records without an id that a clean full crawl no longer showed."""
    connection.execute(_RELEASE_THOSE_WITHOUT_ID, {"run_source": source})


def analyze(connection: Connection, counts: Counts) -> None:
    """Have PostgreSQL gather the statistics of a table that a run has filled. Call it after the run's transaction.

    Until the server does it by itself, the next runs would read all students to find a few of them. Inside the
    transaction the first loads of several sources would wait for each other: one session analyses a table at a time.
    So this one leaves it to another session that is doing it. The run has been committed, so no error is raised.
    """
    if counts.inserted > CHUNK and connection.dialect.name == "postgresql":
        with suppress(StoreError), connection.begin():
            connection.exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {SCHEMA}.{student.name} ({', '.join(_ANALYZED)})")


class _Write:
    """The statements of one run's transaction."""

    def __init__(self, connection: Connection, parameters: dict[str, Any]) -> None:
        self.dialect = connection.dialect.name
        self._connection = connection
        self._parameters = parameters

    def do(self, statement: Any, **parameters: Any) -> Any:
        return self._connection.execute(statement, {**self._parameters, **parameters})

    @contextmanager
    def _chunks(self, query: Select[Any], number: int) -> Iterator[Iterator[Sequence[Any]]]:
        """Run a query once, and lend what fetches its `number` of rows in chunks; where they are many, as needed."""
        with self.do(query.execution_options(stream_results=number > CHUNK, max_row_buffer=CHUNK)) as rows:
            yield rows.partitions(CHUNK)

    def new(self, number: int) -> None:
        """Insert whoever is not stored at all."""
        with self._chunks(_NEW, number) as chunks:
            for rows in chunks:
                # By ids: if the query of an insert read the students, SQLite would copy all its rows first.
                self.do(_INSERT, ids=[row.id for row in rows])

    def changed(self, number: int) -> None:
        """Replace whoever is stored otherwise, with a version of what was.

        Any change is written. It makes a version when it is more than a login or a newly signed avatar address, which
        are no events in a student's life.
        """
        with self._chunks(_CHANGED, number) as chunks:
            for rows in chunks:
                self._replace(rows)

    def _replace(self, rows: Sequence[Any]) -> None:
        changes = {row.id: changed_fields(student_of(row, 1), student_of(row, 1 + len(NAMES))) for row in rows}
        versions = [
            {
                **self._parameters,
                "key": row.id,
                "new_op": "restore" if row.verdict == "restored" else "update",
                "new_changes": changes[row.id],
            }
            for row in rows
            if changes[row.id] or row.verdict == "restored"
        ]
        if versions:
            self.do(_supersede_changed(self.dialect), ids=[version["key"] for version in versions])
        self.do(_REPLACE, ids=list(changes))
        if versions:
            self._connection.execute(_begin_version(self.dialect), versions)

    def removals(self) -> None:
        """Make tombstones of those whose removal is proved, or approved."""
        supersede, tombstone = _remove(self.dialect)
        self.do(supersede)
        self.do(tombstone)


def _version_start(dialect: str) -> ColumnElement[Any]:
    """Return when the new version of a stored student begins: max(now, the previous one's start + 1 ms)."""
    later = "strftime('%Y-%m-%dT%H:%M:%fZ', student.valid_from, '+0.001 seconds')"
    if dialect == "postgresql":
        later = "student.valid_from + interval '1 millisecond'"
    return case((student.c.valid_from < _NOW, _NOW), else_=text(later))


def _supersede(dialect: str, stored: Any, which: ColumnElement[bool]) -> Any:
    """Copy the stored rows that are about to change to the superseded versions."""
    begins = _version_start(dialect)
    columns = [column.name for column in student_version.c]
    values = (begins if name == "valid_to" else student.c[name] for name in columns)
    return insert(student_version).from_select(columns, select(*values).select_from(stored).where(which))


@cache
def _supersede_changed(dialect: str) -> Any:
    return _supersede(dialect, student, and_(_MINE, among_ids(student.c.id)))


@cache
def _begin_version(dialect: str) -> Any:
    facts = {
        "valid_from": _version_start(dialect),
        "op": bindparam("new_op", type_=Text),
        "changed_fields": bindparam("new_changes", type_=JsonTuple),
        "run_id": _RUN_ID,
    }
    return update(student).where(_MINE, student.c.id == bindparam("key", type_=BigInteger)).values(facts)


@cache
def _remove(dialect: str) -> tuple[Any, Any]:
    """Return what copies the removed to the versions, and what makes tombstones of them.

    Their last known fields stay, for rows of the deleted feed may be stubs.
    """
    given = select(answers.c.deleted_at).where(answers.c.id == removals.c.id).scalar_subquery()
    facts = {
        "deleted_at": func.coalesce(removals.c.deleted_at, given, _NOW),
        "deletion_source": removals.c.deletion_source,
        "valid_from": _version_start(dialect),
        "op": "delete",
        "changed_fields": literal((), JsonTuple),
        "run_id": _RUN_ID,
    }
    both = student.join(removals, _REMOVED)
    return _supersede(dialect, both, _MINE), update(student).where(_REMOVED).values(facts)


@cache
def _quarantine(dialect: str) -> Any:
    """Put into quarantine what could not be decoded."""
    bad = select(SOURCE, staged.c.id, staged.c.rejected, _NOW, _NOW).where(staged.c.rejected.is_not(None))
    new = upsert(dialect, quarantine).from_select(["source", "id", "reason", "first_seen_at", "last_seen_at"], bad)
    again = {"reason": new.excluded.reason, "last_seen_at": new.excluded.last_seen_at}
    return new.on_conflict_do_update(index_elements=["source", "id"], set_=again)
