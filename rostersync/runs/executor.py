"""Run requests: every run begins as a request in the database, and the process with the source's lock executes it."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rostersync.errors import LockHeld, LockLost, LockTimedOut, RequestFailed, Stopped, StoreError, reported
from rostersync.logger import get_logger
from rostersync.report import RunKind, RunRequest, ignore_progress
from rostersync.store.database.engine import writing
from rostersync.store.dry_run import unchanged_database
from rostersync.store.queue import requests
from rostersync.store.replica import runs
from rostersync.store.replica.commit import commit
from rostersync.sync.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
            after_run: Is called with the report and the scope of each run that this process has made and committed.

        """
        self._store = store
        self._clock = store.clock
        self._policy = policy
        self._connect = connect
        self._purpose = purpose
        self._after_run = after_run
        self._untold: dict[int, RostersyncError] = {}  # why requests failed, until the database has it

    def run(
        self, request: RunRequest, progress: ProgressCallback, scope: CancelScope, *, may_execute: bool = True
    ) -> RunReport:
        """File a request for a run. Let this process or the holder of the source's lock execute it.

        Any error but `LockHeld`, such as `Stopped`, leaves the request too: it is withdrawn when its last caller leaves
        it. A process that has taken the request still closes it.

        Args:
            request: What to do. `request.wait` is how long to wait until a process takes it; None waits without limit.
            progress: Is called with the progress of the run, whichever process executes it.
            scope: The time that the caller has. If it is cancelled, the request is left.
            may_execute: Whether this process may execute the run. Otherwise another process must. Default: True.

        Returns:
            The report of the run.

        Raises:
            LockHeld: No process took the request in time. It is withdrawn.
            RequestFailed: The process that took the request failed, or the request was withdrawn.
            StoreError: The database cannot be used.
            ConfigError: The source's token is not available.
            Stopped: The scope was cancelled.

        """
        filed = self._file(request)
        try:
            outcome = self._execute_or_wait(filed, request.wait, progress, scope, may_execute=may_execute)
        except BaseException:
            self._abandon(filed.request_id)
            raise
        if isinstance(outcome, LockHeld):
            raise outcome
        return outcome

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
        outcome = self._execute_or_wait(filed, patience, progress, scope, may_execute=True)
        return None if isinstance(outcome, LockHeld) else outcome

    def execute_all(self, source: str, ended: Callable[[RunReport], None], scope: CancelScope) -> None:
        """Execute the open requests of a source. This process must hold the source's lock.

        Refreshes and runs alternate. So a refresh after a write never waits for several runs, and a run never waits for
        several refreshes. The progress of a run is noted in the database for the processes that wait for it. If a
        request fails, the reason is stored for these processes, and this raises the error. `ended` is called with the
        report of each run.
        """
        with self._store.lease(source, self._purpose, held=True) as lease:
            while True:
                refresh = self._take(lease, refresh=True)
                if refresh is not None:
                    ended(self._execute(lease, refresh, _NotedProgress(lease, refresh, scope), scope))
                run = self._take(lease, refresh=False)
                if run is not None:
                    ended(self._execute(lease, run, _NotedProgress(lease, run, scope), scope))
                if refresh is None and run is None:
                    return

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

    # Requests ----------------------------------------------------------------------------------------------------

    def _file(self, request: RunRequest) -> RunRequest:
        with self._store.writing() as connection:
            return replace(request, request_id=requests.file(connection, request, self._clock.now()))

    def _take(self, lease: Lease, mine: int = 0, *, refresh: bool) -> RunRequest | None:
        return requests.take(lease, self._clock.now(), mine, refresh=refresh)

    def _execute_or_wait(
        self,
        request: RunRequest,
        patience: timedelta | None,
        progress: ProgressCallback,
        scope: CancelScope,
        *,
        may_execute: bool,
    ) -> RunReport | LockHeld:
        """Execute a filed request as soon as this process gets the lock, or wait until another process has done so.

        Return the report, or the error that says who holds the lock, if no process took the request within `patience`.
        Raise `StoreError` as soon as the database refuses writes, because then no process can commit the run or record
        why it failed.
        """
        began = self._clock.monotonic()
        give_up_at = math.inf if patience is None else began + patience.total_seconds()
        try_at = began + TRY_S
        while True:
            outcome = self._execute_if_free(request, progress, scope) if may_execute else _not_taken(request.source)
            if isinstance(outcome, LockHeld):
                if self._clock.monotonic() > give_up_at and self._give_up(request):
                    return outcome
            elif outcome is not None:
                return outcome
            report = self._wait_for_another(request.request_id, progress, scope)
            if report is not None:
                return report
            if self._clock.monotonic() > try_at:
                # A long commit of another process can delay the write. The caller goes on waiting then.
                with suppress(LockTimedOut), self._store.writing() as connection:
                    requests.touch(connection, request.request_id)
                try_at = self._clock.monotonic() + TRY_S

    def _execute_if_free(
        self, mine: RunRequest, progress: ProgressCallback, scope: CancelScope
    ) -> RunReport | LockHeld | None:
        """Take the lock, execute the open requests of the source, oldest first, up to `mine`, and return its report.

        Return `LockHeld` if another process holds the lock, and None if `mine` is no longer open.

        For a caller that wants a run, this executes the requests for runs, and then the waiting refresh, because the
        run may have read its students before they were written. For a caller that wants a refresh, this executes only
        refreshes, because a write must not wait for a run of the whole school. If the request of another caller fails,
        this caller does not fail.
        """
        wants_refresh = mine.kind is RunKind.REFRESH
        try:
            with self._store.lease(mine.source, self._purpose) as lease:
                while request := self._take(lease, mine.request_id, refresh=wants_refresh):
                    if request.request_id != mine.request_id:
                        self._execute_for_others(lease, request, progress, scope)
                        continue
                    report = self._execute(lease, request, progress, scope)
                    if not wants_refresh:
                        with suppress(StoreError):  # the caller must get its report even if the database fails now
                            if refresh := self._take(lease, refresh=True):
                                self._execute_for_others(lease, refresh, ignore_progress, scope)
                    return report
        except LockHeld as error:
            return error
        return None

    def _give_up(self, request: RunRequest) -> bool:
        """Return whether the caller can stop waiting now.

        If the request is for a run, leave it, unless a process has taken it. If the request is for a refresh, it stays,
        and the caller can stop unless the refresh is done.
        """
        if request.kind is not RunKind.REFRESH:
            return self._leave(request.request_id, taken=False)
        with self._store.reading() as connection:
            return requests.progress(connection, request.request_id).run_id is None

    def _wait_for_another(self, request_id: int, progress: ProgressCallback, scope: CancelScope) -> RunReport | None:
        """Return the report if another process has done the run. Otherwise show its progress, wait, and return None.

        Raises `RequestFailed` if the request has failed or was withdrawn, so that no run will be started for it.
        """
        with self._store.reading() as connection:
            so_far = requests.progress(connection, request_id)
            if so_far.run_id is not None:
                return runs.report(connection, so_far.run_id)
        if so_far.state == "failed":
            raise RequestFailed(so_far.error or "the run failed", so_far.hint or "")
        if so_far.state == "withdrawn":
            raise RequestFailed("the request for this run was withdrawn, or went with its source", "run it again")
        if so_far.reads is not None:
            progress(so_far.reads, so_far.rows_done or 0, so_far.rows_total or 0)
        try:
            scope.sleep(POLL_S)
        except Stopped as stopped:
            stopped.left_running = so_far.state == "taken"
            raise
        return None

    def _leave(self, request_id: int, *, taken: bool) -> bool:
        with self._store.writing() as connection:
            return requests.leave(connection, request_id, taken=taken)

    def _abandon(self, request_id: int) -> None:
        """Leave the request, taken or not, because its caller ends. A process that has taken it still closes it."""
        try:
            self._leave(request_id, taken=True)
        except Exception as error:  # noqa: BLE001 - what ended the run matters more; the request expires by itself
            log.debug("request_not_withdrawn", reason=type(error).__name__)

    # Runs --------------------------------------------------------------------------------------------------------

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

        If the scope was cancelled, or the process has lost the lock, leave the request to the next holder of the lock.
        """
        self._untold.pop(request.request_id, None)  # it is tried again
        try:
            with self._connect(lease.source, scope) as api:
                stage = self._store.stage(lease.connection, lease.source)
                run = Run(
                    lease.source,
                    lease.connection,
                    stage,
                    api,
                    policy=self._policy,
                    clock=self._clock,
                    progress=progress,
                    commit=partial(commit, lease, stage),
                )
                report = run.execute(request)
            self._after_run(report, scope)
        except (Stopped, LockLost):
            raise
        except Exception as error:
            self._untold[request.request_id] = reported(error)
            self.tell_failures()
            raise
        return report


class _NotedProgress:
    """Notes the progress of a run in its request, at most once in `NOTE_S`, for the processes that wait for it."""

    def __init__(self, lease: Lease, request: RunRequest, scope: CancelScope) -> None:
        self._lease, self._request_id, self._scope = lease, request.request_id, scope
        self._noted_at = scope.clock.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._scope.check()
        now = self._scope.clock.monotonic()
        if now - self._noted_at < NOTE_S:
            return
        self._noted_at = now
        with suppress(StoreError), writing(self._lease.connection):  # the run goes on if this fails
            requests.note_progress(self._lease.connection, self._request_id, what, done, total)


def _not_taken(source: str) -> LockHeld:
    """Return the error if this process may not execute a request, and no other process has taken it."""
    message = f"source {source}: no daemon has taken the request"
    return LockHeld(message, "see whether one is at work: rostersync status")


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
