"""Decide from watermarks and clocks what a run reads, and to what time it moves the watermarks.

A watermark is the time up to which a stream (the modified or the deleted one) is known to have been read. It is dated
from the start of the steady reading of a clean list, never from its end, so changes made while we read are read again.
The start is the earlier of our clock and the server's, because either may be wrong. Every filter asks from `overlap`
before the watermark, because a commit may be late and the clocks of the app servers may differ. Nothing else about
clocks is remembered.

One assumption remains: between two runs, the server's clock is not set back by more than the overlap and then passes
the watermark again. Changes made in between would have stamps from before the watermark. Only the next full run would
find them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from rostersync.clock import floor_seconds
from rostersync.report import RunKind
from rostersync.sync.guard import GuardPolicy

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.records import Moment
    from rostersync.report import SourceState, Watermarks


class SyncPolicy(msgspec.Struct, frozen=True):
    """The settings in `[sync]` and `[guard]` about what a run reads and removes."""

    overlap: timedelta = timedelta(minutes=10)
    max_age: timedelta = timedelta(days=7)
    attempts: int = 3
    details_per_run: int = 500
    stage_bytes: int = 2 << 30
    guard: GuardPolicy = msgspec.field(default_factory=GuardPolicy)


def choose(requested: RunKind, state: SourceState, now: datetime, policy: SyncPolicy) -> RunKind:
    """Return the kind of the run for a request of the kind `requested`.

    A refresh is never turned into a full run, because it reads no list. Any other run is full if it
    was asked to be, if a watermark is missing, or if the last clean reading is more than `max_age` ago by our clock. It
    is also full if that reading lies in the future: our clock was wrong, so we do not know how long ago it was.
    """
    marks, clean = state.watermarks, state.last_clean_modified_at
    if requested is RunKind.REFRESH:
        return requested
    if requested in {RunKind.FULL, RunKind.GROWTH} or marks.modified is None or marks.deleted is None:
        return RunKind.FULL
    recent = clean is not None and timedelta(0) <= now - clean <= policy.max_age
    return RunKind.INCREMENTAL if recent else RunKind.FULL


def filter_start(moment: datetime, overlap: timedelta) -> datetime:
    """Return the time that a filter asks from: `moment` less `overlap`, in whole seconds, less one second.

    The server may store times in whole seconds, and its filter may exclude the given time. One second too many is
    harmless.
    """
    return floor_seconds(moment - overlap) - timedelta(seconds=1)


def in_future(watermarks: Watermarks, moment: Moment, overlap: timedelta) -> bool:
    """Return whether a watermark is later than the server's clock at `moment` by more than `overlap`.

    If so, a clock was wrong when the watermark was dated, or is wrong now, and changes from before the watermark may
    not have been read. If the server sent no `Date`, this is unknown, and the result is False.
    """
    latest = max((mark for mark in (watermarks.modified, watermarks.deleted) if mark), default=None)
    return latest is not None and moment.server is not None and latest > moment.server + overlap


def advance(old: datetime | None, new: datetime | None, *, replace: bool = False) -> datetime | None:
    """Return the watermark after a run.

    Args:
        old: The watermark before the run; None before the first.
        new: When the run's list began; None if the list was not clean, or if the time is unknown.
        replace: Whether `old` lies in the future. Only then may the watermark go back.

    """
    if new is None or old is None:
        return old or new
    return new if replace else max(old, new)
