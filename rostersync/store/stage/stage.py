"""Stage what a run reads, until the run commits.

The ids of a run are in the stage and not in memory. Each method executes its statements in its own transactions. So no
transaction is open while a request to the API is in flight. That is safe, because no other process sees the stage.
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
from rostersync.store.stage.details import StagedDetails
from rostersync.store.stage.room import Room
from rostersync.store.stage.terms import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Table

    from rostersync.records import Answer, ListedRow, Row
    from rostersync.store.stage.session import StageSession
    from rostersync.store.stage.terms import Reason


class StagedList:
    """The rows of one list. `sync.lists` puts the rows of each reading here."""

    def __init__(self, session: StageSession, table: Table, room: Room) -> None:
        self._session = session
        self._table = table
        self._room = room
        self._reading = 0

    def begin_reading(self) -> None:
        """Begin another reading of the list. The rows of earlier readings are kept."""
        self._reading += 1

    def put(self, page: int, listed: Sequence[ListedRow]) -> None:
        """Stage the rows of the page with the number `page`."""
        raise NotImplementedError

    def keep_pages(self, pages: list[int]) -> None:
        """Note that this reading has the same rows on these pages as the previous one."""
        if pages:
            self._session.execute(q.KEEP_PAGES, unless_empty=self._table, ids=pages, reading=self._reading)

    def drop_reading(self) -> None:
        """Discard this reading, because it has the same rows as the previous one. The caller has put no row."""
        self._reading -= 1

    def seen(self) -> int:
        """Return the number of distinct rows in this reading."""
        return self._session.count(q.BROUGHT[self._table], unless_empty=self._table, reading=self._reading)

    def missed(self) -> int:
        """Return the number of rows of the previous reading that are missing in this one."""
        return self._session.count(q.BROUGHT[self._table], unless_empty=self._table, reading=self._reading - 1)

    def keep_this_reading(self) -> None:
        """Delete the rows that are missing in this reading."""
        if self._reading > 1:
            self._session.execute(q.DROP_OTHERS[self._table], unless_empty=self._table, reading=self._reading)


class StagedStudents(StagedList):
    """The rows of the roster, or of the modified feed."""

    def __init__(self, session: StageSession, room: Room) -> None:
        super().__init__(session, tables.staged, room)
        self.in_full = True
        """Whether to stage all records. If not, a record that equals the stored one is left out of `records`."""
        self.extra_keys: set[str] = set()
        """The keys received that rostersync does not know; at most `MOST_KEYS`."""
        self.odd_fields: dict[int, set[str]] = {}
        """By id, the names of fields that could not hold the received value, so that it is in `extra`.

        At most 100,000 ids.
        """
        self._fields_unseen = set(FIELD_NAMES)

    def put(self, page: int, listed: Sequence[ListedRow]) -> None:
        """Stage the rows that are new, or newer than the staged ones. For the others, only note reading and page."""
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
            if stamp is None or staged is None or stamp > staged:  # if a stamp is missing, the row received last counts
                stamps[row.key] = stamp
                newest[row.key] = row
        if newest:
            decoded = [row.decode() for row in newest.values()]
            self._replace(decoded, [key for key, _ in brought if key in newest], page)

    def put_rows(self, rows: Iterable[Row]) -> None:
        """Stage rows that do not come from a page. They replace staged rows with the same id."""
        by_key = {row_key(row): row for row in rows}
        self._replace(list(by_key.values()), list(by_key), None)

    def _replace(self, rows: list[Row], known: list[int], page: int | None) -> None:
        students = [row for row in rows if isinstance(row, Student)]
        texts = list(map(encode, students))
        self._room.take(len(rows), sum(map(len, texts)))
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
        """Return the values of a row of `tables.staged`."""
        if isinstance(row, Rejected):
            return row_key(row), self._reading, page, row.reason, None, None, None
        deleted_at = row.deleted_at and TIMESTAMP.process_bind_param(row.deleted_at, self._session.connection.dialect)
        return row.id, self._reading, page, None, deleted_at, milliseconds(row.updated_at), hashes[row.id]

    def _note_keys(self, rows: list[Student]) -> None:
        """Note which keys these rows have, and which of their values the fields cannot hold."""
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
        """Note which fields of a list row, or of an answer of GET, cannot hold their values."""
        # An empty string is not noted, because it may mean that a date is not set.
        odd = [name for name, value in row.extra.items() if name in _FIELDS and str(value).strip()]
        if odd and len(self.odd_fields) < _MOST_ODD:
            self.odd_fields.setdefault(row.id, set()).update(odd)

    @property
    def keys(self) -> set[str]:
        """The keys that at least one row of a living student had in this run."""
        return {*FIELD_NAMES, *self.extra_keys}.difference(self._fields_unseen)


_FIELDS = frozenset(FIELD_NAMES)
_PLACES = {name: place for place, name in enumerate(Student.__struct_fields__) if name in _FIELDS}
_MOST_ODD = 100_000


class StagedDeletions(StagedList):
    """The rows of the deleted feed. Only their id and `deleted_at` are staged, because they may be stubs."""

    def put(self, page: int, listed: Sequence[ListedRow]) -> None:  # noqa: ARG002 - the signature of StagedList
        """Stage the id and the `deleted_at` of each row."""
        values = [{"id": row.key, "reading": self._reading, "deleted_at": _deleted_at(row.decode())} for row in listed]
        self._room.take(len(values))
        self._session.insert(q.stage_deletion(self._session.dialect), values)

    def lack_ids(self) -> bool:
        """Return whether the feed has a record without a readable id. If so, we do not know who was deleted."""
        return self._session.count(q.DELETIONS_LACK_IDS, unless_empty=tables.deletions) > 0


class Stage:
    """Everything that one run has read from one source, and the candidates for removal that follow from it."""

    def __init__(self, session: StageSession) -> None:
        """Use the stage of `session`, which must be empty (see `tables.attach` and `tables.clear`)."""
        self.session = session
        self.room = Room(session.connection)
        self.students = StagedStudents(session, self.room)
        self.deletions = StagedDeletions(session, tables.deletions, self.room)
        self.details = StagedDetails(session, self.room)
        self.absence_unconfirmed = False
        """Whether GET has said that a student is gone, and has not returned a living student since."""
        self._stale: set[int] = set()

    # What was received ---------------------------------------------------------------------------------------

    def received(self) -> Received:
        """Return the numbers of rows that were staged from lists and from answers of GET."""
        return Received(*chain.from_iterable(self.session.rows(q.RECEIVED, unless_empty=tables.staged)))

    # Answers of GET ------------------------------------------------------------------------------------------

    def put_answer(self, key: int, answer: Answer, *, in_quarantine: bool = False) -> None:
        """Stage the answer of GET about an id. `StagedDetails.combine` later combines it with the list row.

        If the id is `in_quarantine`, an unclear answer only moves it to the end of the queue for the next run.
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
        """Stage the answer of GET to a request for a student's detail. Return whether it has the detail.

        An answer other than a living student proves nothing here. The staged student does not change, and a later run
        asks GET again.
        """
        if is_alive(answer) and isinstance(answer, Student):
            self._note(key, Found.DETAIL, record=encode(answer))
            return True
        self._note(key, Found.UNANSWERED)
        return False

    def _note(self, key: int, found: Found, deleted_at: datetime | None = None, record: bytes | None = None) -> None:
        self.room.take(1, len(record or b""))
        values = {"id": key, "answer": str(found), "deleted_at": deleted_at, "record": record}
        self.session.insert(q.put_answer(self.session.dialect), [values])

    def gone_ids(self) -> Iterator[list[int]]:
        """Yield in chunks the ids of the students who are gone according to GET."""
        return self.session.ids(q.GONE_IDS, unless_empty=tables.answers)

    def unclear(self) -> UnclearCounts:
        """Count the ids about which GET has proved neither life nor absence."""
        return UnclearCounts(*chain.from_iterable(self.session.rows(q.UNCLEAR, unless_empty=tables.answers)))

    def reject_absence_proofs(self, *, keep_plan: bool) -> None:
        """Stop trusting GET about students who are gone according to GET.

        For each of these students who is not a candidate for removal, the answer of GET becomes unclear, so the stored
        student does not change. The caller must hold the candidates. Without `keep_plan`, candidates of the approved
        plan no longer count as planned, so they are held as well.
        """
        self.session.execute(q.REJECT_OTHERS, unless_empty=tables.answers)
        if not keep_plan:
            self.session.execute(q.UNPLAN, unless_empty=tables.candidates)

    # Students to ask GET about -------------------------------------------------------------------------------

    def unproved_restores(self) -> Iterator[list[int]]:
        """Yield in chunks the ids of students who were received as living and are stored as tombstones."""
        return self.session.ids(q.UNPROVED_RESTORES, unless_empty=tables.staged)

    def stale(self) -> Iterator[list[int]]:
        """Yield in chunks the ids that were received in an older state than stored. Count them in `stale_count`."""
        for rows in self.session.chunks(q.UNPROVED_STAMPS, unless_empty=tables.staged):
            ids = [key for key, received, stored in rows if received and stored and received < to_epoch_ms(stored)]
            self._stale.update(ids)
            yield ids

    @property
    def stale_count(self) -> int:
        """The number of students who were received in an older state than stored."""
        return len(self._stale)

    def unproved_newcomers(self) -> Iterator[list[int]]:
        """Yield in chunks the ids that are in the deleted feed, and that another list reports as living.

        Students who are stored as living are left out.
        """
        return self.session.ids(q.UNPROVED_NEWCOMERS, unless_empty=tables.deletions)

    # Candidates for removal ----------------------------------------------------------------------------------

    def collect_candidates(self, *reasons: Reason) -> None:
        """Add the students who seem to have left for one of `reasons` to the candidates for removal."""
        collect = q.collect(self.session.dialect)
        for reason in reasons:
            if self.session.execute(collect[reason], unless_empty=q.COLLECTED_FROM.get(reason)):
                with self.session.filling(tables.candidates):
                    pass  # the rows are there already; this notes that the table has rows

    def add_plan(self, plan: Iterable[tuple[int, str, datetime | None]]) -> None:
        """Add the removals of an approved plan to the candidates, if their students are stored as living."""
        values = [{"id": i, "deletion_source": s, "deleted_at": d, "planned": True} for i, s, d in plan]
        self.session.insert(q.put_planned(self.session.dialect), values)
        self.session.execute(q.DROP_UNSTORED, unless_empty=tables.candidates)

    def candidates(self, *, planned: bool | None = None, proved: bool | None = None) -> Iterator[list[int]]:
        """Yield in chunks the ids of candidates for removal.

        Args:
            planned: True for those in the approved plan, False for the others. Default: None, which means all.
            proved: True for those who are gone according to GET, False for the others. Default: None, which means all.

        """
        return self.session.ids(q.list_candidates(planned, proved), unless_empty=tables.candidates)

    def count_candidates(self, *, planned: bool | None = None) -> int:
        """Return the number of candidates for removal. `planned` selects them as in `candidates`."""
        return self.session.count(q.count_candidates(planned), unless_empty=tables.candidates)

    def drop_disproved(self) -> None:
        """Drop the candidates for whom the answer of GET is alive or unclear. Keep candidates without an answer."""
        self.session.execute(q.DROP_DISPROVED, unless_empty=tables.candidates)

    def drop_living_candidates(self, ids: Iterable[int]) -> None:
        """Drop the candidates with these ids, because a list reports them as living."""
        self.session.execute(q.DROP_LIVING, unless_empty=tables.candidates, ids=list(ids))

    def controls(self, limit: int) -> list[int]:
        """Return the ids of at most `limit` living students who can serve as controls.

        Candidates for removal are left out, and also students for whom the answer of GET is gone or unclear. The
        students who are most likely to be alive come first. If no stored student qualifies, the result has students
        that the run has received.
        """
        stored = self.session.rows(q.STORED_CONTROLS, at_most=limit)
        return [
            row[0] for row in stored or self.session.rows(q.NEW_CONTROLS, unless_empty=tables.staged, at_most=limit)
        ]


def _deleted_at(answer: Answer) -> datetime | None:
    return answer.deleted_at if isinstance(answer, Student) else None
