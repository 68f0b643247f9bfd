"""Define the SQL statements that read and change the stage. Some of the statements also read the stored students.

Each statement is built only once, because building a statement takes longer than executing it. Some parameters are
defined in `rostersync.store.database.statements`, and the methods of the stage pass the others.
docs/reference/statements.md shows the SQL of the longer statements.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Integer,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    null,
    or_,
    select,
    text,
    update,
)

from rostersync.store.database.statements import SOURCE, among_ids, chunk, constant, upsert
from rostersync.store.schema.tables import DeletionSource, quarantine, student
from rostersync.store.stage.tables import answers, candidates, deletions, records, staged
from rostersync.store.stage.terms import Found, Reason

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table

_READING = bindparam("reading", type_=Integer)
_PAGE = bindparam("page", type_=Integer)

ALIVE = and_(staged.c.rejected.is_(None), staged.c.deleted_at.is_(None))
LIVING = and_(student.c.source == SOURCE, student.c.deleted_at.is_(None))
STORED = and_(student.c.source == SOURCE, student.c.id == staged.c.id)


def lives(key: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the SQL condition that is true if the student `key` is in the replica and is not deleted."""
    return exists().where(LIVING, student.c.id == key)


def found(*which: Found) -> ColumnElement[bool]:
    """Return the SQL condition that is true if the staged result of a GET request is one of `which`."""
    return answers.c.answer.in_([constant(answer) for answer in which])


def answered(key: ColumnElement[int], *which: Found) -> ColumnElement[bool]:
    """Return the SQL condition that is true if the staged GET result for the id `key` is one of `which`."""
    return exists().where(answers.c.id == key, found(*which))


def _count(table: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).select_from(table).where(*conditions)


# Readings of a list. Each list has its own table -------------------------------------------------------------------


BROUGHT = {table: _count(table, table.c.reading == _READING) for table in (staged, deletions)}
DROP_OTHERS = {table: delete(table).where(table.c.reading != _READING) for table in (staged, deletions)}
NOTE_BROUGHT = (
    update(staged)
    .where(among_ids(staged.c.id))
    .values(reading=_READING, page=_PAGE)
    .returning(staged.c.id, staged.c.updated_ms)
)
KEEP_PAGES = (  # here the parameter `ids` contains page numbers, not ids
    update(staged).where(staged.c.reading == _READING - 1, among_ids(staged.c.page)).values(reading=_READING)
)
DROP = tuple(delete(table).where(among_ids(table.c.id)) for table in (staged, records))
STORED_HASHES = select(student.c.id, student.c.content_hash).where(LIVING, among_ids(student.c.id))


# Students --------------------------------------------------------------------------------------------------------

_NEWS = ~exists().where(quarantine.c.source == SOURCE, quarantine.c.id == staged.c.id)
_BAD = staged.c.rejected.is_not(None)
RECEIVED = select(
    func.count().filter(_NEWS),
    func.count().filter(_NEWS, _BAD),
    func.count(staged.c.rejected),
    func.count().filter(staged.c.id < 0),
).select_from(staged)


# Deletions -------------------------------------------------------------------------------------------------------


@cache
def stage_deletion(dialect: str) -> Any:
    """Return the upsert for a row of the deleted feed.

    If the new row has no `deleted_at`, keep the staged `deleted_at`.
    """
    new = upsert(dialect, deletions)
    known = func.coalesce(new.excluded.deleted_at, deletions.c.deleted_at)
    return new.on_conflict_do_update(index_elements=["id"], set_={"reading": new.excluded.reading, "deleted_at": known})


DELETIONS_LACK_IDS = _count(deletions, deletions.c.id < 0)


# GET responses ---------------------------------------------------------------------------------------------------


@cache
def insert_answer(dialect: str) -> Any:
    """Return the upsert that stages the result of GET for one id."""
    new = upsert(dialect, answers)
    answer = {name: new.excluded[name] for name in ("answer", "deleted_at", "record")}
    return new.on_conflict_do_update(index_elements=["id"], set_=answer)


IS_STAGED = select(staged.c.id).where(ALIVE, staged.c.id == bindparam("key"))
GONE_IDS = chunk(select(answers.c.id).where(found(Found.GONE)))

UNCLEAR = (
    select(
        func.count(),
        func.count().filter(exists().where(staged.c.id == answers.c.id)),
        func.count().filter(exists().where(deletions.c.id == answers.c.id)),
    )
    .select_from(answers)
    .where(found(Found.UNCLEAR))
)

REJECT_OTHERS = (
    update(answers)
    .where(found(Found.GONE), ~exists().where(candidates.c.id == answers.c.id))
    .values(answer=str(Found.UNCLEAR))
)
UNPLAN = update(candidates).values(planned=False)


# Students to request by GET --------------------------------------------------------------------------------------

_UNPROVED = select(staged.c.id).where(ALIVE, ~answered(staged.c.id, Found.ALIVE, Found.GONE, Found.UNCLEAR))
UNPROVED_RESTORES = chunk(_UNPROVED.where(exists().where(STORED, student.c.deleted_at.is_not(None))))
UNPROVED_NEWCOMERS = chunk(_UNPROVED.join(deletions, deletions.c.id == staged.c.id).where(~lives(staged.c.id)))
_STORED_AT = select(student.c.updated_at).where(STORED, student.c.deleted_at.is_(None)).scalar_subquery()
UNPROVED_STAMPS = chunk(_UNPROVED.add_columns(staged.c.updated_ms, _STORED_AT))


# Candidates for removal ------------------------------------------------------------------------------------------

COLLECTED_FROM = {
    Reason.LISTED: deletions,
    Reason.LEFT: deletions,
    Reason.MARKED: staged,
    Reason.PROVED: answers,
}
"""A dictionary that maps each reason to the table of the stage from which its candidates are selected.

The statement for a reason is skipped if the reason's table is empty. `UNSEEN` has no entry, because its candidates come
from the stored students and not from a table of the stage.
"""


@cache
def collect(dialect: str) -> dict[Reason, Any]:
    """Return a dictionary that maps each reason to the statement that inserts its candidates for removal.

    Each statement inserts the candidates for one reason, and selects only students who are in the replica and are not
    deleted. A student is not selected if GET has returned the student or if the GET response was unclear.
    """
    stream, sweep = constant(DeletionSource.STREAM), constant(DeletionSource.SWEEP)
    listed = select(deletions.c.id, stream, deletions.c.deleted_at)
    not_staged = ~exists().where(staged.c.id == deletions.c.id)
    from_stage = {
        Reason.LISTED: listed,
        Reason.LEFT: listed.where(or_(not_staged, answered(deletions.c.id, Found.GONE))),
        Reason.MARKED: select(staged.c.id, stream, staged.c.deleted_at).where(staged.c.deleted_at.is_not(None)),
        Reason.PROVED: select(answers.c.id, stream, null()).where(found(Found.GONE)),
    }
    # These queries look up each staged id in the replica, because reading all stored students would take longer.
    queries = {why: query.where(lives(query.selected_columns[0])) for why, query in from_stage.items()}
    unseen = ~exists().where(staged.c.id == student.c.id)
    queries[Reason.UNSEEN] = select(student.c.id, sweep, null()).where(LIVING, unseen)
    columns = ["id", "deletion_source", "deleted_at", "planned"]
    inserts = {}
    for why, query in queries.items():
        chosen = query.add_columns(text("false"))
        # The query for `PROVED` reads `answers` directly, so `answered` would also match the responses for other
        # students.
        if why is not Reason.PROVED:
            chosen = chosen.where(~answered(query.selected_columns[0], Found.ALIVE, Found.UNCLEAR))
        inserts[why] = upsert(dialect, candidates).from_select(columns, chosen).on_conflict_do_nothing()
    return inserts


@cache
def _which(planned: bool | None, proved: bool | None) -> tuple[ColumnElement[bool], ...]:
    """Return the SQL conditions that select certain candidates for removal.

    Args:
        planned: True to select only the candidates in the approved plan, False to select only candidates who are not in
            the plan, or None to select all candidates.
        proved: True to select only the candidates whom GET has reported as gone, False to select only candidates whom
            GET has not reported as gone, or None to select all candidates.

    """
    gone = answered(candidates.c.id, Found.GONE)
    of_plan = () if planned is None else (candidates.c.planned.is_(planned),)
    return of_plan if proved is None else (*of_plan, gone if proved else ~gone)


@cache
def list_candidates(planned: bool | None, proved: bool | None) -> Select[Any]:
    """Return a query for one chunk of the candidates for removal. `_which` explains the parameters."""
    return chunk(select(candidates.c.id).where(*_which(planned, proved)))


@cache
def count_candidates(planned: bool | None) -> Select[Any]:
    """Return a query that counts the candidates for removal. `_which` explains the parameter `planned`."""
    return _count(candidates, *_which(planned, None))


@cache
def put_planned(dialect: str) -> Any:
    """Return the upsert that marks a candidate for removal as belonging to the approved plan."""
    return upsert(dialect, candidates).on_conflict_do_update(index_elements=["id"], set_={"planned": True})


DROP_DISPROVED = delete(candidates).where(answered(candidates.c.id, Found.ALIVE, Found.UNCLEAR))
DROP_UNSTORED = delete(candidates).where(~lives(candidates.c.id))
DROP_LIVING = delete(candidates).where(among_ids(candidates.c.id))


def _not_in_question(key: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(~exists().where(candidates.c.id == key), ~answered(key, Found.GONE, Found.UNCLEAR))


def _surest_first(key: ColumnElement[int]) -> ColumnElement[int]:
    """Return an SQL sort key that puts first the students whose existence is most certain.

    Students whom GET has returned come first. Students from a staged list come second, and all other students come
    last.
    """
    return case((answered(key, Found.ALIVE), 0), (exists().where(staged.c.id == key, ALIVE), 1), else_=2)


def _controls(living: Table, *conditions: ColumnElement[bool]) -> Select[Any]:
    key = living.c.id
    chosen = select(key).where(*conditions, _not_in_question(key))
    return chosen.order_by(_surest_first(key), living.c.content_hash).limit(bindparam("at_most", type_=Integer))


STORED_CONTROLS = _controls(student, LIVING)
NEW_CONTROLS = _controls(staged, ALIVE)
