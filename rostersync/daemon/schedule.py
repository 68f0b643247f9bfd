"""When each source is due: two jobs a source, as `[schedule]` says. They only note what is due; the daemon does it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from rostersync.config import Cron
from rostersync.report import RunKind

if TYPE_CHECKING:
    from datetime import datetime

    from apscheduler.triggers.base import BaseTrigger

    from rostersync.config import Schedule

_SCHEDULED = (RunKind.INCREMENTAL, RunKind.FULL)


@dataclass(frozen=True, slots=True)
class LastRuns:
    """When a source last succeeded, and when its last clean full run ended; None: never."""

    success: datetime | None = None
    full: datetime | None = None


class Timetable:
    """The slots of some sources. All are kept by one thread, whatever their number: a job only notes that it is due."""

    def __init__(self, schedule: Schedule) -> None:
        """Plan nothing yet."""
        self._schedule = schedule
        self._due: SimpleQueue[tuple[str, RunKind]] = SimpleQueue()
        # However many slots of a job were missed, it is due once.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        executors = {"default": DebugExecutor()}  # jobs are called by the scheduler's own thread
        zone = ZoneInfo(schedule.timezone)
        self._scheduler = BackgroundScheduler(timezone=zone, executors=executors, job_defaults=defaults, daemon=True)
        self._scheduler.start()

    def plan(self, source: str, past: LastRuns, now: datetime) -> None:
        """Plan the runs of a source, anew where it was planned: what was missed before `now` is due at once."""
        firsts = {
            RunKind.INCREMENTAL: first_incremental(self._schedule, past, now),
            RunKind.FULL: first_full(self._schedule, past, now),
        }
        zone, jitter = ZoneInfo(self._schedule.timezone), self._schedule.jitter
        for kind, first in firsts.items():
            slot = self._schedule.incremental if kind is RunKind.INCREMENTAL else self._schedule.full
            at = {} if first is None else {"next_run_time": max(first, now)}
            trigger, name = trigger_of(slot, zone, jitter), _job(source, kind)
            self._scheduler.add_job(self._due.put, trigger, ((source, kind),), id=name, replace_existing=True, **at)

    def forget(self, source: str) -> None:
        """Plan nothing more for a source."""
        for kind in _SCHEDULED:
            if self._scheduler.get_job(_job(source, kind)):
                self._scheduler.remove_job(_job(source, kind))

    def due(self) -> list[tuple[str, RunKind]]:
        """Return the runs that have come due since the last call, in their order."""
        runs = []
        try:
            while True:
                runs.append(self._due.get_nowait())
        except Empty:
            return runs

    def next_runs(self, source: str) -> dict[RunKind, datetime]:
        """Return when each kind of run of a source is next due; nothing for a source that is not planned."""
        jobs = {kind: self._scheduler.get_job(_job(source, kind)) for kind in _SCHEDULED}
        return {kind: job.next_run_time for kind, job in jobs.items() if job}

    def stop(self) -> None:
        """Let the thread end. What has come due can still be asked for."""
        self._scheduler.shutdown(wait=False)


def _job(source: str, kind: RunKind) -> str:
    return f"{source} {kind}"


def first_incremental(schedule: Schedule, past: LastRuns, now: datetime) -> datetime | None:
    """Return when the first incremental run is due after a start at `now`; None: at the schedule's next slot.

    A success in the future, dated by a clock that was ahead, does not count.
    """
    if past.success is None or past.success > now:
        return now
    if isinstance(schedule.incremental, timedelta):
        return past.success + schedule.incremental
    return _missed(schedule.incremental, schedule, past.success, now)


def first_full(schedule: Schedule, past: LastRuns, now: datetime) -> datetime | None:
    """Return when the first full run is due after a start at `now`; None: at the schedule's next slot.

    An interval counts from the last clean full run: a daemon that is restarted more often than it would never come to
    it. How long ago a full run in the future was is unknown. The first run of a source is full by itself.
    """
    if past.full is None:
        return None
    if past.full > now:
        return now
    if isinstance(schedule.full, timedelta):
        return past.full + schedule.full
    return _missed(schedule.full, schedule, past.full, now)


def _missed(slots: Cron, schedule: Schedule, since: datetime, now: datetime) -> datetime | None:
    """Return the first slot of a cron line after `since`, where it is not later than `now`."""
    trigger = trigger_of(slots, ZoneInfo(schedule.timezone), timedelta(0))
    missed: datetime | None = trigger.get_next_fire_time(since, since)
    return missed if missed and missed <= now else None


def trigger_of(slot: timedelta | Cron, zone: ZoneInfo, jitter: timedelta) -> BaseTrigger:
    """Return APScheduler's trigger for a slot of the schedule."""
    spread = jitter.total_seconds() or None
    if isinstance(slot, Cron):
        return CronTrigger(**slot.fields(), timezone=zone, jitter=spread)
    return IntervalTrigger(seconds=int(slot.total_seconds()), timezone=zone, jitter=spread)
