"""The one path for every run: a request in the database, executed by whoever holds the source's lock."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rostersync.errors import LockHeld, LockLost, LockTimedOut, RequestFailed, Stopped, StoreError, reported
from rostersync.logger import get_logger
from rostersync.report import RunKind, RunRequest, ignore_progress
from rostersync.store import requests, runs
from rostersync.store.dry_run import unchanged_database
from rostersync.store.engine import writing
from rostersync.sync.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta

    from rostersync.clock import Clock
    from rostersync.errors import RostersyncError
    from rostersync.report import ProgressCallback, RunReport
    from rostersync.store import Store
    from rostersync.store.lock import Lease
    from rostersync.sync.api import Connect
    from rostersync.sync.plan import SyncPolicy

log = get_logger(__name__)

POLL_S = 0.5
"""How often a caller looks whether the lock is free, or the run that another process does for it is over."""

TRY_S = 5.0
"""How often a caller that waits tries whether the database can be written: a process that fails cannot say so there."""

NOTE_S = 1.0
"""How often a daemon notes how far a run is."""


class Executor:
    """Files requests, and executes those of every source whose lock it gets."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: SyncPolicy,
        connect: Connect,
        purpose: str,
        *,
        after_run: Callable[[RunReport], None] = lambda _report: None,
    ) -> None:
        """`purpose` tells others who holds a source, as in "rostersync sync".

        `after_run` gets the report of each run that was executed here, once it is committed.
        """
        self._store = store
        self._clock = clock
        self._policy = policy
        self._connect = connect
        self._purpose = purpose
        self._after_run = after_run
        self._untold: dict[int, RostersyncError] = {}  # why requests failed, until the database has it

    def run(self, request: RunRequest, progress: ProgressCallback, *, elsewhere: bool = False) -> RunReport:
        """Have one run done, here or by whoever holds the source, and return its report.

        With `elsewhere` it is left to others, because this process could not do it. Raises `LockHeld` when nobody took
        the request within `request.wait`; it is withdrawn then, as it is when the caller is stopped.
        """
        filed = self._file(request)
        try:
            give_up = partial(self._leave, filed.request_id, taken=False)
            return self._see_through(filed, request.wait, give_up, progress, elsewhere=elsewhere)
        except LockHeld:
            raise  # the request is withdrawn already
        except BaseException:
            self._abandon(filed.request_id)
            raise

    def refresh(
        self, source: str, ids: Sequence[int], patience: timedelta, progress: ProgressCallback = ignore_progress
    ) -> RunReport | None:
        """Have single students fetched and stored, here or by whoever holds the source, and return the report.

        None: whoever holds it has not done so within `patience`. The request stays, also where this raises `Stopped`,
        and this or the next holder executes it. The report may be about others as well, whose refresh was joined.
        Raises `StoreError` and `ConfigError`; then the next run brings the same.
        """
        filed = self._file(RunRequest(source, RunKind.REFRESH, wait=None, ids=tuple(ids)))
        try:
            return self._see_through(filed, patience, lambda: not self._is_done(filed.request_id), progress)
        except LockHeld:
            return None

    def _is_done(self, request_id: int) -> bool:
        with self._store.reading() as connection:
            return requests.progress(connection, request_id).run_id is not None

    def _file(self, request: RunRequest) -> RunRequest:
        with self._store.writing() as connection:
            return replace(request, request_id=requests.file(connection, request, self._clock.now()))

    def execute_all(self, source: str) -> Iterator[RunReport]:
        """Execute the open requests of a source whose lock this process holds, and yield the reports.

        Runs and refreshes take turns: a write is not to wait for many runs, nor a run for many writes. How far a run
        is, is noted in the database for those who wait. An error ends it, when whoever waits for the run can learn why.
        """
        with self._store.lease(source, self._purpose, held=True) as lease:
            for refresh in cycle((True, False)):
                request = self._take(lease, refresh=refresh) or self._take(lease, refresh=not refresh)
                if request is None:
                    return
                yield self._execute(lease, request, self._noting(lease, request))

    def _see_through(
        self,
        request: RunRequest,
        wait: timedelta | None,
        give_up: Callable[[], bool],
        progress: ProgressCallback,
        *,
        elsewhere: bool = False,
    ) -> RunReport:
        """Return the report of a filed request.

        Raises `LockHeld` when after `wait` it may be given up, and `StoreError` as soon as the database refuses writes:
        then the process that executes the request can neither commit the run nor record why it failed.
        """
        began = self._clock.monotonic()
        give_up_at, try_at = math.inf if wait is None else began + wait.total_seconds(), began + TRY_S
        while True:
            report = None
            try:
                report = self._execute_here(request, progress, elsewhere=elsewhere)
            except LockHeld:
                if self._clock.monotonic() > give_up_at and give_up():
                    raise
            report = report or self._wait_for_another(request.request_id, progress)
            if report is not None:
                return report
            if self._clock.monotonic() > try_at:
                self._try_to_write(request.request_id)
                try_at = self._clock.monotonic() + TRY_S

    def _try_to_write(self, request_id: int) -> None:
        with suppress(LockTimedOut), self._store.writing() as connection:  # a long commit is no reason to give up
            requests.touch(connection, request_id)

    def _execute_here(self, request: RunRequest, progress: ProgressCallback, *, elsewhere: bool) -> RunReport | None:
        """Get the lock and execute what is open. Raises `LockHeld`, also where the run is to be made `elsewhere`."""
        if elsewhere:
            message = f"source {request.source}: no daemon has taken the request"
            raise LockHeld(message, "see whether one is at work: rostersync status")
        with self._store.lease(request.source, self._purpose) as lease:
            return self._execute_open(lease, request, progress)

    def _wait_for_another(self, request_id: int, progress: ProgressCallback) -> RunReport | None:
        """Return the report of a run that another process did; else show how far it is, wait a little, return None."""
        with self._store.reading() as connection:
            so_far = requests.progress(connection, request_id)
            if so_far.run_id is not None:
                return runs.report(connection, so_far.run_id)
        _require_open(so_far)
        if so_far.reads is not None:
            progress(so_far.reads, so_far.rows_done or 0, so_far.rows_total or 0)
        try:
            self._clock.sleep(POLL_S)
        except Stopped as stopped:
            stopped.left_running = so_far.state == "taken"
            raise
        return None

    def _execute_open(self, lease: Lease, mine: RunRequest, progress: ProgressCallback) -> RunReport | None:
        """Execute the open requests of the lease's source, oldest first, up to the caller's own; return its report.

        For a run these are the runs, with the refresh that waits behind them, for the run may have read these students
        before they were written; for a refresh the refreshes only, because a write is not to wait for a run of the
        whole school. What becomes of the requests of others is not the caller's concern.
        """
        refresh = mine.kind is RunKind.REFRESH
        while request := self._take(lease, mine.request_id, refresh=refresh):
            if request.request_id != mine.request_id:
                self._execute_for_others(lease, request, progress)
                continue
            report = self._execute(lease, request, progress)
            if not refresh:
                self._refresh_behind_run(lease)
            return report
        return None

    def _refresh_behind_run(self, lease: Lease) -> None:
        """Execute the refresh that waits. The run is done: whatever becomes of this, its caller is to learn how."""
        with suppress(StoreError):
            if request := self._take(lease, refresh=True):
                self._execute_for_others(lease, request, ignore_progress)

    def _take(self, lease: Lease, mine: int = 0, *, refresh: bool) -> RunRequest | None:
        return requests.take(lease, self._clock.now(), mine, refresh=refresh)

    def _execute_for_others(self, lease: Lease, request: RunRequest, progress: ProgressCallback) -> None:
        try:
            self._execute(lease, request, progress)
        except (Stopped, LockLost):
            raise
        except Exception as error:  # noqa: BLE001 - they learn of it from the request
            kind, reason = str(request.kind), type(error).__name__
            log.warning("request_failed", source=lease.source, kind=kind, request=request.request_id, reason=reason)

    def _execute(self, lease: Lease, request: RunRequest, progress: ProgressCallback) -> RunReport:
        """Execute a request that was taken. Where that raises no run comes of it, and whoever waits learns why.

        A process that ends, or that has lost the lock, leaves the request to the next holder.
        """
        self._untold.pop(request.request_id, None)  # it is tried again
        try:
            return self._run(lease, request, progress)
        except (Stopped, LockLost):
            raise
        except Exception as error:
            self._fail(request.request_id, error)
            raise

    def _run(self, lease: Lease, request: RunRequest, progress: ProgressCallback) -> RunReport:
        with self._connect(lease.source) as api:
            run = Run(
                lease.source,
                lease.connection,
                self._store.stage(lease.connection, lease.source),
                api,
                policy=self._policy,
                clock=self._clock,
                progress=progress,
                commit=partial(runs.commit, lease),
            )
            report = run.execute(request)
        self._after_run(report)
        return report

    def _noting(self, lease: Lease, request: RunRequest) -> ProgressCallback:
        """Return what notes the progress of a run in its request, once a second at most."""
        noted_at = self._clock.monotonic()

        def note(what: str, done: int, total: int) -> None:
            nonlocal noted_at
            if (now := self._clock.monotonic()) - noted_at < NOTE_S:
                return
            noted_at = now
            with suppress(StoreError), writing(lease.connection):  # a run does not fail for it
                requests.note_progress(lease.connection, request.request_id, what, done, total)

        return note

    def _leave(self, request_id: int, *, taken: bool) -> bool:
        with self._store.writing() as connection:
            return requests.leave(connection, request_id, taken=taken)

    def _abandon(self, request_id: int) -> None:
        """Leave the request, taken or not: its caller is gone. Whoever executes it elsewhere closes it all the same."""
        try:
            self._leave(request_id, taken=True)
        except Exception as error:  # noqa: BLE001 - what ended the run matters more; the request expires by itself
            log.debug("request_not_withdrawn", reason=type(error).__name__)

    def _fail(self, request_id: int, error: Exception) -> None:
        """Tell those who wait for a request why no run comes of it, now or by the next `tell_failures`."""
        self._untold[request_id] = reported(error)
        self.tell_failures()

    def tell_failures(self) -> None:
        """Record why requests failed, also those whose record found no room in the database at the time.

        Never raises. A run that ends gives some room back, so the next call may succeed; else the request is retried.
        """
        for request_id, told in list(self._untold.items()):
            try:
                with self._store.writing() as connection:
                    requests.fail(connection, request_id, told.message, told.hint)
                self._untold.pop(request_id, None)
            except Exception as another:  # noqa: BLE001 - the first error matters more
                log.debug("request_not_closed", reason=type(another).__name__)


def _require_open(so_far: requests.Progress) -> None:
    """Raise `RequestFailed` when no run will come of a request any more."""
    if so_far.state == "failed":
        raise RequestFailed(so_far.error or "the run failed", so_far.hint or "")
    if so_far.state == "withdrawn":
        raise RequestFailed("the request for this run was withdrawn, or went with its source", "run it again")


def dry_run(
    url: str, request: RunRequest, progress: ProgressCallback, *, clock: Clock, policy: SyncPolicy, connect: Connect
) -> RunReport:
    """Do everything of a run but its commit, without the lock, and leave no trace in the database at `url`."""
    with unchanged_database(url, request.source) as (connection, stage), connect(request.source) as api:
        run = Run(request.source, connection, stage, api, policy=policy, clock=clock, progress=progress, commit=None)
        return run.execute(request)
