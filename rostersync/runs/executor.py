"""File and execute requests for runs.

Every run begins as a request in the database. The process that holds the lock of the source executes the request.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rostersync.errors import LockHeld, LockLost, LockTimedOut, RequestFailed, Stopped, StoreError, reported
from rostersync.logger import get_logger
from rostersync.report import RequestState, RunKind, RunRequest, ignore_progress
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
"""The number of seconds that a caller waits before it checks again whether the lock is free or its run is done."""

TRY_S = 5.0
"""The number of seconds after which a waiting caller checks again that it can write to the database.

If the database refuses writes, the process that holds the lock cannot record that a request failed.
"""

NOTE_S = 1.0
"""The minimum number of seconds between two updates of a run's progress in the database."""


class Executor:
    """Files requests for runs, and executes the open requests of a source if this process gets the source's lock."""

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
            policy: The settings that control what a run reads and removes.
            connect: A function that opens the API of a source.
            purpose: A name for this process, such as "rostersync sync". Other processes that need the same lock report
                this name to their users.
            after_run: A function that is called after each run that this process has executed and committed. Its
                arguments are the report and the scope of the run.

        """
        self._store = store
        self._clock = store.clock
        self._policy = policy
        self._connect = connect
        self._purpose = purpose
        self._after_run = after_run
        self._untold: dict[int, RostersyncError] = {}  # the reasons for failures that are not yet in the database

    def run(
        self, request: RunRequest, progress: ProgressCallback, scope: CancelScope, *, may_execute: bool = True
    ) -> RunReport:
        """File a request for a run, and execute it or wait until another process has executed it.

        Several callers may wait for the same request. If this method raises an error, its caller no longer waits for
        the request. When no caller waits for a request any more, the request is withdrawn. If a process has already
        taken the request, that process still finishes it.

        Args:
            request: The run that is requested. `request.wait` is the maximum time to wait until a process takes the
                request. None means that the time is not limited.
            progress: A function that is called with the progress of the run, even if another process executes the run.
            scope: The scope of the caller. If the scope is cancelled, the caller no longer waits for the request.
            may_execute: Whether this process may execute the run. If false, another process must execute the run.
                The default is true.

        Returns:
            The report of the run.

        Raises:
            LockHeld: No process took the request in time, so the request was withdrawn.
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
        """Request a refresh of students, and execute it or wait until another process has executed it.

        If a refresh of the source has been requested but not taken, the students are added to that request. In that
        case, the report counts all students of the request. If this method raises `StoreError` or `ConfigError`, the
        next run still finds the changes of these students.

        Args:
            source: The name of the source.
            ids: The ids of the students.
            patience: The maximum time to wait for the other process.
            scope: The scope of the caller. If the scope is cancelled, the request stays in the database.
            progress: A function that is called with the progress of the refresh.

        Returns:
            The report of the refresh, or None if the process that holds the lock has not executed the refresh within
            `patience`. In that case, the request stays in the database, and the other process executes it later.

        Raises:
            StoreError: The database cannot be used.
            ConfigError: The source's token is not available.
            Stopped: The scope was cancelled.

        """
        filed = self._file(RunRequest(source, RunKind.REFRESH, wait=None, ids=tuple(ids)))
        outcome = self._execute_or_wait(filed, patience, progress, scope, may_execute=True)
        return None if isinstance(outcome, LockHeld) else outcome

    def execute_all(self, source: str, ended: Callable[[RunReport], None], scope: CancelScope) -> None:
        """Execute the open requests of a source. This process must hold the source's lock.

        Refreshes and other runs take turns, so a refresh after a write waits for at most one run, and a run waits for
        at most one refresh. The progress of each run is stored in the database, where the processes that wait for the
        run can read it. If a request fails, the reason is also stored there, and this method raises the error.

        Args:
            source: The name of the source.
            ended: A function that is called with the report of each run.
            scope: The scope of the runs. If the scope is cancelled, this method raises `Stopped`.

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
        """Store the reasons for all failures that could not be stored before, for example because the disk was full.

        This method never raises an error. A run frees some disk space when it ends, so a later call may succeed.
        """
        for request_id, told in list(self._untold.items()):
            try:
                with self._store.writing() as connection:
                    requests.fail(connection, request_id, told.message, told.hint)
                self._untold.pop(request_id, None)
            except Exception as another:  # noqa: BLE001 - the original error is more important
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
        """Execute a filed request when this process gets the lock, or wait until another process has executed it.

        Returns:
            A `RunReport`: this process or another process has executed the request.
            A `LockHeld`: `patience` is over, and no process has taken the request. If the request is for a refresh, a
            process may have taken the request, but the refresh is not done. The error names the process that holds
            the lock, or says that no daemon has taken the request.

        Raises:
            RequestFailed: The process that took the request failed, or the request was withdrawn.
            StoreError: The database refuses writes. No process could commit the run or record why the run failed.

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
                # If another process commits many changes, this write may time out. Then we continue to wait.
                with suppress(LockTimedOut), self._store.writing() as connection:
                    requests.touch(connection, request.request_id)
                try_at = self._clock.monotonic() + TRY_S

    def _execute_if_free(
        self, mine: RunRequest, progress: ProgressCallback, scope: CancelScope
    ) -> RunReport | LockHeld | None:
        """Take the lock, and execute the open requests of the source from the oldest to `mine`.

        If `mine` is for a refresh, this method executes only refreshes, because a write must not wait until a run has
        read the whole school. If `mine` is for any other run, this method executes no refresh before `mine`. It
        executes one refresh afterwards, because the run may have read the students of that refresh before they were
        changed. If a request of another caller fails, this method continues with the next request.

        Returns:
            A `RunReport`: this process has executed `mine`.
            A `LockHeld`: another process holds the lock, so this method has executed nothing.
            None: `mine` is no longer open, because another process has executed it, or it has failed or was withdrawn.

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
                        with suppress(StoreError):  # the run is done, so the caller must get its report
                            if refresh := self._take(lease, refresh=True):
                                self._execute_for_others(lease, refresh, ignore_progress, scope)
                    return report
        except LockHeld as error:
            return error
        return None

    def _give_up(self, request: RunRequest) -> bool:
        """Stop waiting for a request if possible, and return whether the caller may stop waiting.

        The caller may stop waiting for a refresh if the refresh is not done yet. The request for the refresh stays in
        the database. The caller may stop waiting for any other run if no process has taken the request yet. In that
        case, this method records in the database that the caller no longer waits.
        """
        if request.kind is not RunKind.REFRESH:
            return self._leave(request.request_id, taken=False)
        with self._store.reading() as connection:
            return requests.progress(connection, request.request_id).run_id is None

    def _wait_for_another(self, request_id: int, progress: ProgressCallback, scope: CancelScope) -> RunReport | None:
        """Return the report if another process has done the run. If not, report progress, wait, and return None.

        Raises `RequestFailed` if the request has failed or was withdrawn, because then no process will execute it.
        """
        with self._store.reading() as connection:
            so_far = requests.progress(connection, request_id)
            if so_far.run_id is not None:
                return runs.report(connection, so_far.run_id)
        if so_far.state == RequestState.FAILED:
            raise RequestFailed(so_far.error or "the run failed", so_far.hint or "")
        if so_far.state == RequestState.WITHDRAWN:
            raise RequestFailed("the request for this run was withdrawn, or its source was purged", "run it again")
        if so_far.reads is not None:
            progress(so_far.reads, so_far.rows_done or 0, so_far.rows_total or 0)
        try:
            scope.sleep(POLL_S)
        except Stopped as stopped:
            stopped.left_running = so_far.state == RequestState.TAKEN
            raise
        return None

    def _leave(self, request_id: int, *, taken: bool) -> bool:
        with self._store.writing() as connection:
            return requests.leave(connection, request_id, taken=taken)

    def _abandon(self, request_id: int) -> None:
        """Record that the caller no longer waits for the request, and withdraw the request if no other caller waits."""
        try:
            self._leave(request_id, taken=True)
        except Exception as error:  # noqa: BLE001 - the original error is more important
            log.debug("request_not_withdrawn", reason=type(error).__name__)

    # Runs --------------------------------------------------------------------------------------------------------

    def _execute_for_others(
        self, lease: Lease, request: RunRequest, progress: ProgressCallback, scope: CancelScope
    ) -> None:
        try:
            self._execute(lease, request, progress, scope)
        except (Stopped, LockLost):
            raise
        except Exception as error:  # noqa: BLE001 - the other caller gets the error from the database
            kind, reason = str(request.kind), type(error).__name__
            log.warning("request_failed", source=lease.source, kind=kind, request=request.request_id, reason=reason)

    def _execute(self, lease: Lease, request: RunRequest, progress: ProgressCallback, scope: CancelScope) -> RunReport:
        """Execute a request that this process has taken.

        If an error occurs, store the error in the request, so that the processes that wait for the request can read it.
        If the scope was cancelled, or the process has lost the lock, this method leaves the request open. If `run` has
        filed the request, it stays open only while another caller waits for it, because `run` withdraws it otherwise.
        The next process that gets the lock executes a request that is still open.
        """
        self._untold.pop(request.request_id, None)  # an earlier failure no longer matters
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
    """Stores the progress of a run in its request, where the processes that wait for the run can read it.

    The progress is stored at most once every `NOTE_S` seconds.
    """

    def __init__(self, lease: Lease, request: RunRequest, scope: CancelScope) -> None:
        self._lease, self._request_id, self._scope = lease, request.request_id, scope
        self._noted_at = scope.clock.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._scope.check()
        now = self._scope.clock.monotonic()
        if now - self._noted_at < NOTE_S:
            return
        self._noted_at = now
        with suppress(StoreError), writing(self._lease.connection):  # if the write fails, the run continues
            requests.note_progress(self._lease.connection, self._request_id, what, done, total)


def _not_taken(source: str) -> LockHeld:
    """Return the error for a request that this process may not execute and no other process has taken."""
    message = f"source {source}: no daemon has taken the request"
    return LockHeld(message, "check whether a daemon is running: rostersync status")


def dry_run(
    url: str,
    request: RunRequest,
    progress: ProgressCallback,
    scope: CancelScope,
    *,
    policy: SyncPolicy,
    connect: Connect,
) -> RunReport:
    """Execute a run without committing its result and without taking the lock. The database at `url` is not changed.

    Args:
        url: The URL of the database.
        request: The request for the run.
        progress: A function that is called with the progress of the run.
        scope: The scope of the run. If the scope is cancelled, the run ends.
        policy: The settings that control what a run reads and removes.
        connect: A function that opens the API of a source.

    Returns:
        The report of the run.

    """
    with unchanged_database(url, request.source) as (connection, stage), connect(request.source, scope) as api:
        run = Run(
            request.source, connection, stage, api, policy=policy, clock=scope.clock, progress=progress, commit=None
        )
        return run.execute(request)
