"""The one path for every run: a request in the database, executed by whoever holds the source's lock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rostersync.errors import LockHeld, StoreError
from rostersync.logger import get_logger
from rostersync.store import requests, runs
from rostersync.store.dry_run import unchanged_database
from rostersync.sync.run import Run

if TYPE_CHECKING:
    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback, RunReport, RunRequest
    from rostersync.store import Store
    from rostersync.store.lock import Lease
    from rostersync.store.runs import RunResult
    from rostersync.sync.api import Connect
    from rostersync.sync.plan import SyncPolicy

log = get_logger(__name__)

POLL_S = 0.5
"""How often a caller looks whether the lock is free, or the run that another process does for it is over."""


class Executor:
    """Files requests, and executes those of every source whose lock it gets."""

    def __init__(self, store: Store, clock: Clock, policy: SyncPolicy, connect: Connect, purpose: str) -> None:
        """`purpose` tells others who holds a source, as in "rostersync sync"."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._connect = connect
        self._purpose = purpose

    def run(self, request: RunRequest, progress: ProgressCallback) -> RunReport:
        """Have one run done, here or by whoever holds the source, and return its report.

        Raises `LockHeld` when nobody took the request within `request.wait`; it is withdrawn then, as it is when the
        caller is stopped.
        """
        request_id = self._file(request)
        try:
            return self._see_through(request, request_id, progress)
        except LockHeld:
            raise  # the request is withdrawn already
        except BaseException:
            self._abandon(request_id)
            raise

    def _file(self, request: RunRequest) -> int:
        with self._store.writing() as connection:
            return requests.file(connection, request, self._clock.now())

    def _see_through(self, request: RunRequest, request_id: int, progress: ProgressCallback) -> RunReport:
        give_up_at = math.inf if request.wait is None else self._clock.monotonic() + request.wait.total_seconds()
        while True:
            try:
                with self._store.lease(request.source, self._purpose) as lease:
                    reports = self._execute_open(lease, request_id, progress)
            except LockHeld:
                if self._clock.monotonic() > give_up_at and self._leave(request_id, taken=False):
                    raise
                reports = {}
            report = reports.get(request_id) or self._done_elsewhere(request_id)
            if report is not None:
                return report
            self._clock.sleep(POLL_S)

    def _execute_open(self, lease: Lease, mine: int, progress: ProgressCallback) -> dict[int, RunReport]:
        """Execute the open requests of the lease's source, oldest first, up to the caller's own."""
        reports: dict[int, RunReport] = {}
        while mine not in reports and (request := requests.take(lease, self._clock.now(), mine)):
            reports[request.request_id] = self._execute(lease, request, progress)
        return reports

    def _execute(self, lease: Lease, request: RunRequest, progress: ProgressCallback) -> RunReport:
        def commit(result: RunResult, apply: bool) -> int:
            return runs.commit(lease, result, apply=apply)

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
                commit=commit,
            )
            return run.execute(request)

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
