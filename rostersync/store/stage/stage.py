"""Keep everything that a run reads in the stage until the run commits.

The stage stores the ids of a run's students in tables instead of in memory. Each method executes its statements in its
own transactions, so no transaction is open while the run waits for the API. Separate transactions are safe here,
because no other process can see the stage.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from msgspec.structs import astuple

from rostersync.clock import to_epoch_ms
from rostersync.projections import MOST_KEYS
from rostersync.records import FIELD_NAMES, Rejected, Student, Unclear, content_hash, encode, is_alive, row_key
from rostersync.report import Received, UnclearCounts
from rostersync.store.schema.rows import TIMESTAMP, insert_all, milliseconds, values_of
from rostersync.store.stage import queries as q
from rostersync.store.stage import tables
from rostersync.store.stage.byte_limit import ByteLimit
from rostersync.store.stage.details import StagedDetails
from rostersync.store.stage.terms import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Table

    from rostersync.records import Answer, ListedRow, Row
    from rostersync.store.stage.session import StageSession
    from rostersync.store.stage.terms import Reason


class StagedList:
    """The staged rows of one list. The module `rostersync.sync.lists` adds rows each time it reads the list."""

    def __init__(self, session: StageSession, table: Table, limit: ByteLimit) -> None:
        self._session = session
        self._table = table
        self._limit = limit
        self._reading = 0

    def begin_reading(self) -> None:
        """Begin a new reading of the list. Rows from earlier readings remain in the stage."""
        self._reading += 1

    def put(self, page: int, listed: Sequence[ListedRow]) -> None:
        """Stage the rows of one page of the list. `page` is the number of the page."""
        raise NotImplementedError

    def keep_pages(self, pages: list[int]) -> None:
        """Record that the rows of these pages have not changed since the previous reading."""
        if pages:
            self._session.execute(q.KEEP_PAGES, unless_empty=self._table, ids=pages, reading=self._reading)

    def drop_reading(self) -> None:
        """Discard the current reading. The caller has found that the list has not changed since the previous reading.

        The method must be called before any rows of the current reading are staged.
        """
        self._reading -= 1

    def seen(self) -> int:
        """Return the number of distinct rows in the current reading."""
        return self._session.count(q.BROUGHT[self._table], unless_empty=self._table, reading=self._reading)

    def missed(self) -> int:
        """Return the number of rows that were found by the previous reading, but not by the current reading."""
        return self._session.count(q.BROUGHT[self._table], unless_empty=self._table, reading=self._reading - 1)

    def keep_this_reading(self) -> None:
        """Delete all staged rows that are not in the current reading."""
        if self._reading > 1:
            self._session.execute(q.DROP_OTHERS[self._table], unless_empty=self._table, reading=self._reading)


class StagedStudents(StagedList):
    """The staged rows of the roster or of the modified feed."""

    def __init__(self, session: StageSession, limit: ByteLimit) -> None:
        super().__init__(session, tables.staged, limit)
        self.in_full = True
        """Whether to stage every record.

        If `in_full` is false, a record equal to the stored record is not added to `records`.
        """
        self.extra_keys: set[str] = set()
        """The received keys that rostersync does not know, up to a limit of `MOST_KEYS` keys."""
        self.odd_fields: dict[int, set[str]] = {}
        """A dictionary from student ids to the names of fields that received a value of the wrong type.

        Values of the wrong type are stored in `extra`. The dictionary contains at most 100,000 ids.
        """
        self._fields_unseen = set(FIELD_NAMES)

    def put(self, page: int, listed: Sequence[ListedRow]) -> None:
        """Stage the rows that are new or newer than the staged rows.

        For a staged row that is not replaced, only the numbers of the reading and of the page are updated.
        """
        rows = list(listed)
        ids = [row.key for row in rows]
        brought = (
            self._session.rows(q.NOTE_BROUGHT, unless_empty=self._table, ids=ids, reading=self._reading, page=page)
            if ids
            else []
        )
        stamps: dict[int, int | None] = dict(brought)
        newest: dict[int, ListedRow] = {}
        for row in rows:
            stamp = milliseconds(row.updated_at)
            staged = stamps.get(row.key)
            if stamp is None or staged is None or stamp > staged:  # without timestamps, the last row wins
                stamps[row.key] = stamp
                newest[row.key] = row
        if newest:
            decoded = [row.decode() for row in newest.values()]
            self._replace(decoded, [key for key, _ in brought if key in newest], page)

    def put_rows(self, rows: Iterable[Row]) -> None:
        """Stage rows that are not from a page of a list. The new rows replace any staged rows with the same ids."""
        by_key = {row_key(row): row for row in rows}
        self._replace(list(by_key.values()), list(by_key), None)

    def _replace(self, rows: list[Row], known: list[int], page: int | None) -> None:
        students = [row for row in rows if isinstance(row, Student)]
        texts = list(map(encode, students))
        self._limit.take(len(rows), sum(map(len, texts)))
        hashes = {row.id: content_hash(text) for row, text in zip(students, texts, strict=True)}
        stored = {} if self.in_full else dict(self._session.rows(q.STORED_HASHES, ids=list(hashes)))
        changed = [values_of(row) for row in students if stored.get(row.id) != hashes[row.id]]
        with self._session.filling(tables.staged, tables.records):
            for drop in q.DROP if known else ():
                self._session.connection.execute(drop, {"ids": known})
            insert_all(self._session.connection, tables.records, changed)
            insert_all(self._session.connection, tables.staged, [self._staged(row, page, hashes) for row in rows])
        for row in rows if self.odd_fields else ():
            self.odd_fields.pop(row_key(row), None)
        self._note_keys([row for row in students if row.deleted_at is None])

    def _staged(self, row: Row, page: int | None, hashes: Mapping[int, bytes]) -> tuple[Any, ...]:
        """Return the values for one row of the table `tables.staged`."""
        if isinstance(row, Rejected):
            return row_key(row), self._reading, page, row.reason, None, None, None
        deleted_at = row.deleted_at and TIMESTAMP.process_bind_param(row.deleted_at, self._session.connection.dialect)
        return row.id, self._reading, page, None, deleted_at, milliseconds(row.updated_at), hashes[row.id]

    def _note_keys(self, rows: list[Student]) -> None:
        """Record which keys the given rows have, and which fields have a value of the wrong type."""
        columns = list(zip(*map(astuple, rows), strict=True))
        if not columns:
            return
        self._fields_unseen -= {name for name, place in _PLACES.items() if columns[place].count(None) < len(rows)}
        for row in rows:
            if row.extra:
                self._fields_unseen -= row.extra.keys()
                new = row.extra.keys() - FIELD_NAMES - self.extra_keys
                self.extra_keys.update(islice(new, MOST_KEYS - len(self.extra_keys)))
                self.note_odd(row)

    def note_odd(self, row: Student) -> None:
        """Record which fields of a list row or of a GET response have a value of the wrong type."""
        # Empty strings are ignored, because an empty string may mean that a date is not set.
        odd = [name for name, value in row.extra.items() if name in _FIELDS and str(value).strip()]
        if odd and len(self.odd_fields) < _MOST_ODD:
            self.odd_fields.setdefault(row.id, set()).update(odd)

    @property
    def keys(self) -> set[str]:
        """The keys that this run has received in rows of students who are not deleted."""
        return {*FIELD_NAMES, *self.extra_keys}.difference(self._fields_unseen)


_FIELDS = frozenset(FIELD_NAMES)
_PLACES = {name: place for place, name in enumerate(Student.__struct_fields__) if name in _FIELDS}
_MOST_ODD = 100_000


class StagedDeletions(StagedList):
    """The staged rows of the deleted feed.

    Only the `id` and `deleted_at` are staged, because a row may lack all other fields.
    """

    def put(self, page: int, listed: Sequence[ListedRow]) -> None:  # noqa: ARG002 - same signature as in StagedList
        """Stage the id and the `deleted_at` of each row."""
        values = [{"id": row.key, "reading": self._reading, "deleted_at": _deleted_at(row.decode())} for row in listed]
        self._limit.take(len(values))
        self._session.insert(q.stage_deletion(self._session.dialect), values)

    def lack_ids(self) -> bool:
        """Return whether any record in the deleted feed lacks a readable id.

        If an id is missing, we cannot know which student was deleted.
        """
        return self._session.count(q.DELETIONS_LACK_IDS, unless_empty=tables.deletions) > 0


class Stage:
    """Everything that a run has read from its source, together with the run's candidates for removal."""

    def __init__(self, session: StageSession) -> None:
        """Use the stage of `session`, which must be empty (see `tables.attach` and `tables.clear`)."""
        self.session = session
        self.byte_limit = ByteLimit(session.connection)
        self.students = StagedStudents(session, self.byte_limit)
        self.deletions = StagedDeletions(session, tables.deletions, self.byte_limit)
        self.details = StagedDetails(session, self.byte_limit)
        self.absence_unconfirmed = False
        """Whether GET has reported a student as gone and has not returned a current student since."""
        self._stale: set[int] = set()

    # What was received ---------------------------------------------------------------------------------------

    def received(self) -> Received:
        """Return how many rows were staged from lists and GET responses."""
        return Received(*chain.from_iterable(self.session.rows(q.RECEIVED, unless_empty=tables.staged)))

    # GET responses -------------------------------------------------------------------------------------------

    def put_answer(self, key: int, answer: Answer, *, in_quarantine: bool = False) -> None:
        """Stage the response to a GET request. `StagedDetails.combine` later combines the response with the list row.

        Args:
            key: The id of the requested student.
            answer: The response to the GET request.
            in_quarantine: Whether the student is in quarantine. If `in_quarantine` is true, the only effect of an
                unclear response is that the student moves to the end of the queue for the next run. Default: False.

        """
        record = None
        if is_alive(answer):
            found = Found.ALIVE
            if isinstance(answer, Student):
                record = encode(answer)
                self.students.note_odd(answer)
                self.absence_unconfirmed = False
            elif not self.session.rows(q.IS_STAGED, unless_empty=tables.staged, key=key):
                self.students.put_rows([answer])
        elif isinstance(answer, Unclear):
            found = Found.UNANSWERED if in_quarantine else Found.UNCLEAR
        else:
            found = Found.GONE
            self.absence_unconfirmed = True
        self._note(key, found, deleted_at=_deleted_at(answer), record=record)

    def put_detail(self, key: int, answer: Answer) -> bool:
        """Stage the response to a GET request for a student's detail. Return whether the response has the detail.

        A response without a current student does not prove that the student is gone. After such a response, the staged
        student does not change, and a later run requests the detail again.
        """
        if is_alive(answer) and isinstance(answer, Student):
            self._note(key, Found.DETAIL, record=encode(answer))
            return True
        self._note(key, Found.UNANSWERED)
        return False

    def _note(self, key: int, found: Found, deleted_at: datetime | None = None, record: bytes | None = None) -> None:
        self.byte_limit.take(1, len(record or b""))
        values = {"id": key, "answer": str(found), "deleted_at": deleted_at, "record": record}
        self.session.insert(q.insert_answer(self.session.dialect), [values])

    def gone_ids(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids of the students whom GET has reported as gone."""
        return self.session.ids(q.GONE_IDS, unless_empty=tables.answers)

    def unclear(self) -> UnclearCounts:
        """Count the requested ids for which the GET response was unclear."""
        return UnclearCounts(*chain.from_iterable(self.session.rows(q.UNCLEAR, unless_empty=tables.answers)))

    def reject_absence_proofs(self, *, keep_plan: bool) -> None:
        """Stop trusting the GET responses that report students as gone.

        If a student whom GET has reported as gone is not a candidate for removal, the response is treated as unclear,
        and the stored student does not change. The caller must hold the removals of the candidates for approval. If
        `keep_plan` is false, the candidates in the approved plan lose their approval, so their removals are held too.
        """
        self.session.execute(q.REJECT_OTHERS, unless_empty=tables.answers)
        if not keep_plan:
            self.session.execute(q.UNPLAN, unless_empty=tables.candidates)

    # Students to request by GET ------------------------------------------------------------------------------

    def unproved_restores(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids of students who are in a list but are stored as tombstones."""
        return self.session.ids(q.UNPROVED_RESTORES, unless_empty=tables.staged)

    def stale(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids of students whose received row is older than the stored row.

        The property `stale_count` includes each student that this method has yielded.
        """
        for rows in self.session.chunks(q.UNPROVED_STAMPS, unless_empty=tables.staged):
            ids = [key for key, received, stored in rows if received and stored and received < to_epoch_ms(stored)]
            self._stale.update(ids)
            yield ids

    @property
    def stale_count(self) -> int:
        """The number of students for whom this run has received a row that is older than the stored row."""
        return len(self._stale)

    def unproved_newcomers(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids of students who are in both the deleted feed and another list.

        Students who are already current in the replica are skipped.
        """
        return self.session.ids(q.UNPROVED_NEWCOMERS, unless_empty=tables.deletions)

    # Candidates for removal ----------------------------------------------------------------------------------

    def collect_candidates(self, *reasons: Reason) -> None:
        """For each reason, find the students who seem to have left, and add them to the candidates for removal."""
        collect = q.collect(self.session.dialect)
        for reason in reasons:
            if self.session.execute(collect[reason], unless_empty=q.COLLECTED_FROM.get(reason)):
                self.session.note_filled(tables.candidates)

    def add_plan(self, plan: Iterable[tuple[int, str, datetime | None]]) -> None:
        """Add the students in an approved plan, except those already deleted, to the candidates for removal."""
        values = [{"id": i, "deletion_source": s, "deleted_at": d, "planned": True} for i, s, d in plan]
        self.session.insert(q.put_planned(self.session.dialect), values)
        self.session.execute(q.DROP_UNSTORED, unless_empty=tables.candidates)

    def candidates(self, *, planned: bool | None = None, proved: bool | None = None) -> Iterator[list[int]]:
        """Yield, in chunks, the ids of candidates for removal.

        Args:
            planned: True to yield only the candidates in the approved plan, or False to yield only candidates who are
                not in the plan. The default, None, yields all candidates.
            proved: True to yield only the candidates whom GET has reported as gone, or False to yield only candidates
                whom GET has not reported as gone. The default, None, yields all candidates.

        """
        return self.session.ids(q.list_candidates(planned, proved), unless_empty=tables.candidates)

    def count_candidates(self, *, planned: bool | None = None) -> int:
        """Return the number of candidates for removal. `planned` has the same meaning as in `candidates`."""
        return self.session.count(q.count_candidates(planned), unless_empty=tables.candidates)

    def drop_disproved(self) -> None:
        """Drop each candidate for removal whom GET has returned or for whom the GET response was unclear.

        Students whom the run has not requested by GET remain candidates.
        """
        self.session.execute(q.DROP_DISPROVED, unless_empty=tables.candidates)

    def drop_living_candidates(self, ids: Iterable[int]) -> None:
        """Drop the candidates for removal with these ids, because a list shows that the students still exist."""
        self.session.execute(q.DROP_LIVING, unless_empty=tables.candidates, ids=list(ids))

    def controls(self, limit: int) -> list[int]:
        """Return the ids of at most `limit` current students who can serve as controls.

        Candidates for removal are never returned as controls. Students cannot be controls either if GET has reported
        them as gone or if the GET response was unclear. Students whose existence is most certain come first. If no
        student in the replica is suitable as a control, the method returns students whom the run has received from
        lists.
        """
        stored = self.session.rows(q.STORED_CONTROLS, at_most=limit)
        return [
            row[0] for row in stored or self.session.rows(q.NEW_CONTROLS, unless_empty=tables.staged, at_most=limit)
        ]


def _deleted_at(answer: Answer) -> datetime | None:
    return answer.deleted_at if isinstance(answer, Student) else None
