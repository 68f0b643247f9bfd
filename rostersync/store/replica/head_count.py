"""Maintain each source's head count: the numbers of its current, enrolled and deleted students.

The head count is stored in the source's row, and each run updates it in the run's transaction. Because of the head
count, `sync_health`, `status` and the guard do not need to count students. Any other code that writes to the table
`student` must also update the head count.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, BigInteger, and_, any_, bindparam, func, select, union, update

from rostersync.report import RunKind
from rostersync.store.database.statements import SOURCE
from rostersync.store.schema.tables import source, student
from rostersync.store.stage.tables import candidates, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from rostersync.report import RunReport

_IS_LIVING = student.c.deleted_at.is_(None)
_STATES = {
    "living": _IS_LIVING,
    "enrolled": and_(_IS_LIVING, student.c.status == "enrolled"),
    "deleted": student.c.deleted_at.is_not(None),
}
_COUNT = select(*(func.count().filter(which).label(name) for name, which in _STATES.items()))
_ALL = _COUNT.where(student.c.source == SOURCE)
_OF_SOURCE = update(source).where(source.c.name == SOURCE)
_NEW = {name: bindparam(f"of_{name}", type_=BigInteger) for name in _STATES}
_SET = _OF_SOURCE.values(_NEW)
_ADD = _OF_SOURCE.values({name: source.c[name] + number for name, number in _NEW.items()})

_COUNTED = _COUNT.add_columns(student.c.source).group_by(student.c.source).subquery()
_KEPT_AND_COUNTED = (
    select(source.c.name, *(source.c[name] for name in _STATES), *(_COUNTED.c[name] for name in _STATES))
    .outerjoin_from(source, _COUNTED, _COUNTED.c.source == source.c.name)
    .order_by(source.c.name)
)


@cache
def _count_staged(dialect: str) -> Any:
    """Return a query that counts the stored students whose ids are also in the stage.

    The query looks up each student by id. On PostgreSQL, the query uses an array of ids. If the query used a join,
    PostgreSQL would read all students, because it assumes that a stage table without statistics is large.
    """
    ids = union(select(staged.c.id), select(candidates.c.id))
    if dialect == "postgresql":
        return _ALL.where(student.c.id == any_(func.array(ids.scalar_subquery(), type_=ARRAY(BigInteger))))
    return _ALL.where(student.c.id.in_(ids))


@contextmanager
def kept(connection: Connection, report: RunReport) -> Iterator[None]:
    """Update the head count of the run's source.

    In the `with` block, the caller writes the staged students to the replica. After a full run, all students of the
    source are counted, so a wrong head count is corrected. In any other run, only the students in the stage are
    counted, both before and after they are written. If a run writes no students, the head count is not updated.
    """
    of, counts = {"run_source": report.source}, report.counts
    if report.kind is RunKind.FULL:
        yield
        connection.execute(_SET, {**of, **_count(connection, _ALL, of)})
    elif counts.inserted or counts.updated or counts.restored or counts.deleted:
        mine = _count_staged(connection.dialect.name)
        before = _count(connection, mine, of)
        yield
        after = _count(connection, mine, of)
        connection.execute(_ADD, {**of, **{name: after[name] - before[name] for name in after}})
    else:
        yield


def _count(connection: Connection, query: Any, of: dict[str, str]) -> dict[str, int]:
    counted = connection.execute(query, of).mappings().one()
    return {f"of_{name}": int(number) for name, number in counted.items()}


def differences(connection: Connection) -> list[str]:
    """Return a sentence for each source that has a wrong head count.

    Each sentence contains the stored head count and the correct numbers.
    """
    found = []
    for name, *numbers in connection.execute(_KEPT_AND_COUNTED):
        in_source, in_rows = numbers[: len(_STATES)], [number or 0 for number in numbers[len(_STATES) :]]
        if in_source != in_rows:
            counts = f"{_in_words(in_source)}, but its rows are {_in_words(in_rows)}"
            found.append(f"the head count of source {name} is {counts}")
    return found


def _in_words(numbers: list[int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in zip(_STATES, numbers, strict=True))
