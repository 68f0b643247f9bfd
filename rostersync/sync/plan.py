"""From watermarks and clocks to the windows that a run reads, and back to the watermarks that it leaves.

A watermark is dated from the start of the crawl that was clean, never from its end, so a change made while we read is
read again. It is the earlier of two clocks, for either may be wrong; and every window begins `overlap` before it, for
late commits and for app servers whose clocks differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from rostersync.clock import floor_seconds
from rostersync.report import RunKind, SourceState
from rostersync.sync.guard import GuardPolicy

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.records import Moment

T = TypeVar("T", "datetime", float)


@dataclass(frozen=True, slots=True)
class SyncPolicy:
    """What the configuration says of reading, in `[sync]` and `[guard]`."""

    overlap: timedelta = timedelta(minutes=10)
    max_age: timedelta = timedelta(days=7)
    attempts: int = 3
    guard: GuardPolicy = field(default_factory=GuardPolicy)


def choose(requested: RunKind, state: SourceState, now: datetime, policy: SyncPolicy) -> RunKind:
    """Return the kind of run that `requested` must be: full without watermarks, or after too long (our clock).

    A last clean crawl that lies ahead says that our clock was wrong, and not how long ago it was.
    """
    marks, clean = state.watermarks, state.last_clean_modified_at
    if requested is RunKind.FULL or marks.modified is None or marks.deleted is None:
        return RunKind.FULL
    recent = clean is not None and timedelta(0) <= now - clean <= policy.max_age
    return RunKind.INCREMENTAL if recent else RunKind.FULL


def since(moment: datetime, overlap: timedelta) -> datetime:
    """Return what a since-filter asks from: `overlap` earlier, on the whole second before.

    The server's grain may be a second and its filter exclusive; a second too many is harmless.
    """
    return floor_seconds(moment - overlap) - timedelta(seconds=1)


def greater(one: T | None, other: T | None) -> T | None:
    """Return the later of two times, or the higher of two numbers, if there is any."""
    return max((value for value in (one, other) if value is not None), default=None)


def earlier(start: datetime, watermark: datetime | None) -> datetime:
    """Return the earlier of a crawl's start and a watermark, if there is one."""
    return start if watermark is None else min(start, watermark)


def trusted(state: SourceState, moment: Moment, overlap: timedelta) -> bool:
    """Tell whether a crawl that began at `moment` may read from the watermarks: the server's clock is not behind them.

    None lies in its future by more than `overlap`. Nor did one by more than half of that when the last crawl began,
    by the server's clock as it is set now: what changed meanwhile may bear stamps from before them, and the other
    half is for late commits. (Ours may have been set forward instead; a full run is right for both.) What nobody sees
    is a fall that is taken back before the next crawl, or one of both clocks at once. And what a slow clock of the
    server's has stamped, and only comes to light after that clock was put right, waits for the next full run.
    """
    marks, ahead = state.watermarks, moment.server_ahead_s
    if any(mark is not None and mark > moment.server_start + overlap for mark in (marks.modified, marks.deleted)):
        return False
    return not fallen(ahead, state.server_ahead_s, overlap)


def fallen(ahead: float | None, needed: float | None, overlap: timedelta) -> bool:
    """Tell whether the server's clock is less far ahead of ours than needed, by more than half of the overlap."""
    return ahead is not None and needed is not None and ahead < needed - overlap.total_seconds() / 2


def lead(mark: datetime | None, moment: Moment, before: float | None) -> float | None:
    """Return how far the server's clock has to be ahead of ours from `moment` on, so that no change is missed.

    By so much the watermark is. Without a `Date` nobody knows whether it was until now, and what was needed `before`
    is still.
    """
    needed = None if mark is None else (mark - moment.local).total_seconds()
    return needed if moment.server is not None else greater(needed, before)


def advance(old: datetime | None, new: datetime | None, *, replace: bool = False) -> datetime | None:
    """Return the later of two watermarks: they never go back, unless the old one is not trusted, and goes.

    It goes even where there is no new one, for nothing would remember that it was not trusted.
    """
    if new is None or old is None or replace:
        return old if new is None and not replace else new
    return max(old, new)
