"""The stage: what a run has read, out of readers' sight until the run commits.

The ids of a run live here, not in memory. No transaction is open while a request to the API is in flight: each
statement stands by itself, for nobody else sees the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

from rostersync.records import FIELD_NAMES, Rejected, Student, Unclear, content_hash, is_alive, row_key
from rostersync.store.stage import queries as q

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection, CursorResult, Select
    from sqlalchemy.engine import Row as SqlRow

    from rostersync.records import Answer, Row


@dataclass(frozen=True, slots=True)
class Judged:
    """How many sighted students got each verdict; `stale` of them were first received older than stored."""

    verdicts: dict[str, int]
    stale: int


class Stage:
    """What one run has read of one source."""

    def __init__(self, connection: Connection, source: str) -> None:
        """Use the empty stage of `connection` (see `tables`)."""
        self._connection = connection
        self._source = source
        self._dialect = connection.dialect.name
        self._insert = sqlite.insert if self._dialect == "sqlite" else postgresql.insert
        self._reading = 0
        self._departed_reading = 0

    # Sightings -----------------------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        """Begin a reading of a list: sightings and proofs start anew, what was read before is kept."""
        self._reading += 1
        self._do(q.FORGET_EARLY)
        self.drop_proofs()

    def put(self, rows: Iterable[Row], *, paged: bool = False) -> None:
        """Record sightings; the latest of an id wins. `paged`: they stood on a page of the roster."""
        self._put_all(q.sighting(self._insert), [self._values(row, paged=paged) for row in rows])

    def _values(self, row: Row, *, paged: bool) -> dict[str, Any]:
        values: dict[str, Any] = {
            "id": row_key(row),
            "reading": self._reading,
            "paged": paged,
            "stale": False,
            "versioned": True,
            "changed_fields": (),
        }
        if isinstance(row, Rejected):
            nothing = dict.fromkeys(q.PAYLOAD)
            return values | nothing | {"rejected": row.reason, "deleted_at": None, "content_hash": None}
        payload = {name: getattr(row, name) for name in q.PAYLOAD}
        digest = content_hash(row)
        return values | payload | {"rejected": None, "deleted_at": row.deleted_at, "content_hash": digest}

    def sightings(self) -> int:
        """Return how many distinct students the current reading has sighted."""
        return self._count(q.SIGHTINGS)

    def put_early(self, rows: Iterable[Row]) -> None:
        """Record who was there already before the first page of the reading was asked for. No sighting."""
        self._put_all(q.early(self._insert), [{"id": row_key(row)} for row in rows])

    def entered(self, window: datetime) -> int:
        """Return how many of them came in since the first page, as far as they are not stored as living.

        Of those whose stamps are not before `window` they are the ones whom `put_early` has not: created (one without
        any stamp: he was on no page), or restored, so that they are stored as tombstones.
        """
        return self._count(q.ENTERED, window=window)

    def keep_current_reading(self) -> None:
        """Drop what earlier readings sighted and the current one, which was clean, did not."""
        self._do(q.FORGET_EARLIER)

    def received(self) -> tuple[int, int]:
        """Return how many distinct records were received, and how many of them could not be decoded.

        Those in quarantine count for neither: they are bad as ever, and tell of no change.
        """
        [row] = self._rows(q.RECEIVED)
        return row[0], row[1]

    def lacks_ids(self) -> bool:
        """Tell whether a record without an id was received: absence proves nothing then."""
        return self._count(q.LACKS_IDS) > 0

    def undecoded(self) -> int:
        """Return how many of the records sighted could not be decoded."""
        return self._count(q.UNDECODED)

    def newest_updated_at(self) -> datetime | None:
        """Return the newest `updated_at` received."""
        [row] = self._rows(q.NEWEST)
        newest: datetime | None = row[0]
        return newest

    def extra_keys(self) -> set[str]:
        """Return the names of the keys that rostersync does not know, at most 200."""
        return {row[0] for row in self._rows(q.EXTRA_KEYS[self._dialect])} - set(FIELD_NAMES)

    # Departures ----------------------------------------------------------------------------------------------

    def begin_departures(self) -> int:
        """Begin a reading of the deleted feed; return its number."""
        self._departed_reading += 1
        return self._departed_reading

    def put_departures(self, rows: Iterable[tuple[int, datetime | None]]) -> None:
        """Record ids that the deleted feed lists, with their `deleted_at` where it is given."""
        number = self._departed_reading
        values = [
            {"id": key, "reading": number, "first_reading": number, "deleted_at": deleted_at}
            for key, deleted_at in rows
        ]
        self._put_all(q.departure(self._insert), values)

    def departures(self) -> int:
        """Return how many distinct ids the current reading of the deleted feed has listed."""
        return self._count(q.DEPARTURES)

    def nameless_departures(self) -> bool:
        """Tell whether the deleted feed has listed records without a readable id: nobody knows whom it meant."""
        return self._count(q.NAMELESS_DEPARTURES) > 0

    def departures_after(self, reading: int) -> int:
        """Return how many departures the deleted feed shows that its readings up to `reading` did not.

        Only those count that nothing shows alive, of students who were sighted or are stored as living.
        """
        return self._count(q.DEPARTURES_AFTER, since_feed=reading)

    def departed_and_sighted(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids that the deleted feed lists and that this reading sighted alive."""
        yield from self._ids(q.DEPARTED_AND_SIGHTED)

    def sighted_and_departed(self, reading: int) -> int:
        """Return how many sighted alive the deleted feed has listed in its reading `reading` or a later one."""
        return self._count(q.SIGHTED_AND_DEPARTED, since_feed=reading)

    # Proofs --------------------------------------------------------------------------------------------------

    def put_answer(self, key: int, answer: Answer, *, stale: bool = False) -> None:
        """Record what GET answered for an id: the record it brought is its latest sighting."""
        found = "alive" if is_alive(answer) else "unclear" if isinstance(answer, Unclear) else "gone"
        if found == "alive":
            assert isinstance(answer, Student | Rejected)
            self.put([answer])
        told = answer.deleted_at if isinstance(answer, Student) else None
        self._put_all(q.answer(self._insert), [{"id": key, "answer": found, "deleted_at": told}])
        if stale:
            self._do(q.MARK_STALE, key=key)

    def mark_unanswered(self, key: int) -> None:
        """Record that an id in quarantine was asked for in vain: others have their turn before it next time."""
        self._put_all(q.silence(self._insert), [{"id": key, "answer": "silent"}])

    def drop_proofs(self) -> None:
        """Forget what GET has answered: it will be asked anew."""
        self._do(q.DROP_PROOFS)

    def gone(self) -> int:
        """Return how many students that the current reading sighted were proved gone."""
        return self._count(q.GONE)

    def any_gone(self) -> bool:
        """Tell whether anybody was proved gone."""
        return self._count(q.ANY_GONE) > 0

    def gone_ids(self) -> Iterator[list[int]]:
        """Yield the ids of everybody who was proved gone."""
        yield from self._ids(q.GONE_IDS)

    def unclear(self, *, in_feed: bool = False, listed: bool = False) -> int:
        """Return how many ids GET answered neither with a student nor with a 404.

        With `in_feed` only those that the deleted feed named, with `listed` those that were sighted.
        """
        return self._count(q.UNCLEAR_IN_FEED if in_feed else q.UNCLEAR_LISTED if listed else q.UNCLEAR)

    def reject_absence_proofs(self, *, keep_plan: bool) -> None:
        """Believe no proof of absence, or with `keep_plan` only those of the plan that is being approved.

        The other candidates become a plan, everybody else stays as he is.
        """
        self._do(q.DOUBT_OTHERS)
        if not keep_plan:
            self._do(q.UNPLAN)

    # Questions -----------------------------------------------------------------------------------------------

    def unproved_restores(self) -> Iterator[list[int]]:
        """Yield the ids sighted alive that are stored as tombstones."""
        yield from self._ids(q.UNPROVED_RESTORES)

    def stale(self) -> Iterator[list[int]]:
        """Yield the ids sighted older than they are stored."""
        yield from self._ids(q.STALE)

    def unproved_departures(self) -> Iterator[list[int]]:
        """Yield the ids that the deleted feed lists, that were sighted alive, and that are not stored as living."""
        yield from self._ids(q.UNPROVED_DEPARTURES)

    # Removals ------------------------------------------------------------------------------------------------

    def collect_removals(self, *, sweep: bool) -> None:
        """Note the candidates: living students that the deleted feed, a `deleted_at` or a proof says are gone.

        With `sweep` also those whom a clean full crawl did not sight, and none whom it did unless they are proved gone.
        """
        for why in ("left", "marked", "proved", "unseen") if sweep else ("listed", "marked", "proved"):
            self._do(q.candidates(self._insert)[why])

    def collect_proved(self) -> None:
        """Note those as candidates who were proved gone since."""
        self._do(q.candidates(self._insert)["proved"])

    def plan_removals(self, plan: Iterable[tuple[int, str, datetime | None]]) -> None:
        """Note the removals of a plan that is being approved, as far as their students are stored as living."""
        values = [{"id": i, "deletion_source": s, "deleted_at": d, "planned": True} for i, s, d in plan]
        self._put_all(q.plan(self._insert), values)
        self._do(q.DROP_UNSTORED)

    def removals(self, *, planned: bool | None = None, proved: bool | None = None) -> Iterator[list[int]]:
        """Yield the candidates for removal in chunks, those of the approved plan, the proved ones, or all."""
        yield from self._ids(q.removals(planned, proved))

    def count_removals(self, *, planned: bool | None = None) -> int:
        """Return how many candidates for removal there are."""
        return self._count(q.count_removals(planned))

    def drop_unproved(self) -> None:
        """Leave those candidates as they are stored for whom GET has answered, and did not prove gone."""
        self._do(q.DROP_UNPROVED)

    def spare(self, ids: Iterable[int]) -> None:
        """Take the living out of the candidates."""
        self._do(q.SPARE, ids=list(ids))

    def controls(self, limit: int) -> list[int]:
        """Return living students who are not in question, spread over the roster; those sighted in this run first."""
        stored = self._rows(q.STORED_CONTROLS, at_most=limit)
        return [row[0] for row in stored or self._rows(q.NEW_CONTROLS, at_most=limit)]

    # Verdicts ------------------------------------------------------------------------------------------------

    def judge(self) -> Judged:
        """Give every sighted student his verdict; return how many got each."""
        self._do(q.JUDGE)
        rows = self._rows(q.VERDICTS)
        return Judged({row[0]: row[1] for row in rows}, sum(int(row[2]) for row in rows))

    def changes(self) -> Iterator[list[tuple[Student, Student]]]:
        """Yield, in chunks, the changed and restored students: as stored, and as sighted."""
        yield from self._pairs(q.CHANGES)

    def shared(self) -> Iterator[list[tuple[Student, Student]]]:
        """Yield, in the same way, the judged students who live upstream and in the replica, changed or not."""
        yield from self._pairs(q.SHARED)

    def missing(self) -> Iterator[list[int]]:
        """Yield the judged students who live upstream and not in the replica."""
        yield from self._ids(q.MISSING)

    def pending(self, ids: Iterable[int], *, since: datetime, until: datetime, last_run: int) -> set[int]:
        """Return those of `ids` whom the next incremental run will see, or whom one after `last_run` has written.

        It will see who was modified between `since` and `until`, and who is stored as living and listed as deleted.
        """
        known = {"ids": list(ids), "since": since, "until": until, "last_run": last_run}
        reasons = (q.MODIFIED_BETWEEN, q.LISTED_AMONG, q.WRITTEN_AFTER)
        return {row[0] for reason in reasons for row in self._rows(reason, **known)}

    def mark_changes(self, marks: Iterable[tuple[int, tuple[str, ...], bool]]) -> None:
        """Note of changed students which fields changed, and whether history gets a version."""
        values = [{"key": key, "changed": changed, "version": versioned} for key, changed, versioned in marks]
        self._put_all(q.MARK_CHANGE, values)

    # Helpers -------------------------------------------------------------------------------------------------

    def _do(self, statement: Any, **parameters: Any) -> CursorResult[Any]:
        """Execute one statement by itself."""
        known = {
            "run_source": self._source,
            "this_reading": self._reading,
            "this_feed": self._departed_reading,
            **parameters,
        }
        with self._connection.begin():
            return self._connection.execute(statement, known)

    def _put_all(self, statement: Any, values: list[dict[str, Any]]) -> None:
        """Execute one statement for each of `values`."""
        if values:
            with self._connection.begin():
                self._connection.execute(statement, values)

    def _rows(self, query: Any, **parameters: Any) -> list[Any]:
        return list(self._do(query, **parameters))

    def _count(self, query: Select[Any], **parameters: Any) -> int:
        [row] = self._rows(query, **parameters)
        return int(row[0])

    def _pairs(self, query: Select[Any]) -> Iterator[list[tuple[Student, Student]]]:
        """Run a query for students as stored and as sighted in chunks."""
        last = -(2**63)
        while rows := self._rows(query, last=last):
            yield [(_student(row, 0), _student(row, len(q.NAMES))) for row in rows]
            last = rows[-1][0]

    def _ids(self, query: Select[Any]) -> Iterator[list[int]]:
        """Run a query for ids in chunks, so that requests can be made between them."""
        last = -(2**63)
        while rows := self._rows(query, last=last):
            yield [row[0] for row in rows]
            last = rows[-1][0]


def _student(row: SqlRow[Any], offset: int) -> Student:
    return Student(**{name: row[offset + index] for index, name in enumerate(q.NAMES)})
