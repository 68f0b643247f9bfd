"""What is asked of the stage, and of the stored students beside it.

Each query is made once and only run again and again: to build one takes longer than to run it. Their parameters are
`run_source`, the numbers of the current readings (`this_reading` of the list, `this_feed` of the deleted feed), and
`last`, the id behind which a chunk begins; `Stage` knows them all.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Integer,
    Text,
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

from rostersync.records import FIELD_NAMES
from rostersync.store.models import Quarantine, student
from rostersync.store.stage.tables import before, departed, proof, removal, sighted
from rostersync.store.types import JsonTuple, Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import BindParameter, ColumnElement, Select, Table

CHUNK = 500
"""Rows taken from the stage at a time."""

PAYLOAD = (*FIELD_NAMES, "extra")
NAMES = ("id", *PAYLOAD)
"""The columns that make a `Student`."""

_SOURCE = bindparam("run_source", type_=Text)
_READING = bindparam("this_reading", type_=Integer)
_FEED = bindparam("this_feed", type_=Integer)
_LAST = bindparam("last", type_=BigInteger)
_KEY = bindparam("key", type_=BigInteger)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_LIMIT = bindparam("at_most", type_=Integer)
_SINCE_FEED = bindparam("since_feed", type_=Integer)

_ALIVE = and_(sighted.c.rejected.is_(None), sighted.c.deleted_at.is_(None))
_CURRENT = sighted.c.reading == _READING
_UNMARKED = and_(_CURRENT, sighted.c.deleted_at.is_(None))
_LISTED = departed.c.reading == _FEED
_LIVING = and_(student.c.source == _SOURCE, student.c.deleted_at.is_(None))
_STORED = and_(student.c.source == _SOURCE, student.c.id == sighted.c.id)


def _lives(key: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a student is stored as living."""
    return exists().where(_LIVING, student.c.id == key)


def _answered(key: ColumnElement[int], *answers: str) -> ColumnElement[bool]:
    """Return the condition that GET has answered for an id, with one of `answers` where any are given."""
    answered = exists().where(proof.c.id == key)
    return answered.where(proof.c.answer.in_(answers)) if answers else answered


def _count(table: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).select_from(table).where(*conditions)


def _chunk(ids: Select[Any]) -> Select[Any]:
    key = ids.selected_columns[0]
    return ids.where(key > _LAST).order_by(key).limit(CHUNK)


# Sightings -------------------------------------------------------------------------------------------------------


@cache
def sighting(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of a sighting: the latest of an id wins."""
    new = make(sighted)
    kept = {"id", "paged", "stale"}
    changes: dict[str, Any] = {c.name: new.excluded[c.name] for c in sighted.c if c.name not in kept}
    again = and_(sighted.c.reading == new.excluded.reading, sighted.c.paged)
    changes["paged"] = or_(new.excluded.paged, again)
    return new.on_conflict_do_update(index_elements=["id"], set_=changes)


SIGHTINGS = _count(sighted, _CURRENT)
LACKS_IDS = _count(sighted, sighted.c.id < 0)
UNDECODED = _count(sighted, sighted.c.rejected.is_not(None))
NEWEST = select(func.max(sighted.c.updated_at))
FORGET_EARLIER = delete(sighted).where(sighted.c.reading != _READING)
MARK_STALE = update(sighted).where(sighted.c.id == _KEY).values(stale=True)

RECEIVED = select(func.count(), func.count(sighted.c.rejected)).where(
    ~exists().where(Quarantine.source == _SOURCE, Quarantine.id == sighted.c.id)
)


@cache
def early(make: Callable[[Table], Any]) -> Any:
    """Return the insert of an id that was there before the roster's first page."""
    return make(before).on_conflict_do_nothing()


FORGET_EARLY = delete(before)


def _entered() -> Select[Any]:
    window = bindparam("window", type_=Timestamp)
    created, updated = sighted.c.created_at, sighted.c.updated_at
    stamped = and_(func.coalesce(created, updated) >= window, func.coalesce(updated, created) >= window)
    stampless = and_(created.is_(None), updated.is_(None), sighted.c.paged.is_(False))
    buried = exists().where(_STORED, student.c.deleted_at.is_not(None))
    came = or_(stamped, stampless, and_(updated >= window, buried))
    was_there = exists().where(before.c.id == sighted.c.id)
    return _count(sighted, _CURRENT, came, ~was_there, ~_lives(sighted.c.id))


ENTERED = _entered()

_EXTRA_KEYS = {
    "sqlite": "SELECT DISTINCT e.key FROM stage.sighted s, json_each(s.extra) e LIMIT 200",
    "postgresql": "SELECT DISTINCT e.key FROM pg_temp.sighted s, jsonb_object_keys(s.extra) AS e(key) LIMIT 200",
}
EXTRA_KEYS = {dialect: text(query) for dialect, query in _EXTRA_KEYS.items()}


# Departures ------------------------------------------------------------------------------------------------------


@cache
def departure(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of an id that the deleted feed lists; a `deleted_at` once told is kept."""
    new = make(departed)
    told = func.coalesce(new.excluded.deleted_at, departed.c.deleted_at)
    return new.on_conflict_do_update(index_elements=["id"], set_={"reading": new.excluded.reading, "deleted_at": told})


DEPARTURES = _count(departed, _LISTED)
NAMELESS_DEPARTURES = _count(departed, departed.c.id < 0)


def _departures_after() -> Select[Any]:
    was_sighted = exists().where(sighted.c.id == departed.c.id, _CURRENT)
    gone, stored = _answered(departed.c.id, "gone"), _lives(departed.c.id)
    listed_later = and_(_LISTED, departed.c.first_reading > _SINCE_FEED)
    return _count(departed, listed_later, or_(and_(was_sighted, gone), and_(~was_sighted, stored)))


DEPARTURES_AFTER = _departures_after()

_BOTH = departed.join(sighted, sighted.c.id == departed.c.id)
_DEPARTED_AND_SIGHTED = select(departed.c.id).select_from(_BOTH)
DEPARTED_AND_SIGHTED = _chunk(_DEPARTED_AND_SIGHTED.where(_LISTED, _UNMARKED))
SIGHTED_AND_DEPARTED = _count(_BOTH, departed.c.reading >= _SINCE_FEED, _UNMARKED)


# Proofs ----------------------------------------------------------------------------------------------------------


@cache
def answer(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of what GET answered for an id."""
    new = make(proof)
    return new.on_conflict_do_update(
        index_elements=["id"], set_={"answer": new.excluded.answer, "deleted_at": new.excluded.deleted_at}
    )


@cache
def silence(make: Callable[[Table], Any]) -> Any:
    """Return the insert of an answer that an earlier one stands before."""
    return make(proof).on_conflict_do_nothing()


DROP_PROOFS = delete(proof)

GONE = _count(proof.join(sighted, sighted.c.id == proof.c.id), _CURRENT, proof.c.answer == "gone")
ANY_GONE = _count(proof, proof.c.answer == "gone")
GONE_IDS = _chunk(select(proof.c.id).where(proof.c.answer == "gone"))

UNCLEAR = _count(proof, proof.c.answer == "unclear")
UNCLEAR_IN_FEED = UNCLEAR.where(exists().where(departed.c.id == proof.c.id))
UNCLEAR_LISTED = UNCLEAR.where(exists().where(sighted.c.id == proof.c.id))

DOUBT_OTHERS = (
    update(proof).where(proof.c.answer == "gone", ~exists().where(removal.c.id == proof.c.id)).values(answer="unclear")
)
UNPLAN = update(removal).values(planned=False)


# Questions -------------------------------------------------------------------------------------------------------

_SIGHTED_AND_STORED = select(sighted.c.id).join(student, _STORED).where(_ALIVE, ~_answered(sighted.c.id))
UNPROVED_RESTORES = _chunk(_SIGHTED_AND_STORED.where(student.c.deleted_at.is_not(None)))
STALE = _chunk(_SIGHTED_AND_STORED.where(student.c.deleted_at.is_(None), sighted.c.updated_at < student.c.updated_at))
UNPROVED_DEPARTURES = _chunk(_DEPARTED_AND_SIGHTED.where(_ALIVE, ~_lives(departed.c.id), ~_answered(departed.c.id)))


# Removals --------------------------------------------------------------------------------------------------------


@cache
def candidates(make: Callable[[Table], Any]) -> dict[str, Any]:
    """Return the inserts of living students as candidates, by why they are: a feed, a mark, a proof, or absence.

    After a sweep the feed only tells of whom it lists when and how they left: who was sighted lives until he is proved
    gone.
    """
    stream, swept = text("'stream'"), text("'sweep'")
    listed = select(departed.c.id, stream, departed.c.deleted_at).join(student, student.c.id == departed.c.id)
    marked = select(sighted.c.id, stream, sighted.c.deleted_at).join(student, student.c.id == sighted.c.id)
    proved = select(proof.c.id, stream, student.c.deleted_at).join(student, student.c.id == proof.c.id)
    was_sighted = exists().where(sighted.c.id == student.c.id)
    unseen = select(student.c.id, swept, student.c.deleted_at).where(~was_sighted)
    queries = {
        "listed": listed,
        "left": listed.where(or_(~was_sighted, _answered(student.c.id, "gone"))),
        "marked": marked.where(sighted.c.deleted_at.is_not(None)),
        "proved": proved.where(proof.c.answer == "gone"),
        "unseen": unseen,
    }
    columns = ["id", "deletion_source", "deleted_at", "planned"]
    inserts = {}
    for why, query in queries.items():
        undoubted = ~_answered(query.selected_columns[0], "alive", "unclear")
        chosen = query.add_columns(text("false")).where(_LIVING, undoubted)
        inserts[why] = make(removal).from_select(columns, chosen).on_conflict_do_nothing()
    return inserts


@cache
def which(planned: bool | None, proved: bool | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of some of the candidates: those of the approved plan, the proved ones, or all."""
    gone = _answered(removal.c.id, "gone")
    of_plan = () if planned is None else (removal.c.planned.is_(planned),)
    return of_plan if proved is None else (*of_plan, gone if proved else ~gone)


@cache
def removals(planned: bool | None, proved: bool | None) -> Select[Any]:
    """Return the query for a chunk of candidates."""
    return _chunk(select(removal.c.id).where(*which(planned, proved)))


@cache
def count_removals(planned: bool | None) -> Select[Any]:
    """Return the query for the number of candidates."""
    return _count(removal, *which(planned, None))


@cache
def plan(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of a removal that is in the plan being approved."""
    return make(removal).on_conflict_do_update(index_elements=["id"], set_={"planned": True})


DROP_UNPROVED = delete(removal).where(_answered(removal.c.id, "alive", "unclear"))
DROP_UNSTORED = delete(removal).where(~_lives(removal.c.id))
SPARE = delete(removal).where(removal.c.id.in_(_IDS))


def _undoubted(key: ColumnElement[int]) -> list[ColumnElement[bool]]:
    return [~exists().where(table.c.id == key) for table in (removal, departed, proof)]


STORED_CONTROLS = (
    select(student.c.id)
    .where(_LIVING, *_undoubted(student.c.id))
    .order_by(case((exists().where(sighted.c.id == student.c.id, _ALIVE), 0), else_=1), student.c.content_hash)
    .limit(_LIMIT)
)
NEW_CONTROLS = (
    select(sighted.c.id).where(_ALIVE, *_undoubted(sighted.c.id)).order_by(sighted.c.content_hash).limit(_LIMIT)
)


# Verdicts --------------------------------------------------------------------------------------------------------


def _judge() -> Any:
    stored_hash = select(student.c.content_hash).where(_STORED).scalar_subquery()
    told = select(proof.c.answer).where(proof.c.id == sighted.c.id).scalar_subquery()
    verdict = case(
        (sighted.c.rejected.is_not(None), "quarantined"),
        (or_(sighted.c.deleted_at.is_not(None), told == "gone"), "ignored"),
        (told == "unclear", "unchanged"),  # neither proof: the id stays as it is
        (stored_hash.is_(None), "inserted"),
        (exists().where(_STORED, student.c.deleted_at.is_not(None)), "restored"),
        (stored_hash == sighted.c.content_hash, "unchanged"),
        else_="updated",
    )
    return update(sighted).values(verdict=verdict)


JUDGE = _judge()
VERDICTS = select(sighted.c.verdict, func.count(), func.sum(case((sighted.c.stale, 1), else_=0))).group_by(
    sighted.c.verdict
)

_PAIRS = (
    select(*(student.c[name] for name in NAMES), *(sighted.c[name] for name in NAMES))
    .join(sighted, _STORED)
    .where(sighted.c.id > _LAST)
    .order_by(sighted.c.id)
    .limit(CHUNK)
)
CHANGES = _PAIRS.where(sighted.c.verdict.in_(("updated", "restored")))
SHARED = _PAIRS.where(sighted.c.verdict.in_(("updated", "unchanged")), student.c.deleted_at.is_(None))
MARK_CHANGE = (
    update(sighted)
    .where(sighted.c.id == _KEY)
    .values(changed_fields=bindparam("changed", type_=JsonTuple), versioned=bindparam("version"))
)

MISSING = _chunk(select(sighted.c.id).where(sighted.c.verdict.in_(("inserted", "restored"))))
MODIFIED_BETWEEN = select(sighted.c.id).where(
    sighted.c.id.in_(_IDS),
    sighted.c.updated_at.between(bindparam("since", type_=Timestamp), bindparam("until", type_=Timestamp)),
)
LISTED_AMONG = select(departed.c.id).where(departed.c.id.in_(_IDS), _lives(departed.c.id))
WRITTEN_AFTER = select(student.c.id).where(
    student.c.source == _SOURCE, student.c.id.in_(_IDS), student.c.run_id > bindparam("last_run", type_=BigInteger)
)
