"""Read the state, the stored students and the quarantine of a source before a run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, bindparam, exists, func, select

from rostersync.projections import Keys, key_digest
from rostersync.report import SourceState, Watermarks
from rostersync.store.database.types import Timestamp
from rostersync.store.schema.tables import IS_GUARDED, quarantine, student, student_detail
from rostersync.store.schema.tables import run as _run
from rostersync.store.schema.tables import source as _source
from rostersync.store.stage.tables import staged

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import BindParameter, Connection

GUARD_WINDOW = timedelta(hours=24)

MAX_REPORTED_KEYS = 1_000
"""Once this many unknown keys of a source have been reported, further unknown keys are not reported."""

# Each statement is built only once, because building a statement takes longer than executing it.

_OF: BindParameter[Any] = bindparam("of")
_LIVING = and_(student.c.source == _OF, student.c.deleted_at.is_(None))

_STATE = select(_source, exists().where(student_detail.c.source == _OF).label("has_details")).where(
    _source.c.name == _OF
)
_COUNT_LIVING = select(_source.c.living).where(_source.c.name == _OF)
_SOME_LIVING = select(student.c.id).where(_LIVING).order_by(student.c.content_hash).limit(bindparam("at_most"))
_RECENT_REMOVALS = select(func.sum(_run.c.guarded)).where(
    _run.c.source == _OF,
    IS_GUARDED,
    _run.c.finished_at.between(bindparam("earliest", type_=Timestamp), bindparam("latest", type_=Timestamp)),
)
_QUARANTINED = (
    select(quarantine.c.id)
    .where(quarantine.c.source == _OF, quarantine.c.id > 0, quarantine.c.id.not_in(select(staged.c.id)))
    .order_by(quarantine.c.last_seen_at, quarantine.c.id)
    .limit(bindparam("at_most"))
)


def source_state(connection: Connection, source: str) -> SourceState:
    """Return the stored state of a source, or an empty state if the source is not in the database."""
    with connection.begin():
        row = connection.execute(_STATE, {"of": source}).first()
    if row is None:
        return SourceState()
    others = {"watermarks", "unknown_keys", "keys"}
    known = {name: getattr(row, name) for name in SourceState.__struct_fields__ if name not in others}
    watermarks = Watermarks(row.modified_watermark, row.deleted_watermark)
    keys = msgspec.convert({**(row.keys or {}), "salt": row.salt or b""}, Keys)
    return SourceState(watermarks=watermarks, unknown_keys=tuple(row.unknown_keys), keys=keys, **known)


def with_digests(known: tuple[str, ...], names: Iterable[str], salt: bytes) -> tuple[str, ...]:
    """Add the salted digests of `names` to the digests in `known`, and return all of them in sorted order.

    If `known` already has `MAX_REPORTED_KEYS` digests, return `known` unchanged.
    """
    if len(known) >= MAX_REPORTED_KEYS:
        return known
    return tuple(sorted({*known, *(key_digest(name, salt) for name in names)}))


def live_students(connection: Connection, source: str) -> int:
    """Return the number of a source's current students in the replica."""
    with connection.begin():
        return int(connection.scalar(_COUNT_LIVING, {"of": source}) or 0)


def some_living(connection: Connection, source: str, limit: int) -> list[int]:
    """Return the ids of at most `limit` current students.

    The students are chosen in the order of their content hashes, which is practically random.
    """
    with connection.begin():
        return list(connection.scalars(_SOME_LIVING, {"of": source, "at_most": limit}))


def recent_removals(connection: Connection, source: str, now: datetime) -> int:
    """Return the number of unapproved removals in the last 24 hours.

    A run that seems to have ended up to 24 hours after `now` also counts, because our clock may have been set back
    since the run ended. A run that seems to have ended more than 24 hours after `now` does not count, because our clock
    must have been wrong when it ended.
    """
    near = {"earliest": now - GUARD_WINDOW, "latest": now + GUARD_WINDOW}
    with connection.begin():
        return int(connection.scalar(_RECENT_REMOVALS, {"of": source, **near}) or 0)


def quarantined(connection: Connection, source: str, limit: int) -> list[int]:
    """Return the ids of at most `limit` students in quarantine whom this run has not received.

    The students who were last received longest ago come first.
    """
    with connection.begin():
        return list(connection.scalars(_QUARANTINED, {"of": source, "at_most": limit}))
