"""Determine when the runs of each source are due according to `[schedule]`. The dispatcher executes the runs.

Each source has two APScheduler jobs: one for incremental runs and one for full runs. A failed run is retried after the
delays in `RETRY_AFTER`, unless its next slot comes first.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec
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

RETRY_AFTER = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 30))
"""The delays after the first four consecutive failures. After the fifth failure, the run waits for its next slot.

If a slot comes before the retry, the run waits for the slot, and the count of failures starts again. The failures of
both kinds of runs of a source are counted together.
"""


class LastRuns(msgspec.Struct, frozen=True):
    """The times of a source's last successful run and of its last clean full run. None means never."""

    success: datetime | None = None
    full: datetime | None = None


class _Retry(msgspec.Struct, frozen=True):
    """The time when a failed run is tried again, and the kind of the run."""

    at: datetime
    kind: RunKind


class Timetable:
    """The slots and retries of all scheduled sources.

    One thread is enough for all jobs, because a job only puts its source and kind into a queue.
    """

    def __init__(self, schedule: Schedule) -> None:
        """Start the scheduler's thread. No source is scheduled yet."""
        self._schedule = schedule
        self._slots: SimpleQueue[tuple[str, RunKind]] = SimpleQueue()
        self._failures: dict[str, int] = {}  # source -> the number of consecutive failures
        self._retries: dict[str, _Retry] = {}  # source -> its next retry
        self._lock = threading.Lock()  # because runs end in other threads
        # If several slots of a job were missed, the job runs only once.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        executors = {"default": DebugExecutor()}  # jobs run in the scheduler's own thread
        zone = ZoneInfo(schedule.timezone)
        self._scheduler = BackgroundScheduler(timezone=zone, executors=executors, job_defaults=defaults, daemon=True)
        self._scheduler.start()

    def schedule(self, source: str, past: LastRuns, now: datetime) -> None:
        """Cancel the scheduled runs of a source, and schedule its runs again.

        If a slot was missed, its run is due at once.

        Args:
            source: The name of the source.
            past: The times of the source's last runs.
            now: The current time.

        """
        self.cancel_retry(source)
        firsts = {
            RunKind.INCREMENTAL: first_incremental(self._schedule, past, now),
            RunKind.FULL: first_full(self._schedule, past, now),
        }
        zone, jitter = ZoneInfo(self._schedule.timezone), self._schedule.jitter
        for kind, first in firsts.items():
            slot = self._schedule.incremental if kind is RunKind.INCREMENTAL else self._schedule.full
            at = {} if first is None else {"next_run_time": max(first, now)}
            trigger, name = trigger_of(slot, zone, jitter), _job(source, kind)
            self._scheduler.add_job(self._slots.put, trigger, ((source, kind),), id=name, replace_existing=True, **at)

    def forget(self, source: str) -> None:
        """Cancel all scheduled runs of a source."""
        self.cancel_retry(source)
        for kind in _SCHEDULED:
            if self._scheduler.get_job(_job(source, kind)):
                self._scheduler.remove_job(_job(source, kind))

    def failed(self, source: str, kind: RunKind, now: datetime) -> datetime | None:
        """Schedule a retry of a failed run, and return the time of the retry.

        Return None if the run is not retried before its next slot.
        """
        with self._lock:
            if self._full_run_waits(source, kind):
                return self._retries[source].at
            failures = self._failures.get(source, 0)
            if failures == len(RETRY_AFTER):
                return None
            at = now + RETRY_AFTER[failures]
            for slot_kind, slot in self._next_slots(source).items():
                does_as_much = kind is RunKind.INCREMENTAL or slot_kind is kind
                if does_as_much and slot <= at:
                    return None
            self._failures[source] = failures + 1
            self._retries[source] = _Retry(at, kind)
            return at

    def settled(self, source: str, kind: RunKind) -> None:
        """Cancel a source's retry after a run that did not fail, or because a slot has come. Reset the failure count.

        An incremental run does not cancel the retry of a full run.
        """
        with self._lock:
            if not self._full_run_waits(source, kind):
                self._forget_failures(source)

    def cancel_retry(self, source: str) -> None:
        """Cancel a source's retry, so that the source's next run is at its next slot."""
        with self._lock:
            self._forget_failures(source)

    def _full_run_waits(self, source: str, kind: RunKind) -> bool:
        """Return whether the source is waiting to retry a full run that a run of this `kind` cannot replace."""
        return kind is RunKind.INCREMENTAL and source in self._retries and self._retries[source].kind is RunKind.FULL

    def _forget_failures(self, source: str) -> None:
        self._failures.pop(source, None)
        self._retries.pop(source, None)

    def due(self, now: datetime) -> list[tuple[str, RunKind]]:
        """Return the runs that have become due since the last call: first the runs from slots, and then the retries."""
        runs = []
        with suppress(Empty):
            while True:
                source, kind = self._slots.get_nowait()
                runs.append((source, kind))
                self.settled(source, kind)
        with self._lock:
            again = [(source, retry.kind) for source, retry in self._retries.items() if retry.at <= now]
            for source, _ in again:
                del self._retries[source]
        return runs + again

    def next_runs(self, source: str) -> dict[RunKind, datetime]:
        """For each kind of run, return when it is next due. The dict is empty if the source is not scheduled."""
        runs = self._next_slots(source)
        retry = self._retries.get(source)
        if runs and retry:
            runs[retry.kind] = retry.at
        return runs

    def _next_slots(self, source: str) -> dict[RunKind, datetime]:
        jobs = {kind: self._scheduler.get_job(_job(source, kind)) for kind in _SCHEDULED}
        return {kind: job.next_run_time for kind, job in jobs.items() if job}

    def stop(self) -> None:
        """End the scheduler's thread. The method `due` still returns runs that became due earlier."""
        self._scheduler.shutdown(wait=False)


def _job(source: str, kind: RunKind) -> str:
    return f"{source} {kind}"


def first_incremental(schedule: Schedule, past: LastRuns, now: datetime) -> datetime | None:
    """Return when a daemon that starts at `now` does its first incremental run. None means at the next slot.

    If the last successful run is dated in the future, the clock was wrong at that time, so the run is ignored.
    """
    if past.success is None or past.success > now:
        return now
    if isinstance(schedule.incremental, timedelta):
        return past.success + schedule.incremental
    return _missed(schedule.incremental, schedule, past.success, now)


def first_full(schedule: Schedule, past: LastRuns, now: datetime) -> datetime | None:
    """Return when a daemon that starts at `now` does its first full run. None means at the next slot.

    An interval is counted from the last clean full run, and not from the start of the daemon. Otherwise, a daemon that
    is restarted more often than the interval would never do a full run. If the last full run is dated in the future,
    its real time is not known, so the next full run is due now. If a source has never had a full run, the result is
    None, because the first run of a source is always full.
    """
    if past.full is None:
        return None
    if past.full > now:
        return now
    if isinstance(schedule.full, timedelta):
        return past.full + schedule.full
    return _missed(schedule.full, schedule, past.full, now)


def _missed(slots: Cron, schedule: Schedule, since: datetime, now: datetime) -> datetime | None:
    """Return the first time after `since` that matches a cron line, or None if that time is later than `now`."""
    trigger = trigger_of(slots, ZoneInfo(schedule.timezone), timedelta(0))
    missed: datetime | None = trigger.get_next_fire_time(since, since)
    return missed if missed and missed <= now else None


def trigger_of(slot: timedelta | Cron, zone: ZoneInfo, jitter: timedelta) -> BaseTrigger:
    """Return APScheduler's trigger for an interval or a cron line."""
    spread = jitter.total_seconds() or None
    if isinstance(slot, Cron):
        return CronTrigger(**slot.fields(), timezone=zone, jitter=spread)
    return IntervalTrigger(seconds=int(slot.total_seconds()), timezone=zone, jitter=spread)
