"""Do the daemon's work: hold the locks of its sources, file requests for the runs that are due, and execute requests.

One thread must call `tick` at least once a second. Runs are executed in a pool of `sources_at_once` threads. A request
that waits is a row in the database, and a source that waits is in the pool's queue, so waiting needs no thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rostersync.daemon.schedule import LastRuns, Timetable
from rostersync.errors import ConfigError, LockHeld, Stopped
from rostersync.logger import get_logger
from rostersync.pool import SHUTDOWN_S, DaemonExecutor
from rostersync.report import RunKind, RunRequest, RunState
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
"""How often, in seconds, the daemon tries to take the locks of sources that another process holds."""

RETRY_S = 30.0
"""How long, in seconds, a source rests after its requests could not be executed, such as on a full disk.

Only requests that were already taken wait for this. A new request is executed at once.
"""

CLOCK_STEP_S = 60.0
"""If the wall clock moves against the monotonic clock by more than this many seconds, all slots are computed again."""


class Dispatcher:
    """Runs each configured source as soon as it holds the source's lock."""

    def __init__(self, config: Config, scope: CancelScope, store: Store, condition: Condition) -> None:
        """Hold no lock yet, and schedule no run. How runs end is reported to `condition`."""
        self._scope, self._clock, self.store, self._condition = scope, scope.clock, store, condition
        self._locks = store.held_locks(PURPOSE)
        self._standing_by: dict[str, str] = {}  # source -> the process that holds its lock
        self._busy: dict[str, CancelScope | None] = {}  # source -> its run's scope, None while it waits for a thread
        self._resting: dict[str, float] = {}  # source -> when its rest ends: see RETRY_S
        self._living: dict[str, int] = {}  # source -> the number of students in its replica
        self._unfiled: dict[tuple[str, RunKind], None] = {}  # runs that are due, in their order
        self._offset, self._tried_at = self._clock_offset(), float("-inf")
        self._use(config)

    def configure(self, config: Config) -> None:
        """Continue with another configuration. Runs in progress keep the one that they began with."""
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

        Raises `StoreError` if the database cannot be used. Runs that are due then stay due for the next call.
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
        """Sync every source that this daemon holds, at the next `tick`."""
        self._unfiled |= {(source, RunKind.INCREMENTAL): None for source in self._held()}

    def hung(self, seconds: float) -> list[str]:
        """Return the sources with a run that has shown no sign of life for more than `seconds`."""
        busy = self._busy.copy()  # a copy: pool threads remove the runs that end meanwhile
        return [source for source, scope in busy.items() if scope and scope.silent_for() > seconds]

    def watches(self) -> dict[str, Watch]:
        """Return what other processes may know about each source: whether this daemon holds it, and its next runs."""
        return {
            source: Watch(standby=source not in self._locks, next_runs=self._timetable.next_runs(source))
            for source in self._sources
        }

    def holders(self) -> dict[str, str]:
        """Return the processes that hold the sources for which this daemon is standing by, by source."""
        return {source: self._standing_by[source] for source in self._sources if source in self._standing_by}

    def stop(self) -> None:
        """Wait a few seconds for the runs in progress, which were asked to stop, and release all locks."""
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
        """Release the locks of sources that are no longer configured. Schedule no runs of sources that are not held."""
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
        """File requests for the runs that are due, in one transaction. Skip a run if an open request covers it."""
        due = [run for run in self._unfiled if run[0] in self._locks]
        if not due:
            return
        now = self._clock.now()
        with self.store.reading() as connection:
            waiting = {(request.source, request.kind) for request in requests.open_requests(connection, now)}
        with self.store.writing() as connection:
            for source, kind in due:
                if (source, kind) in waiting or (kind is RunKind.INCREMENTAL and (source, RunKind.FULL) in waiting):
                    log.info("slot_skipped", source=source, kind=str(kind), reason="the run before is still going")
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
        rested = request.state == "pending" or self._clock.monotonic() >= self._resting.get(source, 0.0)
        return rested and source in self._locks and source in self._sources and source not in self._busy

    def _work(self, source: str) -> None:
        """Execute a source's requests. Errors are logged and never stop the daemon."""
        try:
            scope = self._busy[source] = self._scope.child()
            scope.check()  # the process may have been asked to stop while this source waited for a thread
            self._executor.execute_all(source, self._ended, scope)
        except Stopped:
            log.info("run_stopped", source=source)
        except Exception as error:  # noqa: BLE001 - any error: the source is tried again
            self._condition.failed(source, error)
            if not isinstance(error, ConfigError):
                self._timetable.failed(source, RunKind.INCREMENTAL, self._clock.now())
            self._resting[source] = self._clock.monotonic() + RETRY_S
        finally:
            del self._busy[source]

    def _ended(self, report: RunReport) -> None:
        self._condition.ended(report, self._students(report), self._next_try(report))

    def _next_try(self, report: RunReport) -> datetime | None:
        """Return when a failed run is tried again. None if it did not fail, or if it is tried at its next slot."""
        if report.kind is RunKind.REFRESH:
            return None
        if report.state is not RunState.FAILED:
            self._timetable.settled(report.source, report.kind)
        elif report.was_denied:
            self._timetable.put_off(report.source)
        else:
            return self._timetable.failed(report.source, report.kind, self._clock.now())
        return None

    def _students(self, report: RunReport) -> int:
        """Return the number of students in the replica after a run. Ask the database only if the run may change it."""
        source, counts = report.source, report.counts
        if source not in self._living or counts.inserted or counts.restored or counts.deleted:
            with self.store.reading() as connection:
                self._living[source] = live_students(connection, source)
        return self._living[source]
