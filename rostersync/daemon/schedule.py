"""When each source is due: two jobs a source, as `[schedule]` says, carried out by a pool of threads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from rostersync.config import Cron
from rostersync.report import RunKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from datetime import datetime

    from apscheduler.triggers.base import BaseTrigger

    from rostersync.config import Schedule


class _PoolExecutor(BasePoolExecutor):  # type: ignore[misc] # apscheduler has no types
    """Has a pool do the scheduler's jobs: apscheduler's own executors make pools that keep the process alive."""

    def __init__(self, pool: Executor) -> None:
        super().__init__(pool)


@dataclass(frozen=True, slots=True)
class LastRuns:
    """When a source last succeeded, and when its last clean full run ended; None: never."""

    success: datetime | None = None
    full: datetime | None = None


def scheduler(
    schedule: Schedule,
    past: Mapping[str, LastRuns],
    now: datetime,
    pool: Executor,
    run: Callable[[str, RunKind], None],
) -> BackgroundScheduler:
    """Return a scheduler, not started, that has each source of `past` run by `pool`, and shuts `pool` down with itself.

    A source that is overdue at `now`, or never succeeded, is due at once. However many slots of a job were missed,
    it is run once; and never twice at the same time.
    """
    zone = ZoneInfo(schedule.timezone)
    defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    planned = BackgroundScheduler(
        timezone=zone, executors={"default": _PoolExecutor(pool)}, job_defaults=defaults, daemon=True
    )
    for source, last in past.items():
        firsts = {
            RunKind.INCREMENTAL: first_incremental(schedule, last, now),
            RunKind.FULL: first_full(schedule, last, now),
        }
        for kind, first in firsts.items():
            slot = schedule.incremental if kind is RunKind.INCREMENTAL else schedule.full
            at = {} if first is None else {"next_run_time": max(first, now)}
            trigger = _trigger(slot, zone, schedule.jitter)
            planned.add_job(run, trigger, (source, kind), id=f"{source} {kind}", **at)
    return planned


def first_incremental(schedule: Schedule, past: LastRuns, now: datetime) -> datetime | None:
    """Return when the first incremental run is due after a start at `now`; None: at the schedule's next slot.

    A success in the future, dated by a clock that was ahead, does not count.
    """
    if past.success is None or past.success > now:
        return now
    if isinstance(schedule.incremental, timedelta):
        return past.success + schedule.incremental
    slots = _trigger(schedule.incremental, ZoneInfo(schedule.timezone), timedelta(0))
    missed: datetime | None = slots.get_next_fire_time(past.success, past.success)
    return missed if missed and missed <= now else None


def first_full(schedule: Schedule, past: LastRuns, now: datetime) -> datetime | None:
    """Return when the first full run is due after a start at `now`; None: at the schedule's next slot.

    An interval counts from the last full run: a daemon that is restarted more often than it would never come to it.
    How long ago a full run in the future was is unknown.
    """
    if past.full is None or not isinstance(schedule.full, timedelta):
        return None
    return now if past.full > now else past.full + schedule.full


def _trigger(slot: timedelta | Cron, zone: ZoneInfo, jitter: timedelta) -> BaseTrigger:
    spread = jitter.total_seconds() or None
    if isinstance(slot, Cron):
        return CronTrigger(**slot.fields(), timezone=zone, jitter=spread)
    return IntervalTrigger(seconds=int(slot.total_seconds()), timezone=zone, jitter=spread)
