"""The one path for every run: a request in the database, executed by whoever holds the source's lock."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rostersync.errors import LockHeld, Stopped, StoreError
from rostersync.logger import get_logger
from rostersync.report import RunKind, RunRequest, ignore_progress
from rostersync.store import requests, runs
from rostersync.store.dry_run import unchanged_database
from rostersync.sync.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback, RunReport
    from rostersync.store import Store
    from rostersync.store.lock import Lease
    from rostersync.sync.api import Connect
    from rostersync.sync.plan import SyncPolicy

log = get_logger(__name__)

POLL_S = 0.5
"""How often a caller looks whether the lock is free, or the run that another process does for it is over."""


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

    def run(self, request: RunRequest, progress: ProgressCallback) -> RunReport:
        """Have one run done, here or by whoever holds the source, and return its report.

        Raises `LockHeld` when nobody took the request within `request.wait`; it is withdrawn then, as it is when the
        caller is stopped.
        """
        filed = self._file(request)
        try:
            give_up = partial(self._leave, filed.request_id, taken=False)
            return self._see_through(filed, request.wait, give_up, progress)
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
            return self._see_through(filed, patience, lambda: self._done_elsewhere(filed.request_id) is None, progress)
        except LockHeld:
            return None

    def _file(self, request: RunRequest) -> RunRequest:
        with self._store.writing() as connection:
            return replace(request, request_id=requests.file(connection, request, self._clock.now()))

    def _see_through(
        self, request: RunRequest, wait: timedelta | None, give_up: Callable[[], bool], progress: ProgressCallback
    ) -> RunReport:
        """Return the report of a filed request. Raises `LockHeld` when after `wait` it may be given up."""
        give_up_at = math.inf if wait is None else self._clock.monotonic() + wait.total_seconds()
        while True:
            try:
                with self._store.lease(request.source, self._purpose) as lease:
                    reports = self._execute_open(lease, request, progress)
            except LockHeld:
                if self._clock.monotonic() > give_up_at and give_up():
                    raise
                reports = {}
            report = reports.get(request.request_id) or self._done_elsewhere(request.request_id)
            if report is not None:
                return report
            self._clock.sleep(POLL_S)

    def _execute_open(self, lease: Lease, mine: RunRequest, progress: ProgressCallback) -> dict[int, RunReport]:
        """Execute the open requests of the lease's source, oldest first, up to the caller's own.

        For a run these are the runs, with the refresh that waits behind them; for a refresh the refreshes only, because
        a write is not to wait for a run of the whole school.
        """
        refresh = mine.kind is RunKind.REFRESH
        execute = self._execute_refresh if refresh else self._execute
        reports: dict[int, RunReport] = {}
        while mine.request_id not in reports and (
            request := requests.take(lease, self._clock.now(), mine.request_id, refresh=refresh)
        ):
            reports[request.request_id] = execute(lease, request, progress)
        if not refresh and mine.request_id in reports:
            self._refresh_after_run(lease)
        return reports

    def _refresh_after_run(self, lease: Lease) -> None:
        """Execute the refresh that waits, or was filed during the run.

        It comes after the run, under the same lock, for the run may have read these students before they were written.
        One is enough: later ones have joined it. So the holder comes to an end, however busy the writers are.
        """
        try:
            if request := requests.take(lease, self._clock.now(), 0, refresh=True):
                self._execute_refresh(lease, request, ignore_progress)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - the run is done, and its caller is to learn how
            log.warning("refresh_failed", source=lease.source, reason=type(error).__name__)

    def _execute_refresh(self, lease: Lease, request: RunRequest, progress: ProgressCallback) -> RunReport:
        """Execute a refresh. Where it raises an error one of its callers leaves it, so that it cannot do so for ever.

        Nothing is lost with it: the next run brings the same.
        """
        try:
            return self._execute(lease, request, progress)
        except Stopped:
            raise  # the next holder takes it again
        except Exception:
            self._abandon(request.request_id)
            raise

    def _execute(self, lease: Lease, request: RunRequest, progress: ProgressCallback) -> RunReport:
        with self._connect(lease.source) as api:
            stage = self._store.stage(lease.connection, lease.source)
            run = Run(
                lease.source,
                lease.connection,
                stage,
                api,
                policy=self._policy,
                clock=self._clock,
                progress=progress,
                commit=partial(runs.commit, lease),
            )
            report = run.execute(request)
        self._after_run(report)
        return report

    def _done_elsewhere(self, request_id: int) -> RunReport | None:
        """Return the report of the run that another process did. Raises `StoreError` when none will ever be done."""
        with self._store.reading() as connection:
            done = requests.progress(connection, request_id)
            if done.run_id is not None:
                return runs.report(connection, done.run_id)
        if done.state == "withdrawn":
            raise StoreError("the request for this run was withdrawn, or went with its source", "run it again")
        return None

    def _leave(self, request_id: int, *, taken: bool) -> bool:
        with self._store.writing() as connection:
            return requests.leave(connection, request_id, taken=taken)

    def _abandon(self, request_id: int) -> None:
        """Leave the request, taken or not: its caller is gone. Whoever executes it elsewhere closes it all the same."""
        try:
            self._leave(request_id, taken=True)
        except Exception as error:  # noqa: BLE001 - what ended the run matters more; the request expires by itself
            log.debug("request_not_withdrawn", reason=type(error).__name__)


def dry_run(
    url: str, request: RunRequest, progress: ProgressCallback, *, clock: Clock, policy: SyncPolicy, connect: Connect
) -> RunReport:
    """Do everything of a run but its commit, without the lock, and leave no trace in the database at `url`."""
    with unchanged_database(url, request.source) as (connection, stage), connect(request.source) as api:
        run = Run(request.source, connection, stage, api, policy=policy, clock=clock, progress=progress, commit=None)
        return run.execute(request)
