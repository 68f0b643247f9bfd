"""Compare the staged students with the stored students.

A run uses the comparison to find its verdicts, and `verify` uses the comparison to find differences.
docs/reference/statements.md shows the SQL.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, bindparam, case, func, or_, select, text

from rostersync.clock import to_epoch_ms
from rostersync.report import Counts
from rostersync.store.database.statements import SOURCE, among_ids, chunk, constant
from rostersync.store.schema.rows import NAMES, student_of
from rostersync.store.schema.tables import PAYLOAD, student
from rostersync.store.stage.queries import STORED, found, lives
from rostersync.store.stage.tables import answers, deletions, details, records, staged
from rostersync.store.stage.terms import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Select

    from rostersync.records import Student
    from rostersync.store.stage import Stage

_JOINED = (
    staged.outerjoin(student, STORED)
    .outerjoin(answers, answers.c.id == staged.c.id)
    .outerjoin(details, details.c.id == staged.c.id)
)


class Verdict(StrEnum):
    """The action that a run takes for a staged row. For each verdict, `Counts` has a field with the same name."""

    QUARANTINED = "quarantined"
    IGNORED = "ignored"
    UNCHANGED = "unchanged"
    INSERTED = "inserted"
    RESTORED = "restored"
    UPDATED = "updated"


VERDICT = case(
    (staged.c.rejected.is_not(None), constant(Verdict.QUARANTINED)),
    (or_(staged.c.deleted_at.is_not(None), found(Found.GONE)), constant(Verdict.IGNORED)),
    (found(Found.UNCLEAR), constant(Verdict.UNCHANGED)),  # it is unknown whether the student is gone
    (student.c.id.is_(None), constant(Verdict.INSERTED)),
    (student.c.deleted_at.is_not(None), constant(Verdict.RESTORED)),
    (or_(student.c.content_hash != staged.c.content_hash, details.c.renewed), constant(Verdict.UPDATED)),
    else_=constant(Verdict.UNCHANGED),
)
"""The SQL expression for the verdict on a staged row. The first condition that is true determines the verdict."""

_VERDICTS = select(VERDICT, func.count()).select_from(_JOINED).group_by(text("1"))


def judged(*columns: Any, verdicts: tuple[Verdict, ...]) -> Select[Any]:
    """Return a query for the staged rows that have one of `verdicts`. The first column is the id."""
    joined = _JOINED.outerjoin(records, records.c.id == staged.c.id)
    return (
        select(staged.c.id, *columns)
        .select_from(joined)
        .where(VERDICT.in_([constant(verdict) for verdict in verdicts]))
    )


_MISSING = chunk(judged(verdicts=(Verdict.INSERTED, Verdict.RESTORED)))
_MODIFIED_BETWEEN = select(staged.c.id).where(
    among_ids(staged.c.id),
    staged.c.updated_ms.between(bindparam("since_ms", type_=BigInteger), bindparam("until_ms", type_=BigInteger)),
)
_LISTED_AMONG = select(deletions.c.id).where(among_ids(deletions.c.id), lives(deletions.c.id))
_WRITTEN_AFTER = select(student.c.id).where(
    student.c.source == SOURCE, among_ids(student.c.id), student.c.run_id > bindparam("last_run", type_=BigInteger)
)

_OURS = select(student.c.id).where(student.c.source == SOURCE)
_TWICE = _OURS.group_by(student.c.id).having(func.count() > 1).order_by(student.c.id)


@cache
def _differing() -> Select[Any]:
    """Return a query for the current students whose stored and staged columns differ.

    The query is built when it is first used, because only `verify` needs it.
    """
    both = (table.c[name] for table in (student, records) for name in NAMES)
    pairs = judged(*both, verdicts=(Verdict.UPDATED, Verdict.UNCHANGED))
    differs = or_(*(student.c[name].is_distinct_from(records.c[name]) for name in PAYLOAD))
    return chunk(pairs.where(student.c.deleted_at.is_(None), records.c.id.is_not(None), differs))


class Comparison:
    """Compares the staged students of a run with the stored students of its source."""

    def __init__(self, stage: Stage) -> None:
        self._session = stage.session

    def judge(self) -> Counts:
        """Return the number of staged rows for each verdict. `fetched` is the total number of staged rows."""
        verdicts: dict[str, int] = dict(self._session.rows(_VERDICTS, unless_empty=staged))
        return Counts(fetched=sum(verdicts.values()), **verdicts)

    def differing(self) -> Iterator[list[tuple[Student, Student]]]:
        """Yield, in chunks, pairs of a stored and a staged record that differ.

        Students who are deleted in the replica are skipped.
        """
        for rows in self._session.chunks(_differing(), unless_empty=staged):
            yield [(student_of(row, 1), student_of(row, 1 + len(NAMES))) for row in rows]

    def missing(self) -> Iterator[list[int]]:
        """Yield, in chunks, the ids of students who exist in ManageBac but are missing or deleted in the replica."""
        return self._session.ids(_MISSING, unless_empty=staged)

    def stored_twice(self) -> list[int]:
        """Return the ids that occur in more than one stored row.

        This can happen only if the primary key was dropped.
        """
        return [row[0] for row in self._session.rows(_TWICE)]

    def pending(self, ids: Iterable[int], *, since: datetime, until: datetime, last_run: int) -> set[int]:
        """Return the subset of `ids` that a run after `last_run` has written, or the next incremental run will read.

        The next incremental run will read a student if the staged `updated_at` is between `since` and `until`. The next
        incremental run will also read each current student who is in the deleted feed.
        """
        known = {"ids": list(ids), "since_ms": to_epoch_ms(since), "until_ms": to_epoch_ms(until), "last_run": last_run}
        reasons = ((_MODIFIED_BETWEEN, staged), (_LISTED_AMONG, deletions), (_WRITTEN_AFTER, None))
        return {row[0] for reason, of in reasons for row in self._session.rows(reason, unless_empty=of, **known)}
