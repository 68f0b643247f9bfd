"""Write the students of a run from the stage to the replica, inside the run's transaction.

New students are copied from the stage. If a student has changed, the stored row is copied to the table of superseded
versions and then replaced by the staged row. The statements are built only once, and use the parameters `run_source`,
`this_run` and `now`. docs/reference/statements.md shows the SQL.
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
from rostersync.store.database.own_schema import SCHEMA
from rostersync.store.database.statements import CHUNK, SOURCE, among_ids, upsert
from rostersync.store.database.types import JsonTuple, Timestamp
from rostersync.store.replica.comparison import VERDICT, Verdict, judged
from rostersync.store.schema.rows import NAMES, student_of
from rostersync.store.schema.tables import PAYLOAD, Op, quarantine, student, student_version
from rostersync.store.stage.queries import found
from rostersync.store.stage.tables import answers, candidates, records, staged
from rostersync.store.stage.terms import Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

    from rostersync.report import Counts

_RUN_ID = bindparam("this_run", type_=BigInteger)
_NOW = bindparam("now", type_=Timestamp)

_MINE = student.c.source == SOURCE
_REMOVED = and_(_MINE, student.c.id == candidates.c.id)

_NEW = judged(verdicts=(Verdict.INSERTED,))
_CHANGED = judged(
    *(table.c[name] for table in (student, records) for name in NAMES),
    VERDICT.label("verdict"),
    verdicts=(Verdict.UPDATED, Verdict.RESTORED),
)
_RECEIVED = {**{name: records.c[name] for name in PAYLOAD}, "content_hash": staged.c.content_hash}
_FACTS_OF_NEW = {
    "source": SOURCE,
    "id": staged.c.id,
    "first_seen_at": _NOW,
    "valid_from": _NOW,
    "op": literal(str(Op.INSERT), Text),
    "changed_fields": literal((), JsonTuple),
    "run_id": _RUN_ID,
}
_STAGED = staged.join(records, records.c.id == staged.c.id)
_INSERT = insert(student).from_select(
    [*_FACTS_OF_NEW, *_RECEIVED],
    select(*_FACTS_OF_NEW.values(), *_RECEIVED.values()).select_from(_STAGED).where(among_ids(staged.c.id)),
)
# The received record replaces the stored record entirely, and the two are not merged. If ManageBac stops serving a
# field, the stored field therefore becomes NULL.
_REPLACE = (
    update(student)
    .where(_MINE, student.c.id == staged.c.id, staged.c.id == records.c.id, among_ids(staged.c.id))
    .values({**_RECEIVED, "deleted_at": None, "deletion_source": None})
)

_ANALYZED = ("source", "id", "deleted_at", "status")  # the columns that occur in the conditions of queries and views

_DECODED = exists().where(staged.c.id == quarantine.c.id, staged.c.rejected.is_(None))
_GONE = exists().where(answers.c.id == quarantine.c.id, found(Found.GONE))
_STUDENT_IS_STORED = exists().where(_MINE, student.c.id == quarantine.c.id, student.c.deleted_at.is_(None))
_RELEASE_QUARANTINED = delete(quarantine).where(
    # If a student's removal is held, the student remains current, so the student's record stays in quarantine.
    quarantine.c.source == SOURCE,
    or_(_DECODED, and_(_GONE, ~_STUDENT_IS_STORED)),
)
_ASKED_IN_VAIN = exists().where(answers.c.id == quarantine.c.id, found(Found.UNANSWERED))
_REQUEUE_UNANSWERED = (  # moves unanswered records to the end of the queue, so the next run requests others first
    update(quarantine).where(quarantine.c.source == SOURCE, _ASKED_IN_VAIN).values(last_seen_at=_NOW)
)
_RELEASE_THOSE_WITHOUT_ID = delete(quarantine).where(
    quarantine.c.source == SOURCE, quarantine.c.id < 0, ~exists().where(staged.c.id == quarantine.c.id)
)


def apply(connection: Connection, source: str, counts: Counts, *, run_id: int, now: datetime) -> None:
    """Apply the stage's verdicts and removals to the replica. Call this function inside the run's transaction.

    `counts` contains the number of students for each verdict, and the statements for verdicts with the number 0 are
    skipped. A new version of a student begins at `now`. If our clock was set back, the new version instead begins one
    millisecond after the previous version began.
    """
    changes = _RunChanges(connection, {"run_source": source, "this_run": run_id, "now": now})
    if counts.updated or counts.restored:
        changes.replace_changed(counts.updated + counts.restored)
    if counts.inserted:
        changes.insert_new(counts.inserted)
    if counts.deleted:
        changes.make_tombstones()
    if counts.quarantined:
        changes.do(_quarantine(changes.dialect))
    changes.do(_RELEASE_QUARANTINED)
    changes.do(_REQUEUE_UNANSWERED)


def release_those_without_id(connection: Connection, source: str) -> None:
    """Delete from the quarantine all records without an id that this run did not receive.

    Call this function only after the run has completed a sweep.
    """
    connection.execute(_RELEASE_THOSE_WITHOUT_ID, {"run_source": source})


def analyze(connection: Connection, counts: Counts) -> None:
    """Analyse the table of students on PostgreSQL if a run has inserted many students.

    As long as the table has no statistics, PostgreSQL scans all students even to find a few. The server analyses the
    table automatically, but perhaps only after several runs. Only one session at a time can analyse a table. If this
    function were called inside the run's transaction, several sources that sync for the first time would wait for each
    other. Therefore, call this function only after the transaction has ended. To avoid waiting, the function does
    nothing if another session is analysing the table. A `StoreError` is ignored, because the run is already committed.
    """
    if counts.inserted > CHUNK and connection.dialect.name == "postgresql":
        with suppress(StoreError), connection.begin():
            connection.exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {SCHEMA}.{student.name} ({', '.join(_ANALYZED)})")


class _RunChanges:
    """Executes the statements that write the students of one run."""

    def __init__(self, connection: Connection, parameters: dict[str, Any]) -> None:
        self.dialect = connection.dialect.name
        self._connection = connection
        self._parameters = parameters

    def do(self, statement: Any, **parameters: Any) -> Any:
        return self._connection.execute(statement, {**self._parameters, **parameters})

    @contextmanager
    def _chunks(self, query: Select[Any], number: int) -> Iterator[Iterator[Sequence[Any]]]:
        """Execute a query whose result has `number` rows, and provide an iterator over the rows in chunks.

        If `number` is larger than `CHUNK`, the rows are fetched only when they are needed.
        """
        with self.do(query.execution_options(stream_results=number > CHUNK, max_row_buffer=CHUNK)) as rows:
            yield rows.partitions(CHUNK)

    def insert_new(self, number: int) -> None:
        """Insert the students who are not stored yet."""
        with self._chunks(_NEW, number) as chunks:
            for rows in chunks:
                # The statement selects the rows of new students by id. If the SELECT inside the INSERT read the table
                # `student`, SQLite would first copy all selected rows.
                self.do(_INSERT, ids=[row.id for row in rows])

    def replace_changed(self, number: int) -> None:
        """Replace the rows of changed and restored students, and keep the previous rows in the history.

        Every change, even to a volatile field, is written to the student's row. However, an update that changes only
        volatile fields, such as the time of the last login, does not begin a new version (see
        `records.changed_fields`).
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
                "new_op": str(Op.RESTORE if row.verdict == Verdict.RESTORED else Op.UPDATE),
                "new_changes": changes[row.id],
            }
            for row in rows
            if changes[row.id] or row.verdict == Verdict.RESTORED
        ]
        if versions:
            self.do(_supersede_changed(self.dialect), ids=[version["key"] for version in versions])
        self.do(_REPLACE, ids=list(changes))
        if versions:
            self._connection.execute(_begin_version(self.dialect), versions)

    def make_tombstones(self) -> None:
        """Turn the rows of all candidates for removal into tombstones."""
        supersede, tombstone = _remove(self.dialect)
        self.do(supersede)
        self.do(tombstone)


def _version_start(dialect: str) -> ColumnElement[Any]:
    """Return the SQL expression for the time when the new version of a stored student begins.

    A student's new version normally begins at `now`. If the stored version began at `now` or later, the new version
    begins 1 ms after the stored version began.
    """
    later = "strftime('%Y-%m-%dT%H:%M:%fZ', student.valid_from, '+0.001 seconds')"
    if dialect == "postgresql":
        later = "student.valid_from + interval '1 millisecond'"
    return case((student.c.valid_from < _NOW, _NOW), else_=text(later))


def _supersede(dialect: str, stored: Any, which: ColumnElement[bool]) -> Any:
    """Return the statement that copies stored rows to the table of superseded versions before the rows are changed."""
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
    """Return the two statements that remove students.

    The first statement copies the students' rows to the table of superseded versions. The second statement turns the
    rows into tombstones. A tombstone keeps the last known fields, because a row of the deleted feed may lack most
    fields.
    """
    given = select(answers.c.deleted_at).where(answers.c.id == candidates.c.id).scalar_subquery()
    facts = {
        "deleted_at": func.coalesce(candidates.c.deleted_at, given, _NOW),
        "deletion_source": candidates.c.deletion_source,
        "valid_from": _version_start(dialect),
        "op": str(Op.DELETE),
        "changed_fields": literal((), JsonTuple),
        "run_id": _RUN_ID,
    }
    both = student.join(candidates, _REMOVED)
    return _supersede(dialect, both, _MINE), update(student).where(_REMOVED).values(facts)


@cache
def _quarantine(dialect: str) -> Any:
    """Return the upsert that adds the undecodable records in the stage to the quarantine."""
    bad = select(SOURCE, staged.c.id, staged.c.rejected, _NOW, _NOW).where(staged.c.rejected.is_not(None))
    new = upsert(dialect, quarantine).from_select(["source", "id", "reason", "first_seen_at", "last_seen_at"], bad)
    again = {"reason": new.excluded.reason, "last_seen_at": new.excluded.last_seen_at}
    return new.on_conflict_do_update(index_elements=["source", "id"], set_=again)
