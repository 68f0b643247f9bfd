"""From watermarks and clocks to the windows that a run reads, and back to the watermarks that it leaves.

A watermark is dated from the start of the crawl that was clean, never from its end, so a change made while we read is
read again. It is the earlier of two clocks, for either may be wrong; and every window begins `overlap` before it, for
late commits and for app servers whose clocks differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from rostersync.clock import floor_seconds
from rostersync.report import RunKind, SourceState
from rostersync.sync.guard import GuardPolicy

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.records import Moment


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says of reading, in `[sync]` and `[guard]`."""

    overlap: timedelta = timedelta(minutes=10)
    max_age: timedelta = timedelta(days=7)
    attempts: int = 3
    guard: GuardPolicy = field(default_factory=GuardPolicy)


def choose(requested: RunKind, state: SourceState, now: datetime, policy: Policy) -> RunKind:
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


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the later of two times, if there is any."""
    return max((moment for moment in (one, other) if moment is not None), default=None)


def earlier(start: datetime, watermark: datetime | None) -> datetime:
    """Return the earlier of a crawl's start and a watermark, if there is one."""
    return start if watermark is None else min(start, watermark)


def trusted(state: SourceState, moment: Moment, overlap: timedelta) -> bool:
    """Tell whether a crawl that began at `moment` may read from the watermarks: the server's clock is not behind them.

    None lies in its future by more than `overlap`. Nor has it fallen, against ours, by more than half of that
    since they were dated: what changed meanwhile may bear stamps from before them, and the other half is for late
    commits. (Ours may have been set forward instead; nothing tells these apart, and a full run is right for both.)
    """
    marks, ahead = state.watermarks, moment.server_ahead_s
    if any(mark is not None and mark > moment.server_start + overlap for mark in (marks.modified, marks.deleted)):
        return False
    if ahead is None or state.server_ahead_s is None:
        return True
    return ahead >= state.server_ahead_s - overlap.total_seconds() / 2


def ahead_when_dated(before: float | None, now: float | None, *, dated_anew: bool) -> float | None:
    """Return how far the server was ahead when the watermarks were dated, now or before; the most that it may be."""
    known = [seconds for seconds in (before, now) if seconds is not None]
    return now if dated_anew and now is not None else max(known, default=None)


def advance(old: datetime | None, new: datetime | None, *, replace: bool = False) -> datetime | None:
    """Return the later of two watermarks: they never go back, unless the old one is not trusted and is replaced."""
    if new is None or old is None or replace:
        return old if new is None else new
    return max(old, new)
