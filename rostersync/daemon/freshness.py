"""Compute how long after a successful run a source still counts as up to date."""

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
"""The time that a run may take after its slot and the jitter before the source counts as stale."""


@lru_cache(maxsize=4096)  # the daemon asks twice a second for each of its sources
def fresh_until(schedule: Schedule, success: datetime) -> datetime:
    """Return the time when a source becomes stale if no run succeeds after `success`.

    This time is the second slot for an incremental run after `success`, plus the jitter and `GRACE`. So a source does
    not become stale because of one missed slot, or because of a night or a weekend without slots.
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
