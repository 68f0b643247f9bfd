"""Decide from watermarks and clocks which lists a run reads, and compute the watermarks after the run.

All changes in a feed before the feed's watermark have been read. The modified feed and the deleted feed each have a
watermark. A watermark is the time when the steady reading of a clean list began. We do not use the time when the
reading ended, so the next run reads the changes made during the reading again. If our clock and the server's clock
differ, we use the earlier time, because either clock may be wrong. Every feed request asks for the changes since
`overlap` before the watermark, because the server may commit a change late, and the clocks of ManageBac's servers may
differ. No other information about clocks is stored.

There is one case that we cannot detect: between two runs, the server's clock is set back by more than the overlap, and
then reaches the watermark a second time. Changes made in the meantime are dated before the watermark, so only the next
full run finds them.
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
    """The settings in `[sync]` and `[guard]` that control what a run reads and removes."""

    overlap: timedelta = timedelta(minutes=10)
    max_age: timedelta = timedelta(days=7)
    attempts: int = 3
    details_per_run: int = 500
    stage_bytes: int = 2 << 30
    guard: GuardPolicy = msgspec.field(default_factory=GuardPolicy)


def choose(requested: RunKind, state: SourceState, now: datetime, policy: SyncPolicy) -> RunKind:
    """Return the kind of run to do for a request of the kind `requested`.

    A full run never replaces a refresh, because a refresh does not read lists. Any other run is full if a full run was
    requested, if a watermark is missing, or if, by our clock, the last clean reading of the modified feed or the roster
    is older than `max_age`. The run is also full if the last clean reading is dated in the future, because our clock
    was then wrong, and we do not know how long ago the reading was.
    """
    marks, clean = state.watermarks, state.last_clean_modified_at
    if requested is RunKind.REFRESH:
        return requested
    if requested in {RunKind.FULL, RunKind.GROWTH} or marks.modified is None or marks.deleted is None:
        return RunKind.FULL
    recent = clean is not None and timedelta(0) <= now - clean <= policy.max_age
    return RunKind.INCREMENTAL if recent else RunKind.FULL


def filter_start(moment: datetime, overlap: timedelta) -> datetime:
    """Return the start time for a feed request: one second before `moment` minus `overlap`, rounded down.

    The server may store times in whole seconds, and may exclude changes at exactly the given time. Reading one second
    more than necessary does no harm.
    """
    return floor_seconds(moment - overlap) - timedelta(seconds=1)


def in_future(watermarks: Watermarks, moment: Moment, overlap: timedelta) -> bool:
    """Return whether a watermark is ahead of the server's time at `moment` by more than `overlap`.

    If a watermark is that far ahead, a clock was wrong when the watermark was set, or is wrong now, so we may not have
    read all changes before the watermark. If the server sent no `Date`, we do not know the server's time, and the
    result is False.
    """
    latest = max((mark for mark in (watermarks.modified, watermarks.deleted) if mark), default=None)
    return latest is not None and moment.server is not None and latest > moment.server + overlap


def advance(old: datetime | None, new: datetime | None, *, replace: bool = False) -> datetime | None:
    """Return the new value of a watermark after a run.

    Args:
        old: The watermark before the run, or None if there was none.
        new: The time when the run began to read the list, or None if the list is not complete or the time is unknown.
        replace: Whether `old` is in the future, which is the only case in which the watermark may move back.

    """
    if new is None or old is None:
        return old or new
    return new if replace else max(old, new)
