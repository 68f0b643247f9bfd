"""Run requests: every run begins as a request in the database, and the process with the source's lock executes it."""

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
from rostersync.store.database.engine import writing
from rostersync.store.dry_run import unchanged_database
from rostersync.store.queue import requests
from rostersync.store.replica import runs
from rostersync.sync.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta

    from rostersync.cancel import CancelScope
    from rostersync.errors import RostersyncError
    from rostersync.report import ProgressCallback, RunReport
    from rostersync.store.queue.lock import Lease
    from rostersync.store.store import Store
    from rostersync.sync.api import Connect
    from rostersync.sync.watermarks import SyncPolicy

log = get_logger(__name__)

POLL_S = 0.5
"""Seconds that a caller waits before it checks again if the lock is free, or if another process has done its run."""

TRY_S = 5.0
"""Seconds between two checks by a waiting caller that the database can be written.

If it cannot be written, the process with the lock cannot report there that it failed.
"""

NOTE_S = 1.0
"""The least number of seconds between two notes of a run's progress in the database."""


class Executor:
    """Files requests for runs. It executes the open requests of a source if it gets the source's lock."""

    def __init__(
        self,
        store: Store,
        policy: SyncPolicy,
        connect: Connect,
        purpose: str,
        *,
        after_run: Callable[[RunReport, CancelScope], None] = lambda _report, _scope: None,
    ) -> None:
        """Prepare to execute requests.

        Args:
            store: The database.
            policy: What a run may read and remove.
            connect: Opens the API of a source.
            purpose: The name of this process for others who want the same lock, such as "rostersync sync".
            after_run: Is called with the report of each run that this process has made and committed, and with the
                run's scope.

        """
        self._store = store
        self._clock = store.clock
        self._policy = policy
        self._connect = connect
        self._purpose = purpose
        self._after_run = after_run
        self._untold: dict[int, RostersyncError] = {}  # why requests failed, until the database has it

    def run(
        self, request: RunRequest, progress: ProgressCallback, scope: CancelScope, *, elsewhere: bool = False
    ) -> RunReport:
        """Let this process or the holder of the source's lock execute a run, and return its report.

        With `elsewhere` another process must execute the run, because this process could not. If no process takes the
        request within `request.wait`, leave it and raise `LockHeld`. Any other error, such as `Stopped`, also leaves
        the request. The request is withdrawn when its last caller leaves it.
        """
        filed = self._file(request)
        try:
            give_up = partial(self._leave, filed.request_id, taken=False)
            return self._see_through(filed, request.wait, give_up, progress, scope, elsewhere=elsewhere)
        except LockHeld:
            raise  # `give_up` has left the request
        except BaseException:
            self._abandon(filed.request_id)
            raise

    def refresh(
        self,
        source: str,
        ids: Sequence[int],
        patience: timedelta,
        scope: CancelScope,
        progress: ProgressCallback = ignore_progress,
    ) -> RunReport | None:
        """Let this process or the holder of the source's lock fetch and store students. Return the report.

        Return None if that process has not done so within `patience`. Then the request stays, and the lock's holder
        will execute it. It also stays if this raises `Stopped`. If the request has joined another one, the report
        counts the students of both. Raises `StoreError` and `ConfigError`; the next run then reads the same changes.
        """
        filed = self._file(RunRequest(source, RunKind.REFRESH, wait=None, ids=tuple(ids)))
        try:
            return self._see_through(filed, patience, lambda: not self._is_done(filed.request_id), progress, scope)
        except LockHeld:
            return None

    def _is_done(self, request_id: int) -> bool:
        with self._store.reading() as connection:
            return requests.progress(connection, request_id).run_id is not None

    def _file(self, request: RunRequest) -> RunRequest:
        with self._store.writing() as connection:
            return replace(request, request_id=requests.file(connection, request, self._clock.now()))

    def execute_all(self, source: str, scope: CancelScope) -> Iterator[RunReport]:
        """Execute the open requests of a source, and yield the reports. This process must hold the source's lock.

        Runs and refreshes alternate. So a refresh after a write never waits for several runs, and a run never waits for
        several refreshes. The progress of a run is noted in the database for the processes that wait for it. If a
        request fails, the reason is stored for these processes, and the iteration ends with the error.
        """
        with self._store.lease(source, self._purpose, held=True) as lease:
            for refresh in cycle((True, False)):
                request = self._take(lease, refresh=refresh) or self._take(lease, refresh=not refresh)
                if request is None:
                    return
                yield self._execute(lease, request, self._noting(lease, request, scope), scope)

    def _see_through(
        self,
        request: RunRequest,
        wait: timedelta | None,
        give_up: Callable[[], bool],
        progress: ProgressCallback,
        scope: CancelScope,
        *,
        elsewhere: bool = False,
    ) -> RunReport:
        """Return the report of a filed request.

        Raises `LockHeld` after `wait`, if `give_up` then returns True. Raises `StoreError` as soon as the database
        refuses writes, because then no process can commit the run or record why it failed.
        """
        began = self._clock.monotonic()
        give_up_at, try_at = math.inf if wait is None else began + wait.total_seconds(), began + TRY_S
        while True:
            report = None
            try:
                report = self._execute_here(request, progress, scope, elsewhere=elsewhere)
            except LockHeld:
                if self._clock.monotonic() > give_up_at and give_up():
                    raise
            report = report or self._wait_for_another(request.request_id, progress, scope)
            if report is not None:
                return report
            if self._clock.monotonic() > try_at:
                self._try_to_write(request.request_id)
                try_at = self._clock.monotonic() + TRY_S

    def _try_to_write(self, request_id: int) -> None:
        with suppress(LockTimedOut), self._store.writing() as connection:  # a long commit is no reason to give up
            requests.touch(connection, request_id)

    def _execute_here(
        self, request: RunRequest, progress: ProgressCallback, scope: CancelScope, *, elsewhere: bool
    ) -> RunReport | None:
        """Take the lock and execute open requests, up to this one. Raises `LockHeld`, with `elsewhere` always."""
        if elsewhere:
            message = f"source {request.source}: no daemon has taken the request"
            raise LockHeld(message, "see whether one is at work: rostersync status")
        with self._store.lease(request.source, self._purpose) as lease:
            return self._execute_open(lease, request, progress, scope)

    def _wait_for_another(self, request_id: int, progress: ProgressCallback, scope: CancelScope) -> RunReport | None:
        """Return the report if another process has done the run. Otherwise show its progress, wait, and return None."""
        with self._store.reading() as connection:
            so_far = requests.progress(connection, request_id)
            if so_far.run_id is not None:
                return runs.report(connection, so_far.run_id)
        _require_open(so_far)
        if so_far.reads is not None:
            progress(so_far.reads, so_far.rows_done or 0, so_far.rows_total or 0)
        try:
            scope.sleep(POLL_S)
        except Stopped as stopped:
            stopped.left_running = so_far.state == "taken"
            raise
        return None

    def _execute_open(
        self, lease: Lease, mine: RunRequest, progress: ProgressCallback, scope: CancelScope
    ) -> RunReport | None:
        """Execute the open requests of the lease's source, oldest first, up to the caller's own, and return its report.

        If the caller wants a run, these are the requests for runs, and then the waiting refresh, because the run may
        have read its students before they were written. If the caller wants a refresh, these are only refreshes,
        because a write must not wait for a run of the whole school. If another caller's request fails, this caller does
        not fail.
        """
        refresh = mine.kind is RunKind.REFRESH
        while request := self._take(lease, mine.request_id, refresh=refresh):
            if request.request_id != mine.request_id:
                self._execute_for_others(lease, request, progress, scope)
                continue
            report = self._execute(lease, request, progress, scope)
            if not refresh:
                self._refresh_behind_run(lease, scope)
            return report
        return None

    def _refresh_behind_run(self, lease: Lease, scope: CancelScope) -> None:
        """Execute the waiting refresh, if any. Ignore a failing database, because the caller must get its report."""
        with suppress(StoreError):
            if request := self._take(lease, refresh=True):
                self._execute_for_others(lease, request, ignore_progress, scope)

    def _take(self, lease: Lease, mine: int = 0, *, refresh: bool) -> RunRequest | None:
        return requests.take(lease, self._clock.now(), mine, refresh=refresh)

    def _execute_for_others(
        self, lease: Lease, request: RunRequest, progress: ProgressCallback, scope: CancelScope
    ) -> None:
        try:
            self._execute(lease, request, progress, scope)
        except (Stopped, LockLost):
            raise
        except Exception as error:  # noqa: BLE001 - the other caller reads it from the request
            kind, reason = str(request.kind), type(error).__name__
            log.warning("request_failed", source=lease.source, kind=kind, request=request.request_id, reason=reason)

    def _execute(self, lease: Lease, request: RunRequest, progress: ProgressCallback, scope: CancelScope) -> RunReport:
        """Execute a request that was taken. If this raises an error, close the request with it, for those who wait.

        If the process must stop, or has lost the lock, leave the request to the next holder of the lock.
        """
        self._untold.pop(request.request_id, None)  # it is tried again
        try:
            return self._run(lease, request, progress, scope)
        except (Stopped, LockLost):
            raise
        except Exception as error:
            self._fail(request.request_id, error)
            raise

    def _run(self, lease: Lease, request: RunRequest, progress: ProgressCallback, scope: CancelScope) -> RunReport:
        with self._connect(lease.source, scope) as api:
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
        self._after_run(report, scope)
        return report

    def _noting(self, lease: Lease, request: RunRequest, scope: CancelScope) -> ProgressCallback:
        """Return a callback that notes the progress of a run in its request, at most once in `NOTE_S`."""
        noted_at = self._clock.monotonic()

        def note(what: str, done: int, total: int) -> None:
            nonlocal noted_at
            scope.check()
            if (now := self._clock.monotonic()) - noted_at < NOTE_S:
                return
            noted_at = now
            with suppress(StoreError), writing(lease.connection):  # the run goes on if this fails
                requests.note_progress(lease.connection, request.request_id, what, done, total)

        return note

    def _leave(self, request_id: int, *, taken: bool) -> bool:
        with self._store.writing() as connection:
            return requests.leave(connection, request_id, taken=taken)

    def _abandon(self, request_id: int) -> None:
        """Leave the request, taken or not, because its caller ends. A process that has taken it still closes it."""
        try:
            self._leave(request_id, taken=True)
        except Exception as error:  # noqa: BLE001 - what ended the run matters more; the request expires by itself
            log.debug("request_not_withdrawn", reason=type(error).__name__)

    def _fail(self, request_id: int, error: Exception) -> None:
        """Store why a request failed, for those who wait; if that fails, the next `tell_failures` tries it again."""
        self._untold[request_id] = reported(error)
        self.tell_failures()

    def tell_failures(self) -> None:
        """Store why requests failed, including those that could not be stored before because the disk was full.

        Never raises. A run that ends frees some space, so the next call may succeed.
        """
        for request_id, told in list(self._untold.items()):
            try:
                with self._store.writing() as connection:
                    requests.fail(connection, request_id, told.message, told.hint)
                self._untold.pop(request_id, None)
            except Exception as another:  # noqa: BLE001 - the first error matters more
                log.debug("request_not_closed", reason=type(another).__name__)


def _require_open(so_far: requests.Progress) -> None:
    """Raise `RequestFailed` if the request has failed or was withdrawn, so that no run will be started for it."""
    if so_far.state == "failed":
        raise RequestFailed(so_far.error or "the run failed", so_far.hint or "")
    if so_far.state == "withdrawn":
        raise RequestFailed("the request for this run was withdrawn, or went with its source", "run it again")


def dry_run(
    url: str,
    request: RunRequest,
    progress: ProgressCallback,
    scope: CancelScope,
    *,
    policy: SyncPolicy,
    connect: Connect,
) -> RunReport:
    """Do a run that commits nothing and takes no lock. The database at `url` does not change."""
    with unchanged_database(url, request.source) as (connection, stage), connect(request.source, scope) as api:
        run = Run(
            request.source, connection, stage, api, policy=policy, clock=scope.clock, progress=progress, commit=None
        )
        return run.execute(request)
