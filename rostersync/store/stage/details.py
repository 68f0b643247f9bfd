"""Combine the list row, the GET response and the stored row of each student into one staged record.

`rostersync.projections` explains how the records are combined. The methods in this module read and
write the rows:

* `due` returns the students whom the run should request by GET.
* `compare` and `support` determine from the GET responses which keys lists and GET serve.
* `combine` replaces the staged record of each student who has a detail with the combined record. A run calls this
  method after all its GET requests.

The details are in the stage's table `details` until the run commits. docs/reference/statements.md shows the SQL of the
queries.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Boolean, Integer, and_, bindparam, delete, exists, func, insert, or_, select

from rostersync.clock import EPOCH
from rostersync.projections import Records, are_of_one_time, as_served, combine, fetch, is_older, keys_of, list_record
from rostersync.records import Student, content_hash, decode, encode
from rostersync.store.database.statements import SOURCE, among_ids, chunk
from rostersync.store.database.types import Timestamp
from rostersync.store.schema.rows import NAMES, milliseconds, student_of
from rostersync.store.schema.tables import student, student_detail
from rostersync.store.stage import tables
from rostersync.store.stage.queries import ALIVE, LIVING, STORED
from rostersync.store.stage.tables import answers, details, records, staged
from rostersync.store.stage.terms import Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select, Table

    from rostersync.projections import Keys
    from rostersync.store.stage.byte_limit import ByteLimit
    from rostersync.store.stage.session import StageSession

_NEEDED = bindparam("needed", type_=Boolean)
_AT_MOST = bindparam("at_most", type_=Integer)

_DETAIL = and_(student_detail.c.source == SOURCE, student_detail.c.id == staged.c.id)
_DETAIL_OF_STORED = and_(student_detail.c.source == student.c.source, student_detail.c.id == student.c.id)

IS_NEWER: ColumnElement[bool] = or_(
    student_detail.c.updated_ms.is_distinct_from(staged.c.updated_ms),
    ~student_detail.c.settled,
    # A list row without an `updated_at` is considered newer if any of its fields has changed.
    and_(staged.c.updated_ms.is_(None), exists().where(STORED, student.c.content_hash != staged.c.content_hash)),
)
"""The SQL condition that is true if a staged list row is newer than the stored detail, or may be newer."""

IS_USED: ColumnElement[bool] = or_(student_detail.c.record.is_not(None), _NEEDED)
"""The SQL condition that is true if a stored detail is in use.

A detail is in use if it has keys or if every student of the source needs a detail.
"""


def _open(key: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the SQL condition that is true if this run may still request a student by GET.

    A run may request a student if it has neither requested the student nor staged the student's removal.
    """
    return and_(~_was_asked(key), ~exists().where(tables.candidates.c.id == key))


def _was_asked(key: ColumnElement[int]) -> ColumnElement[bool]:
    return exists().where(answers.c.id == key)


_STORED_STUDENTS = select(student.c.id).outerjoin_from(student, student_detail, _DETAIL_OF_STORED)
_WAITING = (
    _STORED_STUDENTS.where(LIVING, _open(student.c.id))
    .where(or_(student_detail.c.waiting_since.is_not(None), and_(student_detail.c.id.is_(None), _NEEDED)))
    .order_by(func.coalesce(student_detail.c.waiting_since, student.c.first_seen_at), student.c.id)
    .limit(_AT_MOST)
)
_NEWER = (
    select(staged.c.id)
    .outerjoin_from(staged, student_detail, _DETAIL)
    .where(ALIVE, _open(staged.c.id))
    .where(
        or_(
            and_(~exists().where(STORED, student.c.deleted_at.is_(None)), _NEEDED),
            and_(student_detail.c.id.is_not(None), student_detail.c.waiting_since.is_(None), IS_USED, IS_NEWER),
        )
    )
    .order_by(staged.c.id)
    .limit(_AT_MOST)
)
_OLD = (
    _STORED_STUDENTS.where(LIVING, _open(student.c.id), student_detail.c.waiting_since.is_(None))
    .where(student_detail.c.read_at < bindparam("read_before", type_=Timestamp))
    .order_by(student_detail.c.read_at, student.c.id)
    .limit(_AT_MOST)
)

_REFRESHED = (
    select(staged.c.id)
    .outerjoin_from(staged, student_detail, _DETAIL)
    .where(ALIVE, among_ids(staged.c.id), ~_was_asked(staged.c.id), IS_USED)
    .order_by(staged.c.id)
)

_ASKED = select(answers.c.id).where(among_ids(answers.c.id))
_NEWEST = select(func.max(staged.c.updated_ms))

# The columns of the GET response, the list row, the stored student and the stored detail. Any of these four records may
# be missing.
_PARTS = (
    answers.c.record.label("answer"),
    answers.c.answer.label("kind"),
    staged.c.content_hash.label("row_hash"),
    staged.c.updated_ms.label("row_ms"),
    *(student.c[name] for name in NAMES),
    *(records.c[name].label(f"row_{name}") for name in NAMES),
    records.c.served_status,
    student.c.content_hash,
    student_detail.c.record.label("detail"),
    student_detail.c.updated_ms.label("detail_ms"),
    *(student_detail.c[name] for name in ("settled", "read_at", "waiting_since")),
)
_FIRST_OF_STORED = 5  # the position of the first column of the stored student
_FIRST_OF_ROW = _FIRST_OF_STORED + len(NAMES)  # the position of the first column of the list row

_BY_ANSWER = chunk(
    select(answers.c.id, *_PARTS)
    .outerjoin_from(answers, staged, and_(staged.c.id == answers.c.id, ALIVE))
    .outerjoin(records, records.c.id == staged.c.id)
    .outerjoin(student, and_(student.c.source == SOURCE, student.c.id == answers.c.id))
    .outerjoin(student_detail, and_(student_detail.c.source == SOURCE, student_detail.c.id == answers.c.id))
    .where(answers.c.record.is_not(None))
)
_BY_DETAIL = chunk(
    select(staged.c.id, *_PARTS)
    .join_from(staged, records, records.c.id == staged.c.id)
    .join(student, STORED)
    .join(student_detail, _DETAIL)
    .outerjoin(answers, answers.c.id == staged.c.id)
    .where(ALIVE, student_detail.c.record.is_not(None), answers.c.record.is_(None))
    .where(or_(student.c.content_hash != staged.c.content_hash, bindparam("everybody", type_=Boolean)))
)


class _Parts(msgspec.Struct, frozen=True):
    """The records of one student, from one row of a query.

    `answer` is the GET response, `row` is the list row, and `stored` is the student's record in the replica. `found` is
    the row that the query returned.
    """

    key: int
    answer: Student | None
    row: Student | None
    stored: Student | None
    detail: Student | None
    found: Any

    def listed(self, keys: Keys) -> Student | None:
        """Return the student's list record, or None if the student has neither a list row nor a stored record.

        Normally, the list record is the list row that this run has received. If there is no list row, or if it is older
        than both the stored record and the GET response, the method returns the stored list record.
        """
        if self.stored is None:
            return self.row
        if self.row is not None and not (
            self.answer and is_older(self.row, self.stored) and is_older(self.row, self.answer)
        ):
            return self.row
        return list_record(self.stored, self.detail, keys, self.found.content_hash)


class StagedDetails:
    """Reads and writes the details that one run has staged."""

    def __init__(self, session: StageSession, limit: ByteLimit) -> None:
        self._session = session
        self._limit = limit

    def newest(self) -> datetime | None:
        """Return the latest `updated_at` of the staged rows, or None if no staged row has an `updated_at`."""
        ((newest,),) = self._session.rows(_NEWEST)
        return None if newest is None else EPOCH + timedelta(milliseconds=newest)

    @property
    def are_new(self) -> bool:
        """Whether this run has staged the result of at least one GET request."""
        return not self._session.is_empty(answers)

    def not_asked(self, ids: Sequence[int]) -> list[int]:
        """Return the subset of `ids` that this run has not requested by GET yet."""
        asked = {row[0] for row in self._session.rows(_ASKED, unless_empty=answers, ids=list(ids))}
        return [key for key in ids if key not in asked]

    # Which details to read -----------------------------------------------------------------------------------

    def due(self, limit: int, *, needed: bool, read_before: datetime) -> list[int]:
        """Return the ids of students whom the run should request by GET, in order of priority.

        The students who have been waiting longest for a detail come first. New students and students whose list row is
        newer than their detail come next. Students whose detail was read too long ago come last.

        Args:
            limit: The largest number of ids to return.
            needed: Whether every student of the source needs a detail. If `needed` is false, the method returns only
                students who wait for a detail or have a stored detail with keys.
            read_before: If every student needs a detail, each detail that was last read before this time (UTC) is read
                again.

        """
        ids: list[int] = []
        for query in (_WAITING, _NEWER, *([_OLD] if needed else [])):
            left = limit - len(ids)
            if left > 0:
                found = self._session.rows(query, needed=needed, at_most=left, read_before=read_before)
                ids += [row[0] for row in found if row[0] not in ids]
        return ids

    def of(self, ids: Sequence[int], *, needed: bool) -> list[int]:
        """Return the subset of `ids` whose details the run should request by GET.

        A student is included if the student has a staged list row, has or needs a detail, and has not been requested by
        GET in this run yet.
        """
        return [row[0] for row in self._session.rows(_REFRESHED, unless_empty=staged, ids=list(ids), needed=needed)]

    # What is known about keys --------------------------------------------------------------------------------

    def support(self, names: set[str]) -> dict[str, tuple[int, int]]:
        """For each key, count how many students have it in their detail, and how many also have it in their list row.

        Args:
            names: The names of the keys to count.

        Returns:
            A dictionary that maps each key to two numbers. The first is the number of students who have the key in
            their detail. The second is the number of students who have the key in both their detail and their list row.
            The dictionary does not contain keys that occur in no detail.

        """
        found: dict[str, tuple[int, int]] = {}
        for parts in self._everybody():
            if parts.row is None:
                continue
            listed = keys_of(parts.row)
            for name in names & keys_of(parts.answer or parts.detail or Student(id=parts.key)):
                holders, both = found.get(name, (0, 0))
                found[name] = holders + 1, both + (name in listed)
        return found

    def compare(self, keys: Keys) -> Keys:
        """Compare each GET response with the student's list record, and return an updated copy of `keys`.

        A GET response and a list record are compared only if neither is older than the other. If one of the two is
        older, the method only adds the keys of the response to the keys that GET serves. If it is not known yet which
        keys lists serve, the method returns `keys` unchanged.
        """
        if keys.listed is None:
            return keys
        for parts in self._parts(_BY_ANSWER):
            assert parts.answer is not None, "the query returns only rows that have a GET response"
            served = keys_of(parts.answer)
            listed = parts.listed(keys)
            if listed is not None and are_of_one_time(listed, parts.answer):
                keys = keys.compared(keys_of(listed), served)
            else:
                keys = keys.with_fetched(served)
        return keys

    # Combining -----------------------------------------------------------------------------------------------

    def combine(self, keys: Keys, *, settled_before: datetime | None, now: datetime, everybody: bool) -> None:
        """Stage the combined record of each student whom GET has returned, or who has a stored detail.

        Args:
            keys: The keys that lists serve and the keys that GET serves.
            settled_before: When GET responded, every change with an `updated_at` up to this time (UTC) was visible.
                None if this time is not known. A detail with a later `updated_at` is read again the next time a list
                contains the student, because a second change may have the same `updated_at`.
            now: The time (UTC) to record as the time at which the details were read.
            everybody: Whether to combine the records of all staged students who have a stored detail. If `everybody` is
                false, the method skips students whom GET has not returned and whose list row has not changed.

        """
        for parts in self._everybody(everybody=everybody):
            listed = parts.listed(keys)
            if parts.answer is not None:
                new = fetch(listed, parts.answer, keys, detail_only=parts.found.kind == Found.DETAIL)
                self._put(parts, keys, new, _facts_of_answer(listed, parts.answer, settled_before, now))
            elif listed is not None and parts.detail is not None:
                new = Records(listed, fetch(None, parts.detail, keys).detail)  # this drops keys that lists now serve
                self._put(parts, keys, new, _facts_as_stored(parts.found))

    def _put(self, parts: _Parts, keys: Keys, new: Records, facts: dict[str, Any]) -> None:
        """Replace the staged list row of a student with the combined record, and stage the detail for the commit."""
        student = combine(new.listed, new.detail, keys)
        received = parts.found.row_ms if parts.row else milliseconds(student.updated_at)
        record = encode(new.detail) if new.detail and keys_of(new.detail) else None
        renewed = parts.stored is None or encode(student) != encode(parts.stored)
        digest = parts.found.row_hash if new.listed is parts.row else content_hash(encode(new.listed))
        rows: dict[Table, dict[str, Any]] = {
            staged: {"id": parts.key, "reading": 0, "content_hash": digest, "updated_ms": received},
            records: {name: getattr(student, name) for name in NAMES},
            details: {"id": parts.key, "record": record, "renewed": renewed, **facts},
        }
        self._limit.take(len(rows), len(encode(student)) + len(record or b""))
        with self._session.filling(*rows):
            for table, row in rows.items():
                self._session.connection.execute(_DROP[table], {"key": parts.key})
                self._session.connection.execute(_PUT[table], row)

    # Reading the rows ----------------------------------------------------------------------------------------

    def _everybody(self, *, everybody: bool = True) -> Iterator[_Parts]:
        yield from self._parts(_BY_ANSWER)
        yield from self._parts(_BY_DETAIL, everybody=everybody)

    def _parts(self, query: Select[Any], **parameters: Any) -> Iterator[_Parts]:
        of = answers if query is _BY_ANSWER else staged
        for rows in self._session.chunks(query, unless_empty=of, **parameters):
            for row in rows:
                stored = None if row.content_hash is None else student_of(row, _FIRST_OF_STORED)
                yield _Parts(row[0], _decoded(row.answer), _list_row(row, stored), stored, _decoded(row.detail), row)


_DROP = {table: delete(table).where(table.c.id == bindparam("key")) for table in (staged, records, details)}
_PUT = {table: insert(table) for table in (staged, records, details)}


def _facts_as_stored(found: Any) -> dict[str, Any]:
    """Return the stored values of a detail's columns.

    The caller uses the stored values if this run did not read the detail.
    """
    facts = {name: getattr(found, name) for name in ("settled", "read_at", "waiting_since")}
    return {"updated_ms": found.detail_ms, **facts}


def _facts_of_answer(
    listed: Student | None, answer: Student, settled_before: datetime | None, now: datetime
) -> dict[str, Any]:
    """Return the column values for a detail that this run has read.

    If the list record is newer than the GET response, the detail is marked to be read again.
    """
    stamp = _stamp(listed, answer)
    is_late = listed is not None and is_older(answer, listed)
    return {
        "updated_ms": milliseconds(stamp),
        "settled": stamp is None or (settled_before is not None and stamp <= settled_before),
        "read_at": now,
        "waiting_since": now if is_late else None,
    }


def _stamp(listed: Student | None, answer: Student) -> datetime | None:
    """Return the `updated_at` to store with a detail.

    If neither the GET response nor the list record is older than the other, return the list record's `updated_at`,
    because the stored value is compared with later list rows. If the list record has no `updated_at`, return None. In
    all other cases, return the `updated_at` from the GET response.
    """
    if listed is not None and (listed.updated_at is None or are_of_one_time(listed, answer)):
        return listed.updated_at
    return answer.updated_at


def _list_row(found: Any, stored: Student | None) -> Student | None:
    """Return the staged list row as the API served it, or None if no list row is staged.

    A staged row without an entry in the table `records` is identical to the stored record.
    """
    if found.row_id is not None:
        return replace(student_of(found, _FIRST_OF_ROW), status=found.served_status)
    return None if stored is None or found.row_hash is None else as_served(stored, found.row_hash)


def _decoded(record: bytes | None) -> Student | None:
    return None if record is None else decode(record)
