"""The stage: what a run has read, out of readers' sight until the run commits.

The ids of a run live here, not in memory. Each method is one short transaction: none is open while a request to the
API is in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from rostersync.records import FIELD_NAMES, Gone, Rejected, Student, Unclear, content_hash, row_key
from rostersync.store.models import Quarantine, student
from rostersync.store.staging import departed, proof, removal, sighted
from rostersync.store.types import JsonTuple, Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select
    from sqlalchemy.engine import Row as SqlRow

    from rostersync.records import Answer, Row

CHUNK = 500
"""Rows taken from the stage at a time."""

_ALIVE = and_(sighted.c.rejected.is_(None), sighted.c.deleted_at.is_(None))
_PAYLOAD = (*FIELD_NAMES, "extra")


@dataclass(frozen=True, slots=True)
class Judged:
    """How many sighted students got each verdict; `stale` of them were first received older than stored."""

    verdicts: dict[str, int]
    stale: int


@cache
def _sighting(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of a sighting; it has some sixty columns, and is made once."""
    new = make(sighted)
    kept = {"id", "paged", "stale"}
    changes: dict[str, Any] = {c.name: new.excluded[c.name] for c in sighted.c if c.name not in kept}
    again = and_(sighted.c.reading == new.excluded.reading, sighted.c.paged)
    changes["paged"] = or_(new.excluded.paged, again)
    return new.on_conflict_do_update(index_elements=["id"], set_=changes)


class Stage:
    """What one run has read of one source."""

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection = connection
        self._source = source
        self._insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        self._reading = 0
        self._departed_reading = 0
        with connection.begin():
            for table in (sighted, departed, proof, removal):
                connection.execute(delete(table))

    # Sightings -----------------------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        """Begin a reading of a list: what counts as sighted starts anew, what was read before is kept."""
        self._reading += 1

    def put(self, rows: Iterable[Row], *, paged: bool = False) -> None:
        """Record sightings; the latest of an id wins. `paged`: they stood on a page of the roster."""
        values = [self._values(row, paged=paged) for row in rows]
        if not values:
            return
        with self._connection.begin():
            self._connection.execute(_sighting(self._insert), values)

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
            return values | dict.fromkeys(_PAYLOAD) | {"rejected": row.reason, "deleted_at": None, "content_hash": None}
        payload = {name: getattr(row, name) for name in _PAYLOAD}
        digest = content_hash(row)
        return values | payload | {"rejected": None, "deleted_at": row.deleted_at, "content_hash": digest}

    def sightings(self) -> int:
        """Return how many distinct students the current reading has sighted."""
        return self._count(select(func.count()).select_from(sighted).where(self._current()))

    def entered(self, start: datetime, until: datetime, feed_reading: int) -> int:
        """Return how many of them came in since `start`, as far as they are not stored as living.

        They were created between `start` and `until` (where `created_at` is not known: they were on no page), or were
        restored: the deleted feed listed them in a reading from `feed_reading` on and does so no longer, or they are
        stored as tombstones and were modified since.
        """
        created = sighted.c.created_at
        fresh = or_(and_(created >= start, created <= until), and_(created.is_(None), sighted.c.paged.is_(False)))
        earlier = and_(departed.c.reading >= feed_reading, departed.c.reading < self._departed_reading)
        delisted = exists().where(departed.c.id == sighted.c.id, earlier)
        stored = and_(student.c.source == self._source, student.c.id == sighted.c.id)
        buried = exists().where(stored, student.c.deleted_at.is_not(None))
        came = or_(fresh, delisted, and_(sighted.c.updated_at >= start, buried))
        known = exists().where(self._living(sighted.c.id))
        return self._count(select(func.count()).select_from(sighted).where(self._current(), came, ~known))

    def keep_current_reading(self) -> None:
        """Drop what earlier readings sighted and the current one, which was clean, did not."""
        with self._connection.begin():
            self._connection.execute(delete(sighted).where(sighted.c.reading != self._reading))

    def received(self) -> tuple[int, int]:
        """Return how many distinct records were received, and how many of them could not be decoded.

        Those in quarantine count for neither: they are bad as ever, and tell of no change.
        """
        known = exists().where(Quarantine.source == self._source, Quarantine.id == sighted.c.id)
        counted = select(func.count(), func.count(sighted.c.rejected)).where(~known)
        with self._connection.begin():
            row = self._connection.execute(counted).one()
        return row[0], row[1]

    def lacks_ids(self) -> bool:
        """Tell whether a record without an id was received: absence proves nothing then."""
        return self._count(select(func.count()).select_from(sighted).where(sighted.c.id < 0)) > 0

    def newest_updated_at(self) -> datetime | None:
        """Return the newest `updated_at` received."""
        with self._connection.begin():
            newest: datetime | None = self._connection.scalar(select(func.max(sighted.c.updated_at)))
        return newest

    def extra_keys(self) -> set[str]:
        """Return the names of the keys that rostersync does not know, at most 200."""
        query = "SELECT DISTINCT e.key FROM stage.sighted s, json_each(s.extra) e LIMIT 200"
        if self._connection.dialect.name == "postgresql":
            query = "SELECT DISTINCT e.key FROM pg_temp.sighted s, jsonb_object_keys(s.extra) AS e(key) LIMIT 200"
        with self._connection.begin():
            return set(self._connection.scalars(text(query))) - set(FIELD_NAMES)

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
        if not values:
            return
        new = self._insert(departed)
        later = {
            "reading": new.excluded.reading,
            "deleted_at": func.coalesce(new.excluded.deleted_at, departed.c.deleted_at),
        }
        with self._connection.begin():
            self._connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=later), values)

    def departures(self) -> int:
        """Return how many distinct ids the current reading of the deleted feed has listed."""
        return self._count(select(func.count()).select_from(departed).where(self._now_departed()))

    def departures_after(self, reading: int) -> int:
        """Return how many departures the deleted feed shows that its readings up to `reading` did not.

        Only those count that nothing shows alive, of students who were sighted or are stored as living.
        """
        was_sighted = exists().where(sighted.c.id == departed.c.id, self._current())
        gone = exists().where(proof.c.id == departed.c.id, proof.c.answer == "gone")
        stored = exists().where(self._living(departed.c.id))
        return self._count(
            select(func.count())
            .select_from(departed)
            .where(self._now_departed(), departed.c.first_reading > reading)
            .where(or_(and_(was_sighted, gone), and_(~was_sighted, stored)))
        )

    def departed_and_sighted(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids that the deleted feed lists and that this reading sighted alive."""
        yield from self._ids(
            select(departed.c.id)
            .join(sighted, sighted.c.id == departed.c.id)
            .where(self._now_departed(), self._current(), sighted.c.deleted_at.is_(None))
        )

    # Proofs --------------------------------------------------------------------------------------------------

    def put_answer(self, key: int, answer: Answer, *, stale: bool = False) -> None:
        """Record what GET answered for an id: the record it brought is its latest sighting."""
        found = "alive"
        if isinstance(answer, Gone) or (isinstance(answer, Student) and answer.deleted_at is not None):
            found = "gone"
        elif isinstance(answer, Unclear):
            found = "unclear"
        if found == "alive":
            assert isinstance(answer, Student | Rejected)
            self.put([answer])
        new = self._insert(proof).values(id=key, answer=found)
        with self._connection.begin():
            self._connection.execute(new.on_conflict_do_update(index_elements=["id"], set_={"answer": found}))
            if isinstance(answer, Student) and found == "gone":
                told = func.coalesce(removal.c.deleted_at, bindparam("told", answer.deleted_at, type_=Timestamp))
                self._connection.execute(update(removal).where(removal.c.id == key).values(deleted_at=told))
            if stale:
                self._connection.execute(update(sighted).where(sighted.c.id == key).values(stale=True))

    def put_silence(self, key: int) -> None:
        """Record that an id in quarantine was asked for in vain: others have their turn before it next time."""
        new = self._insert(proof).values(id=key, answer="silent")
        with self._connection.begin():
            self._connection.execute(new.on_conflict_do_nothing())

    def forget_proofs(self) -> None:
        """Ask anew what was proved, and remember what it was."""
        with self._connection.begin():
            self._connection.execute(update(proof).values(before=proof.c.answer, answer=None))

    def gone(self) -> int:
        """Return how many students that the current reading sighted were proved gone."""
        return self._count(self._proved_gone(proof.c.answer == "gone"))

    def gone_differently(self) -> int:
        """Return how many sighted students only one of the last two rounds of proofs found gone."""
        now, before = func.coalesce(proof.c.answer, ""), func.coalesce(proof.c.before, "")
        return self._count(self._proved_gone((now == "gone") != (before == "gone")))

    def _proved_gone(self, which: ColumnElement[bool]) -> Select[Any]:
        joined = proof.join(sighted, sighted.c.id == proof.c.id)
        return select(func.count()).select_from(joined).where(self._current(), which)

    def any_gone(self) -> bool:
        """Tell whether anybody was proved gone."""
        return self._count(select(func.count()).select_from(proof).where(proof.c.answer == "gone")) > 0

    def feed_proved(self) -> bool:
        """Tell whether anybody whom the deleted feed listed was proved gone."""
        listed = proof.join(departed, departed.c.id == proof.c.id)
        return self._count(select(func.count()).select_from(listed).where(proof.c.answer == "gone")) > 0

    def unclear(self, *, in_feed: bool = False, listed: bool = False) -> int:
        """Return how many ids GET answered neither with a student nor with a 404.

        With `in_feed` only those that the deleted feed named, with `listed` those that were sighted.
        """
        unclear = select(func.count()).select_from(proof).where(proof.c.answer == "unclear")
        if in_feed:
            unclear = unclear.where(exists().where(departed.c.id == proof.c.id))
        if listed:
            unclear = unclear.where(exists().where(sighted.c.id == proof.c.id))
        return self._count(unclear)

    def doubt(self) -> None:
        """Believe no proof of absence: the candidates become a plan, everybody else stays as he is."""
        candidate = exists().where(removal.c.id == proof.c.id)
        with self._connection.begin():
            self._connection.execute(update(proof).where(proof.c.answer == "gone", ~candidate).values(answer="unclear"))
            self._connection.execute(update(removal).values(planned=False))

    # Questions -----------------------------------------------------------------------------------------------

    def unproved_restores(self) -> Iterator[list[int]]:
        """Yield the ids sighted alive that are stored as tombstones."""
        yield from self._questions(student.c.deleted_at.is_not(None))

    def stale(self) -> Iterator[list[int]]:
        """Yield the ids sighted older than they are stored."""
        yield from self._questions(student.c.deleted_at.is_(None), sighted.c.updated_at < student.c.updated_at)

    def unproved_departures(self) -> Iterator[list[int]]:
        """Yield the ids that the deleted feed lists, that were sighted alive, and that are not stored as living."""
        yield from self._ids(
            select(departed.c.id)
            .join(sighted, sighted.c.id == departed.c.id)
            .where(_ALIVE, ~exists().where(self._living(departed.c.id)), ~self._proved(departed.c.id))
        )

    def _questions(self, *conditions: ColumnElement[bool]) -> Iterator[list[int]]:
        yield from self._ids(
            select(sighted.c.id)
            .join(student, and_(student.c.source == self._source, student.c.id == sighted.c.id))
            .where(_ALIVE, ~self._proved(sighted.c.id), *conditions)
        )

    # Removals ------------------------------------------------------------------------------------------------

    def collect_removals(self, *, sweep: bool) -> None:
        """Note the candidates: living students that the deleted feed, a `deleted_at` or a proof says are gone.

        With `sweep` also those whom a clean full crawl did not sight.
        """
        living = self._living()
        listed = select(departed.c.id, text("'stream'"), departed.c.deleted_at).join(
            student, and_(student.c.id == departed.c.id, living)
        )
        marked = (
            select(sighted.c.id, text("'stream'"), sighted.c.deleted_at)
            .join(student, and_(student.c.id == sighted.c.id, living))
            .where(sighted.c.deleted_at.is_not(None))
        )
        unseen = select(student.c.id, text("'sweep'"), student.c.deleted_at).where(
            living, ~exists().where(sighted.c.id == student.c.id)
        )
        proved = (
            select(proof.c.id, text("'stream'"), student.c.deleted_at)
            .join(student, and_(student.c.id == proof.c.id, living))
            .where(proof.c.answer == "gone")
        )
        for candidates in (listed, marked, proved, *((unseen,) if sweep else ())):
            self._collect(candidates)

    def _collect(self, candidates: Select[Any]) -> None:
        alive = exists().where(proof.c.id == candidates.selected_columns[0], proof.c.answer.in_(("alive", "unclear")))
        chosen = candidates.add_columns(text("false")).where(~alive)
        new = self._insert(removal).from_select(["id", "deletion_source", "deleted_at", "planned"], chosen)
        with self._connection.begin():
            self._connection.execute(new.on_conflict_do_nothing())

    def plan_removals(self, plan: Iterable[tuple[int, str, datetime | None]]) -> None:
        """Note the removals of a plan that is being approved, as far as their students are stored as living."""
        values = [{"id": i, "deletion_source": s, "deleted_at": d, "planned": True} for i, s, d in plan]
        if not values:
            return
        new = self._insert(removal)
        with self._connection.begin():
            self._connection.execute(new.on_conflict_do_update(index_elements=["id"], set_={"planned": True}), values)
            self._connection.execute(delete(removal).where(~exists().where(self._living(removal.c.id))))

    def removals(self, *, planned: bool | None = None, proved: bool | None = None) -> Iterator[list[int]]:
        """Yield the candidates for removal in chunks, those of the approved plan, the proved ones, or all."""
        yield from self._ids(select(removal.c.id).where(*self._which(planned, proved)))

    def count_removals(self, *, planned: bool | None = None, proved: bool | None = None) -> int:
        """Return how many candidates for removal there are, by the same conditions."""
        return self._count(select(func.count()).select_from(removal).where(*self._which(planned, proved)))

    def drop_removals(self, *, planned: bool | None = None, proved: bool | None = None) -> None:
        """Leave these candidates as they are stored."""
        with self._connection.begin():
            self._connection.execute(delete(removal).where(*self._which(planned, proved)))

    def spare(self, ids: Iterable[int]) -> None:
        """Take the living out of the candidates."""
        values = list(ids)
        if values:
            with self._connection.begin():
                self._connection.execute(delete(removal).where(removal.c.id.in_(values)))

    def _which(self, planned: bool | None, proved: bool | None) -> list[ColumnElement[bool]]:
        which: list[ColumnElement[bool]] = []
        if planned is not None:
            which.append(removal.c.planned.is_(planned))
        if proved is not None:
            gone = exists().where(proof.c.id == removal.c.id, proof.c.answer == "gone")
            which.append(gone if proved else ~gone)
        return which

    def controls(self, limit: int) -> list[int]:
        """Return living students who are not in question, spread over the roster; those sighted in this run first."""
        settled = [~exists().where(table.c.id == student.c.id) for table in (removal, departed, proof)]
        seen = exists().where(sighted.c.id == student.c.id, _ALIVE)
        stored = select(student.c.id).where(self._living(), *settled)
        stored = stored.order_by(case((seen, 0), else_=1), student.c.content_hash).limit(limit)
        unsettled = [~exists().where(table.c.id == sighted.c.id) for table in (removal, departed, proof)]
        new = select(sighted.c.id).where(_ALIVE, *unsettled).order_by(sighted.c.content_hash).limit(limit)
        with self._connection.begin():
            return list(self._connection.scalars(stored)) or list(self._connection.scalars(new))

    # Verdicts ------------------------------------------------------------------------------------------------

    def judge(self) -> Judged:
        """Give every sighted student his verdict; return how many got each."""
        here = and_(student.c.source == self._source, student.c.id == sighted.c.id)
        stored_hash = select(student.c.content_hash).where(here).scalar_subquery()
        answer = select(proof.c.answer).where(proof.c.id == sighted.c.id).scalar_subquery()
        verdict = case(
            (sighted.c.rejected.is_not(None), "quarantined"),
            (or_(sighted.c.deleted_at.is_not(None), answer == "gone"), "ignored"),
            (answer == "unclear", "unchanged"),  # neither proof: the id stays as it is
            (stored_hash.is_(None), "inserted"),
            (exists().where(here, student.c.deleted_at.is_not(None)), "restored"),
            (stored_hash == sighted.c.content_hash, "unchanged"),
            else_="updated",
        )
        counts = select(sighted.c.verdict, func.count(), func.sum(case((sighted.c.stale, 1), else_=0)))
        with self._connection.begin():
            self._connection.execute(update(sighted).values(verdict=verdict))
            rows = self._connection.execute(counts.group_by(sighted.c.verdict)).all()
        return Judged({row[0]: row[1] for row in rows}, sum(int(row[2]) for row in rows))

    def changes(self) -> Iterator[list[tuple[Student, Student]]]:
        """Yield, in chunks, the changed and restored students: as stored, and as sighted."""
        last = -(2**63)
        names = ("id", *_PAYLOAD)
        both = (
            select(*(student.c[name] for name in names), *(sighted.c[name] for name in names))
            .join(sighted, and_(student.c.source == self._source, student.c.id == sighted.c.id))
            .where(sighted.c.verdict.in_(("updated", "restored")))
            .order_by(sighted.c.id)
            .limit(CHUNK)
        )
        while True:
            with self._connection.begin():
                rows = self._connection.execute(both.where(sighted.c.id > last)).all()
            if not rows:
                return
            yield [(_student(row, 0, names), _student(row, len(names), names)) for row in rows]
            last = rows[-1][0]

    def missing(self) -> Iterator[list[int]]:
        """Yield the judged students who live upstream and not in the replica."""
        yield from self._ids(select(sighted.c.id).where(sighted.c.verdict.in_(("inserted", "restored"))))

    def pending(self, ids: Iterable[int], since: datetime) -> set[int]:
        """Return those of `ids` whom the next incremental run will see: modified, or listed as deleted, since then."""
        wanted = list(ids)
        modified = select(sighted.c.id).where(sighted.c.id.in_(wanted), sighted.c.updated_at >= since)
        listed = select(departed.c.id).where(departed.c.id.in_(wanted))
        with self._connection.begin():
            return {*self._connection.scalars(modified), *self._connection.scalars(listed)}

    def mark_changes(self, marks: Iterable[tuple[int, tuple[str, ...], bool]]) -> None:
        """Note of changed students which fields changed, and whether history gets a version."""
        values = [{"key": key, "changed": changed, "version": versioned} for key, changed, versioned in marks]
        if not values:
            return
        marked = (
            update(sighted)
            .where(sighted.c.id == bindparam("key"))
            .values(changed_fields=bindparam("changed", type_=JsonTuple), versioned=bindparam("version"))
        )
        with self._connection.begin():
            self._connection.execute(marked, values)

    # Helpers -------------------------------------------------------------------------------------------------

    def _current(self) -> ColumnElement[bool]:
        return sighted.c.reading == self._reading

    def _now_departed(self) -> ColumnElement[bool]:
        return departed.c.reading == self._departed_reading

    def _living(self, key: ColumnElement[int] | None = None) -> ColumnElement[bool]:
        """Return the condition of a stored, living student of this source, of id `key` where it is given."""
        living = and_(student.c.source == self._source, student.c.deleted_at.is_(None))
        return living if key is None else and_(living, student.c.id == key)

    def _proved(self, key: ColumnElement[int]) -> ColumnElement[bool]:
        return exists().where(proof.c.id == key, proof.c.answer.is_not(None))

    def _count(self, query: Select[Any]) -> int:
        with self._connection.begin():
            return int(self._connection.scalar(query) or 0)

    def _ids(self, query: Select[Any]) -> Iterator[list[int]]:
        """Run a query for ids in chunks, each a transaction of its own, so that requests can be made between them."""
        key = query.selected_columns[0]
        last = -(2**63)
        while True:
            with self._connection.begin():
                chunk = list(self._connection.scalars(query.where(key > last).order_by(key).limit(CHUNK)))
            if not chunk:
                return
            yield chunk
            last = chunk[-1]


def _student(row: SqlRow[Any], offset: int, names: tuple[str, ...]) -> Student:
    return Student(**{name: row[offset + index] for index, name in enumerate(names)})
