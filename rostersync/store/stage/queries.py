"""Define the queries on the stage, and on the stored students that they are compared with.

Each query is built once, because building a query takes longer than executing it. The parameters are those in
`statements`, and those that the stage's methods pass.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, bindparam, case, delete, exists, func, null, or_, select, text, update

from rostersync.store.database.statements import SOURCE, among_ids, chunk, upsert
from rostersync.store.schema.tables import quarantine, student
from rostersync.store.stage.tables import answers, deletions, records, removals, staged

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table

_READING = bindparam("reading", type_=Integer)
_PAGE = bindparam("page", type_=Integer)

ALIVE = and_(staged.c.rejected.is_(None), staged.c.deleted_at.is_(None))
LIVING = and_(student.c.source == SOURCE, student.c.deleted_at.is_(None))
STORED = and_(student.c.source == SOURCE, student.c.id == staged.c.id)


def lives(key: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that the student with the id `key` is stored as living."""
    return exists().where(LIVING, student.c.id == key)


def answered(key: ColumnElement[int], *which: str) -> ColumnElement[bool]:
    """Return the condition that GET has answered about an id with one of `which`. Default: alive, gone or unclear."""
    answers_so = (answers.c.answer == text(f"'{answer}'") for answer in which or ("alive", "gone", "unclear"))
    return exists().where(answers.c.id == key, or_(*answers_so))


def _count(table: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).select_from(table).where(*conditions)


# Readings of a list; each list has its own table -------------------------------------------------------------------


BROUGHT = {table: _count(table, table.c.reading == _READING) for table in (staged, deletions)}
DROP_OTHERS = {table: delete(table).where(table.c.reading != _READING) for table in (staged, deletions)}
NOTE_BROUGHT = (
    update(staged)
    .where(among_ids(staged.c.id))
    .values(reading=_READING, page=_PAGE)
    .returning(staged.c.id, staged.c.updated_ms)
)
KEEP_PAGES = (  # the parameter `ids` has the numbers of the pages
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
    """Return the upsert of a row of the deleted feed. If the new row has no `deleted_at`, the earlier one is kept."""
    new = upsert(dialect, deletions)
    known = func.coalesce(new.excluded.deleted_at, deletions.c.deleted_at)
    return new.on_conflict_do_update(index_elements=["id"], set_={"reading": new.excluded.reading, "deleted_at": known})


DELETIONS_LACK_IDS = _count(deletions, deletions.c.id < 0)


# Answers ---------------------------------------------------------------------------------------------------------


@cache
def put_answer(dialect: str) -> Any:
    """Return the upsert of GET's answer about an id."""
    new = upsert(dialect, answers)
    answer = {name: new.excluded[name] for name in ("answer", "deleted_at", "record")}
    return new.on_conflict_do_update(index_elements=["id"], set_=answer)


IS_STAGED = select(staged.c.id).where(ALIVE, staged.c.id == bindparam("key"))
GONE_IDS = chunk(select(answers.c.id).where(answers.c.answer == "gone"))

UNCLEAR = (
    select(
        func.count(),
        func.count().filter(exists().where(staged.c.id == answers.c.id)),
        func.count().filter(exists().where(deletions.c.id == answers.c.id)),
    )
    .select_from(answers)
    .where(answers.c.answer == "unclear")
)

REJECT_OTHERS = (
    update(answers)
    .where(answers.c.answer == "gone", ~exists().where(removals.c.id == answers.c.id))
    .values(answer="unclear")
)
UNPLAN = update(removals).values(planned=False)


# Questions -------------------------------------------------------------------------------------------------------

_UNPROVED = select(staged.c.id).where(ALIVE, ~answered(staged.c.id))
UNPROVED_RESTORES = chunk(_UNPROVED.where(exists().where(STORED, student.c.deleted_at.is_not(None))))
UNPROVED_NEWCOMERS = chunk(_UNPROVED.join(deletions, deletions.c.id == staged.c.id).where(~lives(staged.c.id)))
_STORED_AT = select(student.c.updated_at).where(STORED, student.c.deleted_at.is_(None)).scalar_subquery()
UNPROVED_STAMPS = chunk(_UNPROVED.add_columns(staged.c.updated_ms, _STORED_AT))


# Removals --------------------------------------------------------------------------------------------------------

CANDIDATES_FROM = {"listed": deletions, "left": deletions, "marked": staged, "proved": answers}
"""The table of the stage that each query of `candidates` depends on. "unseen" also applies if the stage is empty."""


@cache
def candidates(dialect: str) -> dict[str, Any]:
    """Return the statements that insert candidates for removal, by reason.

    Each takes students who are stored as living, unless GET has answered alive or unclear about them:

    * `listed`: the deleted feed lists the student.
    * `left`: the deleted feed lists the student, and either no list has them or GET says that they are gone.
    * `marked`: the student's list row has a `deleted_at`.
    * `proved`: GET says that the student is gone.
    * `unseen`: no list has the student.
    """
    stream, swept = text("'stream'"), text("'sweep'")
    listed = select(deletions.c.id, stream, deletions.c.deleted_at)
    not_staged = ~exists().where(staged.c.id == deletions.c.id)
    from_stage = {
        "listed": listed,
        "left": listed.where(or_(not_staged, answered(deletions.c.id, "gone"))),
        "marked": select(staged.c.id, stream, staged.c.deleted_at).where(staged.c.deleted_at.is_not(None)),
        "proved": select(answers.c.id, stream, null()).where(answers.c.answer == "gone"),
    }
    # These look up each student of the stage by id, because the stage is small, and do not read all stored students.
    queries = {why: query.where(lives(query.selected_columns[0])) for why, query in from_stage.items()}
    unseen = ~exists().where(staged.c.id == student.c.id)
    queries["unseen"] = select(student.c.id, swept, null()).where(LIVING, unseen)
    columns = ["id", "deletion_source", "deleted_at", "planned"]
    inserts = {}
    for why, query in queries.items():
        open_question = ~answered(query.selected_columns[0], "alive", "unclear")
        chosen = query.add_columns(text("false")).where(open_question)
        inserts[why] = upsert(dialect, removals).from_select(columns, chosen).on_conflict_do_nothing()
    return inserts


@cache
def _which(planned: bool | None, proved: bool | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that select candidates.

    `planned` selects those in the approved plan (True) or the others (False). `proved` selects those who are gone
    according to GET (True) or the others (False). None does not restrict.
    """
    gone = answered(removals.c.id, "gone")
    of_plan = () if planned is None else (removals.c.planned.is_(planned),)
    return of_plan if proved is None else (*of_plan, gone if proved else ~gone)


@cache
def list_removals(planned: bool | None, proved: bool | None) -> Select[Any]:
    """Return the query for a chunk of the candidates that `_which` selects."""
    return chunk(select(removals.c.id).where(*_which(planned, proved)))


@cache
def count_removals(planned: bool | None) -> Select[Any]:
    """Return the query for the number of candidates that `_which` selects."""
    return _count(removals, *_which(planned, None))


@cache
def plan_removal(dialect: str) -> Any:
    """Return the upsert of a removal that is in the plan being approved."""
    return upsert(dialect, removals).on_conflict_do_update(index_elements=["id"], set_={"planned": True})


DROP_DISPROVED = delete(removals).where(answered(removals.c.id, "alive", "unclear"))
DROP_UNSTORED = delete(removals).where(~lives(removals.c.id))
DROP_LIVING = delete(removals).where(among_ids(removals.c.id))


def _not_in_question(key: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(~exists().where(removals.c.id == key), ~answered(key, "gone", "unclear"))


def _surest_first(key: ColumnElement[int]) -> ColumnElement[int]:
    """Return a sort key by how certain it is that a student lives.

    The first are the students that GET has returned. Students from a list follow, and then all other students.
    """
    return case((answered(key, "alive"), 0), (exists().where(staged.c.id == key, ALIVE), 1), else_=2)


def _controls(living: Table, *conditions: ColumnElement[bool]) -> Select[Any]:
    key = living.c.id
    chosen = select(key).where(*conditions, _not_in_question(key))
    return chosen.order_by(_surest_first(key), living.c.content_hash).limit(bindparam("at_most", type_=Integer))


STORED_CONTROLS = _controls(student, LIVING)
NEW_CONTROLS = _controls(staged, ALIVE)
