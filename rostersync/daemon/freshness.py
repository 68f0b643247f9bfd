"""Compute how long a source counts as up to date after a successful run."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from rostersync.config import Cron

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.config import Schedule

GRACE = timedelta(hours=1)
"""A source becomes stale this long after its slot and the jitter if no run has succeeded since."""


@lru_cache(maxsize=4096)  # because the daemon calls this function twice a second for each source
def fresh_until(schedule: Schedule, success: datetime) -> datetime:
    """Return the time when a source becomes stale if no run succeeds after `success`.

    The function takes the second slot for an incremental run after `success`, and adds the jitter and `GRACE`. So
    neither one missed slot nor a night or weekend without slots makes a source stale.
    """
    return _second_slot(schedule, success) + schedule.jitter + GRACE


def _second_slot(schedule: Schedule, success: datetime) -> datetime:
    if not isinstance(schedule.incremental, Cron):
        return success + 2 * schedule.incremental
    from rostersync.daemon.schedule import trigger_of  # noqa: PLC0415 - `status` needs the scheduler for cron lines only

    trigger, slot = trigger_of(schedule.incremental, ZoneInfo(schedule.timezone), timedelta(0)), success
    for _ in range(2):
        slot = trigger.get_next_fire_time(slot, slot)
    return slot
