"""What is asked of the stage, and of the stored students beside it.

Each query is made once and only run again and again: to build one takes longer than to run it. Their parameters are
`run_source`, `last` (the id behind which a chunk begins), and those that the stage's methods name.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Integer, Text, and_, bindparam, case, delete, exists, func, or_, select, text, update

from rostersync.records import FIELD_NAMES
from rostersync.store.models import Quarantine, student
from rostersync.store.stage.tables import answers, deletions, removals, staged
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
_READING = bindparam("reading", type_=Integer)
_LAST = bindparam("last", type_=BigInteger)
_KEY = bindparam("key", type_=BigInteger)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_LIMIT = bindparam("at_most", type_=Integer)

_ALIVE = and_(staged.c.rejected.is_(None), staged.c.deleted_at.is_(None))
_LIVING = and_(student.c.source == _SOURCE, student.c.deleted_at.is_(None))
_STORED = and_(student.c.source == _SOURCE, student.c.id == staged.c.id)


def _lives(key: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a student is stored as living."""
    return exists().where(_LIVING, student.c.id == key)


def _answered(key: ColumnElement[int], *which: str) -> ColumnElement[bool]:
    """Return the condition that GET has answered for an id, with one of `which` where any are given."""
    answered = exists().where(answers.c.id == key)
    return answered.where(answers.c.answer.in_(which)) if which else answered


def _count(table: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).select_from(table).where(*conditions)


def _chunk(ids: Select[Any]) -> Select[Any]:
    key = ids.selected_columns[0]
    return ids.where(key > _LAST).order_by(key).limit(CHUNK)


# Readings of a list, in the table that is its own ----------------------------------------------------------------


@cache
def brought(table: Table) -> Select[Any]:
    """Return the query for how many distinct rows the reading `reading` was the last to bring."""
    return _count(table, table.c.reading == _READING)


@cache
def mark_brought(table: Table) -> Any:
    """Return the update by which rows count as brought by `reading`."""
    return update(table).where(table.c.id.in_(_IDS)).values(reading=_READING)


@cache
def drop_others(table: Table) -> Any:
    """Return the delete of the rows that `reading` has not brought."""
    return delete(table).where(table.c.reading != _READING)


# Students --------------------------------------------------------------------------------------------------------

STAMPS = select(staged.c.id, staged.c.updated_at).where(staged.c.id.in_(_IDS))


@cache
def stage_student(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of a row into the stage: it takes the place of an earlier one."""
    new = make(staged)
    changes = {c.name: new.excluded[c.name] for c in staged.c if c.name not in {"id", "stale"}}
    return new.on_conflict_do_update(index_elements=["id"], set_=changes)


LACKS_IDS = _count(staged, staged.c.id < 0)
UNDECODED = _count(staged, staged.c.rejected.is_not(None))
MARK_STALE = update(staged).where(staged.c.id == _KEY).values(stale=True)

RECEIVED = select(func.count(), func.count(staged.c.rejected)).where(
    ~exists().where(Quarantine.source == _SOURCE, Quarantine.id == staged.c.id)
)

_EXTRA_KEYS = {
    "sqlite": "SELECT DISTINCT e.key FROM stage.staged s, json_each(s.extra) e LIMIT 200",
    "postgresql": "SELECT DISTINCT e.key FROM pg_temp.staged s, jsonb_object_keys(s.extra) AS e(key) LIMIT 200",
}
EXTRA_KEYS = {dialect: text(query) for dialect, query in _EXTRA_KEYS.items()}


# Deletions -------------------------------------------------------------------------------------------------------


@cache
def stage_deletion(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of an id that the deleted feed lists; a `deleted_at` once given is kept."""
    new = make(deletions)
    known = func.coalesce(new.excluded.deleted_at, deletions.c.deleted_at)
    return new.on_conflict_do_update(index_elements=["id"], set_={"reading": new.excluded.reading, "deleted_at": known})


DELETIONS_LACK_IDS = _count(deletions, deletions.c.id < 0)


# Answers ---------------------------------------------------------------------------------------------------------


@cache
def put_answer(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of what GET answered for an id."""
    new = make(answers)
    latest = {"answer": new.excluded.answer, "deleted_at": new.excluded.deleted_at}
    return new.on_conflict_do_update(index_elements=["id"], set_=latest)


@cache
def mark_unanswered(make: Callable[[Table], Any]) -> Any:
    """Return the insert of an answer that an earlier one stands before."""
    return make(answers).on_conflict_do_nothing()


GONE_IDS = _chunk(select(answers.c.id).where(answers.c.answer == "gone"))

UNCLEAR = _count(answers, answers.c.answer == "unclear")
UNCLEAR_IN_FEED = UNCLEAR.where(exists().where(deletions.c.id == answers.c.id))
UNCLEAR_LISTED = UNCLEAR.where(exists().where(staged.c.id == answers.c.id))

REJECT_OTHERS = (
    update(answers)
    .where(answers.c.answer == "gone", ~exists().where(removals.c.id == answers.c.id))
    .values(answer="unclear")
)
UNPLAN = update(removals).values(planned=False)


# Questions -------------------------------------------------------------------------------------------------------

_STAGED_AND_STORED = select(staged.c.id).join(student, _STORED).where(_ALIVE, ~_answered(staged.c.id))
UNPROVED_RESTORES = _chunk(_STAGED_AND_STORED.where(student.c.deleted_at.is_not(None)))
STALE = _chunk(_STAGED_AND_STORED.where(student.c.deleted_at.is_(None), staged.c.updated_at < student.c.updated_at))

_LISTED_TWICE = select(staged.c.id).join(deletions, deletions.c.id == staged.c.id)
UNPROVED_NEWCOMERS = _chunk(_LISTED_TWICE.where(_ALIVE, ~_answered(staged.c.id), ~_lives(staged.c.id)))


# Removals --------------------------------------------------------------------------------------------------------


@cache
def candidates(make: Callable[[Table], Any]) -> dict[str, Any]:
    """Return the inserts of living students as candidates, by why they are: a feed, a mark, a proof, or absence.

    `listed` are all whom the deleted feed lists, `left` those of them whom no list shows alive.
    """
    stream, swept = text("'stream'"), text("'sweep'")
    listed = select(deletions.c.id, stream, deletions.c.deleted_at).join(student, student.c.id == deletions.c.id)
    marked = select(staged.c.id, stream, staged.c.deleted_at).join(student, student.c.id == staged.c.id)
    proved = select(answers.c.id, stream, student.c.deleted_at).join(student, student.c.id == answers.c.id)
    was_staged = exists().where(staged.c.id == student.c.id)
    unseen = select(student.c.id, swept, student.c.deleted_at).where(~was_staged)
    queries = {
        "listed": listed,
        "left": listed.where(or_(~was_staged, _answered(student.c.id, "gone"))),
        "marked": marked.where(staged.c.deleted_at.is_not(None)),
        "proved": proved.where(answers.c.answer == "gone"),
        "unseen": unseen,
    }
    columns = ["id", "deletion_source", "deleted_at", "planned"]
    inserts = {}
    for why, query in queries.items():
        open_question = ~_answered(query.selected_columns[0], "alive", "unclear")
        chosen = query.add_columns(text("false")).where(_LIVING, open_question)
        inserts[why] = make(removals).from_select(columns, chosen).on_conflict_do_nothing()
    return inserts


@cache
def which(planned: bool | None, proved: bool | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of some of the candidates: those of the approved plan, the proved ones, or all."""
    gone = _answered(removals.c.id, "gone")
    of_plan = () if planned is None else (removals.c.planned.is_(planned),)
    return of_plan if proved is None else (*of_plan, gone if proved else ~gone)


@cache
def list_removals(planned: bool | None, proved: bool | None) -> Select[Any]:
    """Return the query for a chunk of candidates."""
    return _chunk(select(removals.c.id).where(*which(planned, proved)))


@cache
def count_removals(planned: bool | None) -> Select[Any]:
    """Return the query for the number of candidates."""
    return _count(removals, *which(planned, None))


@cache
def plan_removal(make: Callable[[Table], Any]) -> Any:
    """Return the upsert of a removal that is in the plan being approved."""
    return make(removals).on_conflict_do_update(index_elements=["id"], set_={"planned": True})


DROP_UNPROVED = delete(removals).where(_answered(removals.c.id, "alive", "unclear"))
DROP_UNSTORED = delete(removals).where(~_lives(removals.c.id))
DROP_LIVING = delete(removals).where(removals.c.id.in_(_IDS))


def _not_in_question(key: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(~exists().where(removals.c.id == key), ~_answered(key, "gone", "unclear"))


def _surest_first(key: ColumnElement[int]) -> ColumnElement[int]:
    """Order students by how sure it is that they live: GET has just said so, a list shows them, they are stored."""
    return case((_answered(key, "alive"), 0), (exists().where(staged.c.id == key, _ALIVE), 1), else_=2)


STORED_CONTROLS = (
    select(student.c.id)
    .where(_LIVING, _not_in_question(student.c.id))
    .order_by(_surest_first(student.c.id), student.c.content_hash)
    .limit(_LIMIT)
)
NEW_CONTROLS = (
    select(staged.c.id)
    .where(_ALIVE, _not_in_question(staged.c.id))
    .order_by(_surest_first(staged.c.id), staged.c.content_hash)
    .limit(_LIMIT)
)


# Verdicts --------------------------------------------------------------------------------------------------------


def _judge() -> Any:
    stored_hash = select(student.c.content_hash).where(_STORED).scalar_subquery()
    answer = select(answers.c.answer).where(answers.c.id == staged.c.id).scalar_subquery()
    verdict = case(
        (staged.c.rejected.is_not(None), "quarantined"),
        (or_(staged.c.deleted_at.is_not(None), answer == "gone"), "ignored"),
        (answer == "unclear", "unchanged"),  # neither proof: the id stays as it is
        (stored_hash.is_(None), "inserted"),
        (exists().where(_STORED, student.c.deleted_at.is_not(None)), "restored"),
        (stored_hash == staged.c.content_hash, "unchanged"),
        else_="updated",
    )
    return update(staged).values(verdict=verdict)


JUDGE = _judge()
VERDICTS = select(staged.c.verdict, func.count(), func.sum(case((staged.c.stale, 1), else_=0))).group_by(
    staged.c.verdict
)

_PAIRS = (
    select(*(student.c[name] for name in NAMES), *(staged.c[name] for name in NAMES))
    .join(staged, _STORED)
    .where(staged.c.id > _LAST)
    .order_by(staged.c.id)
    .limit(CHUNK)
)
CHANGES = _PAIRS.where(staged.c.verdict.in_(("updated", "restored")))
SHARED = _PAIRS.where(staged.c.verdict.in_(("updated", "unchanged")), student.c.deleted_at.is_(None))
MARK_CHANGE = (
    update(staged)
    .where(staged.c.id == _KEY)
    .values(changed_fields=bindparam("changed", type_=JsonTuple), versioned=bindparam("version"))
)

MISSING = _chunk(select(staged.c.id).where(staged.c.verdict.in_(("inserted", "restored"))))
MODIFIED_BETWEEN = select(staged.c.id).where(
    staged.c.id.in_(_IDS),
    staged.c.updated_at.between(bindparam("since", type_=Timestamp), bindparam("until", type_=Timestamp)),
)
LISTED_AMONG = select(deletions.c.id).where(deletions.c.id.in_(_IDS), _lives(deletions.c.id))
WRITTEN_AFTER = select(student.c.id).where(
    student.c.source == _SOURCE, student.c.id.in_(_IDS), student.c.run_id > bindparam("last_run", type_=BigInteger)
)
