"""From watermarks and clocks to what a run reads, and back to the watermarks that it leaves.

A watermark says up to where a stream is known to have been read. It is dated from the start of the steady reading of a
clean list, never from its end, so what changes while we read is read again. The start is the earlier of two clocks,
ours and the server's, for either may be wrong; and every filter asks from `overlap` before the watermark, for late
commits and for app servers whose clocks differ. Nothing else is remembered about clocks.

What this relies on: the server's clock does not fall by more than the overlap and pass the watermark again between two
runs. What is changed in between bears stamps from before the watermark, and waits for the next full run.
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
    """What the configuration says of reading, in `[sync]` and `[guard]`."""

    overlap: timedelta = timedelta(minutes=10)
    max_age: timedelta = timedelta(days=7)
    attempts: int = 3
    details_per_run: int = 500
    stage_bytes: int = 2 << 30
    guard: GuardPolicy = msgspec.field(default_factory=GuardPolicy)


def choose(requested: RunKind, state: SourceState, now: datetime, policy: SyncPolicy) -> RunKind:
    """Return the kind of run that `requested` must be: full without watermarks, or after too long (our clock).

    A refresh reads no list, so it stays one. A last clean reading that lies in the future says that our clock was
    wrong, and not how long ago it was.
    """
    marks, clean = state.watermarks, state.last_clean_modified_at
    if requested is RunKind.REFRESH:
        return requested
    if requested in {RunKind.FULL, RunKind.GROWTH} or marks.modified is None or marks.deleted is None:
        return RunKind.FULL
    recent = clean is not None and timedelta(0) <= now - clean <= policy.max_age
    return RunKind.INCREMENTAL if recent else RunKind.FULL


def filter_start(moment: datetime, overlap: timedelta) -> datetime:
    """Return the time that a filter asks from: `overlap` earlier, on the whole second before.

    The server's grain may be a second and its filter exclusive; a second too many is harmless.
    """
    return floor_seconds(moment - overlap) - timedelta(seconds=1)


def in_future(watermarks: Watermarks, moment: Moment, overlap: timedelta) -> bool:
    """Tell whether a watermark is later than the server's clock at `moment` by more than `overlap`.

    Then a clock was wrong when it was dated or is wrong now, and what it says was read may not have been. Without a
    `Date` this is unknown, and False is returned.
    """
    latest = max((mark for mark in (watermarks.modified, watermarks.deleted) if mark), default=None)
    return latest is not None and moment.server is not None and latest > moment.server + overlap


def advance(old: datetime | None, new: datetime | None, *, replace: bool = False) -> datetime | None:
    """Return the watermark after a run whose list began at `new`; None: it was not clean, or its time is unknown.

    A watermark never goes back, unless the new one is to `replace` one from the future.
    """
    if new is None or old is None:
        return old or new
    return new if replace else max(old, new)
