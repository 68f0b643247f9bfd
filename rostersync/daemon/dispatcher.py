"""Do the daemon's work: hold its sources' locks, create requests for runs that are due, and execute requests.

One thread must call `tick` at least once a second. Runs are executed in a pool of `sources_at_once` threads. A waiting
request is a row in the database, and a waiting source is an entry in the pool's queue. So neither of them occupies a
thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rostersync.daemon.schedule import LastRuns, Timetable
from rostersync.errors import ConfigError, LockHeld, Stopped
from rostersync.logger import get_logger
from rostersync.pool import SHUTDOWN_S, DaemonExecutor
from rostersync.report import RequestState, RunKind, RunRequest, RunState
from rostersync.runs import wiring
from rostersync.store.queue import requests
from rostersync.store.queue.daemons import Watch
from rostersync.store.replica.state import live_students
from rostersync.store.status import health

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rostersync.cancel import CancelScope
    from rostersync.config import Config
    from rostersync.daemon.condition import Condition
    from rostersync.report import RunReport
    from rostersync.store.queue.requests import OpenRequest
    from rostersync.store.store import Store

log = get_logger(__name__)

PURPOSE = "rostersync run"

TAKE_EVERY_S = 2.0
"""The number of seconds between two attempts to take the locks that other processes hold."""

RETRY_S = 30.0
"""The number of seconds to wait before executing a request again that is still open after an error.

A request is still open if the error could not be stored in the request, for example because the disk was full, or if
the lock was lost. A new request is executed without this delay. A request that failed is closed, and the timetable
decides when a run is retried: see `schedule.RETRY_AFTER`.
"""

CLOCK_STEP_S = 60.0
"""If the system clock was set forward or back by more than this many seconds, all slots are computed again."""


class Dispatcher:
    """Executes the runs of each configured source while this process holds the source's lock."""

    def __init__(self, config: Config, scope: CancelScope, store: Store, condition: Condition) -> None:
        """Create a dispatcher that holds no locks and has scheduled no runs yet.

        Args:
            config: The configuration.
            scope: The scope of the daemon. If it is cancelled, all runs end.
            store: The database.
            condition: The object that receives the report of each run.

        """
        self._scope, self._clock, self.store, self._condition = scope, scope.clock, store, condition
        self._locks = store.held_locks(PURPOSE)
        self._standing_by: dict[str, str] = {}  # source -> the process that holds its lock
        self._busy: dict[str, CancelScope | None] = {}  # source -> the scope of its run, or None until it has a thread
        self._resting: dict[str, float] = {}  # source -> when the source may be tried again (see RETRY_S)
        self._living: dict[str, int] = {}  # source -> the number of current students in the replica
        self._unfiled: dict[tuple[str, RunKind], None] = {}  # the runs that are due, in order
        self._offset, self._tried_at = self._clock_offset(), float("-inf")
        self._use(config)

    def configure(self, config: Config) -> None:
        """Switch to a new configuration. Runs in progress continue to use the old configuration."""
        self._timetable.stop()
        self._pool.shutdown(wait=False)
        self._use(config)
        self._schedule(self._held())

    def _use(self, config: Config) -> None:
        self._sources = tuple(source.name for source in config.sources)
        self._executor = wiring.executor(config, self.store, PURPOSE)
        self._pool = DaemonExecutor("run", config.sync.sources_at_once)
        self._timetable = Timetable(config.schedule)

    def tick(self) -> None:
        """Do the work that is due now.

        Raises `StoreError` if the database cannot be used. If it does, the next call tries the same work again.
        """
        self._unfiled |= dict.fromkeys(self._timetable.due(self._clock.now()))
        self._locks.require()
        self._give_up_sources()
        self._take_sources()
        if abs(self._clock_offset() - self._offset) > CLOCK_STEP_S:
            log.warning("clock_stepped")
            self._schedule(self._held())
        self._executor.tell_failures()
        self._file_what_is_due()
        self._dispatch()

    def sync_now(self) -> None:
        """Sync every source for which this daemon has the lock, at the next call of `tick`."""
        self._unfiled |= {(source, RunKind.INCREMENTAL): None for source in self._held()}

    def hung(self, seconds: float) -> list[str]:
        """Return the sources whose current run has not checked its scope for more than `seconds`."""
        busy = self._busy.copy()  # a copy, because the pool's threads change `_busy` when runs begin or end
        return [source for source, scope in busy.items() if scope and scope.silent_for() > seconds]

    def watches(self) -> dict[str, Watch]:
        """Return the information about each source that the daemon publishes for other processes.

        Each `Watch` says whether the daemon is on standby for the source, and when the source's next runs are due.
        """
        return {
            source: Watch(standby=source not in self._locks, next_runs=self._timetable.next_runs(source))
            for source in self._sources
        }

    def holders(self) -> dict[str, str]:
        """Return a dict that maps each source locked by another process to a description of that process."""
        return {source: self._standing_by[source] for source in self._sources if source in self._standing_by}

    def stop(self) -> None:
        """Wait a few seconds for the runs in progress to stop, and then release all locks."""
        self._timetable.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if not self._pool.join(SHUTDOWN_S):
            log.warning("shutdown_timed_out")
        for source in self._held():
            self._locks.release(source)
        self._locks.drop()

    # Locks -------------------------------------------------------------------------------------------------------

    def _held(self) -> list[str]:
        return [source for source in self._sources if source in self._locks]

    def _give_up_sources(self) -> None:
        """Release the lock of each source that is no longer configured, unless a run of the source is in progress.

        Cancel the scheduled runs of each source whose lock this daemon does not hold.
        """
        for source in self._locks.sources():
            if source not in self._sources and source not in self._busy:
                self._locks.release(source)
        for source in self._sources:
            if source not in self._locks:
                self._timetable.forget(source)

    def _take_sources(self) -> None:
        if self._clock.monotonic() - self._tried_at < TAKE_EVERY_S:
            return
        self._tried_at = self._clock.monotonic()
        taken = [source for source in self._sources if source not in self._locks and self._take(source)]
        if taken:
            self._schedule(taken)

    def _take(self, source: str) -> bool:
        try:
            self._locks.take(source)
        except LockHeld as error:
            if self._standing_by.get(source) != error.message:
                log.info("standing_by", source=source, reason=error.message)
            self._standing_by[source] = error.message
            return False
        self._condition.began()
        if self._standing_by.pop(source, None):
            log.info("taken_over", source=source)
        return True

    # Slots -------------------------------------------------------------------------------------------------------

    def _clock_offset(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _schedule(self, sources: Iterable[str]) -> None:
        self._offset = self._clock_offset()
        with self.store.reading() as connection:
            known = {row.source: row for row in health(connection)}
        for source in sources:
            row = known.get(source)
            past = LastRuns(row.last_success_at, row.last_clean_full_at) if row else LastRuns()
            self._timetable.schedule(source, past, self._clock.now())
            self._condition.known(source, row)
            self._living[source] = row.live_students if row else 0

    def _file_what_is_due(self) -> None:
        """Create requests for all runs that are due, in one transaction.

        If a request for a run of the same kind is already open, no new request is created. If a request for a full run
        is open, no request for an incremental run is created either.
        """
        due = [run for run in self._unfiled if run[0] in self._locks]
        if not due:
            return
        now = self._clock.now()
        with self.store.reading() as connection:
            waiting = {(request.source, request.kind) for request in requests.open_requests(connection, now)}
        with self.store.writing() as connection:
            for source, kind in due:
                if (source, kind) in waiting or (kind is RunKind.INCREMENTAL and (source, RunKind.FULL) in waiting):
                    log.info("slot_skipped", source=source, kind=str(kind), reason="the previous run has not ended")
                else:
                    requests.file(connection, RunRequest(source, kind, wait=None), now)
        self._unfiled.clear()

    # Runs --------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        with self._locks.connection() as connection:
            waiting = requests.open_requests(connection, self._clock.now())
        for source in dict.fromkeys(request.source for request in waiting if self._may_begin(request)):
            self._busy[source] = None
            self._pool.submit(self._work, source)

    def _may_begin(self, request: OpenRequest) -> bool:
        source = request.source
        rested = request.state == RequestState.PENDING or self._clock.monotonic() >= self._resting.get(source, 0.0)
        return rested and source in self._locks and source in self._sources and source not in self._busy

    def _work(self, source: str) -> None:
        """Execute a source's requests. Errors are logged and never stop the daemon."""
        try:
            scope = self._busy[source] = self._scope.child()
            scope.check()  # the daemon may have been asked to stop while this source waited for a thread
            self._executor.execute_all(source, self._ended, scope)
        except Stopped:
            log.info("run_stopped", source=source)
        except Exception as error:  # noqa: BLE001 - after any error, the source is tried again
            self._condition.failed(source, error)
            if not isinstance(error, ConfigError):
                self._timetable.failed(source, RunKind.INCREMENTAL, self._clock.now())
            self._resting[source] = self._clock.monotonic() + RETRY_S
        finally:
            del self._busy[source]

    def _ended(self, report: RunReport) -> None:
        self._condition.ended(report, self._students(report), self._next_try(report))

    def _next_try(self, report: RunReport) -> datetime | None:
        """Update the timetable of the source after a run, and return when a failed run will be retried.

        Return None if the run did not fail, or if it is not retried before its next slot.
        """
        if report.kind is RunKind.REFRESH:
            return None
        if report.state is not RunState.FAILED:
            self._timetable.settled(report.source, report.kind)
        elif report.was_denied:
            self._timetable.cancel_retry(report.source)
        else:
            return self._timetable.failed(report.source, report.kind, self._clock.now())
        return None

    def _students(self, report: RunReport) -> int:
        """Return the number of current students in the replica after a run.

        The database is queried only if the run may have changed this number.
        """
        source, counts = report.source, report.counts
        if source not in self._living or counts.inserted or counts.restored or counts.deleted:
            with self.store.reading() as connection:
                self._living[source] = live_students(connection, source)
        return self._living[source]
