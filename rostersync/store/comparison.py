"""What staged rows mean beside the stored ones: a run's verdicts, and the differences that `verify` reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, and_, bindparam, case, exists, func, or_, select, update

from rostersync.records import Student, changed_fields
from rostersync.report import Counts
from rostersync.store.models import student
from rostersync.store.rows import NAMES, student_of
from rostersync.store.stage.queries import lives
from rostersync.store.stage.tables import answers, deletions, staged
from rostersync.store.statements import CHUNK, IDS, LAST, SOURCE, Statements, chunk
from rostersync.store.types import JsonTuple, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Select

_KEY = bindparam("key", type_=BigInteger)

_STORED = and_(student.c.source == SOURCE, student.c.id == staged.c.id)


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


_JUDGE = _judge()
_VERDICTS = select(staged.c.verdict, func.count(), func.count().filter(staged.c.stale)).group_by(staged.c.verdict)

_PAIRS = (
    select(*(student.c[name] for name in NAMES), *(staged.c[name] for name in NAMES))
    .join(staged, _STORED)
    .where(staged.c.id > LAST)
    .order_by(staged.c.id)
    .limit(CHUNK)
)
_CHANGES = _PAIRS.where(staged.c.verdict.in_(("updated", "restored")))
_SHARED = _PAIRS.where(staged.c.verdict.in_(("updated", "unchanged")), student.c.deleted_at.is_(None))
_MARK_CHANGE = (
    update(staged)
    .where(staged.c.id == _KEY)
    .values(changed_fields=bindparam("changed", type_=JsonTuple), versioned=bindparam("version"))
)

_MISSING = chunk(select(staged.c.id).where(staged.c.verdict.in_(("inserted", "restored"))))
_MODIFIED_BETWEEN = select(staged.c.id).where(
    staged.c.id.in_(IDS),
    staged.c.updated_at.between(bindparam("since", type_=Timestamp), bindparam("until", type_=Timestamp)),
)
_LISTED_AMONG = select(deletions.c.id).where(deletions.c.id.in_(IDS), lives(deletions.c.id))
_WRITTEN_AFTER = select(student.c.id).where(
    student.c.source == SOURCE, student.c.id.in_(IDS), student.c.run_id > bindparam("last_run", type_=BigInteger)
)


class Comparison(Statements):
    """The staged students of a run beside the stored ones of its source."""

    def judge(self) -> Counts:
        """Give every staged student a verdict, and return how many got each.

        Of changed students note which fields changed. A row is written when anything in it has; history gets a version
        when it is more than a login or a newly signed avatar address, which are no events in a student's life.
        """
        self._do(_JUDGE)
        for pairs in self._pairs(_CHANGES):
            changed = [(stored.id, changed_fields(stored, received)) for stored, received in pairs]
            marks = [{"key": key, "changed": names, "version": bool(names)} for key, names in changed]
            self._put_all(_MARK_CHANGE, marks)
        rows = self._rows(_VERDICTS)
        verdicts = {row[0]: row[1] for row in rows}
        return Counts(fetched=sum(verdicts.values()), **verdicts, stale=sum(row[2] for row in rows))

    def shared(self) -> Iterator[list[tuple[Student, Student]]]:
        """Yield, in chunks, the judged students who live upstream and in the replica: as stored, and as received."""
        return self._pairs(_SHARED)

    def missing(self) -> Iterator[list[int]]:
        """Yield the judged students who live upstream and not in the replica."""
        return self._ids(_MISSING)

    def pending(self, ids: Iterable[int], *, since: datetime, until: datetime, last_run: int) -> set[int]:
        """Return those of `ids` whom the next incremental run will see, or whom one after `last_run` has written.

        It will see who was modified between `since` and `until`, and who is stored as living and listed as deleted.
        """
        known = {"ids": list(ids), "since": since, "until": until, "last_run": last_run}
        reasons = (_MODIFIED_BETWEEN, _LISTED_AMONG, _WRITTEN_AFTER)
        return {row[0] for reason in reasons for row in self._rows(reason, **known)}

    def _pairs(self, query: Select[Any]) -> Iterator[list[tuple[Student, Student]]]:
        pairs = self._chunks(query)
        return ([(student_of(row, 0), student_of(row, len(NAMES))) for row in rows] for rows in pairs)
