"""Run several sources in parallel. If the run of one source fails, the runs of the other sources continue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.errors import RostersyncError, Stopped, unexpected
from rostersync.logger import get_logger
from rostersync.pool import SHUTDOWN_S, DaemonExecutor, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from rostersync.cancel import CancelScope
    from rostersync.report import RunReport, RunRequest

log = get_logger(__name__)

WORST_FIRST = (1, 2, 75, 3, 0)
"""The exit statuses in order, from the most serious to the least serious."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of a request: a report, or an error if the run ended without a report."""

    source: str
    report: RunReport | None = None
    error: RostersyncError | None = None

    @property
    def exit_status(self) -> int:
        """The exit status for this source, regardless of other sources."""
        if self.report is None:
            return self.error.exit_status if self.error else 1
        return self.report.exit_status


def worst(outcomes: Iterable[Outcome]) -> int:
    """Return the most serious exit status of the outcomes, or 0 if `outcomes` is empty."""
    return min((outcome.exit_status for outcome in outcomes), key=WORST_FIRST.index, default=0)


def run_all(
    requests: Sequence[RunRequest],
    run: Callable[[RunRequest], RunReport],
    *,
    at_once: int,
    scope: CancelScope,
    refused: Mapping[str, RostersyncError],
) -> list[Outcome]:
    """Execute the requests, and return their outcomes in the same order.

    Args:
        requests: The requests, without duplicates.
        run: A function that executes one request.
        at_once: The maximum number of runs at the same time. It must be at least 1.
        scope: The scope of the whole batch.
        refused: The error for each source that cannot be run, keyed by the name of the source.

    Returns:
        A list with one outcome for each request.

    Raises:
        Stopped: The scope was cancelled. Runs in progress get a few seconds to finish, and no further run is started.

    """
    scope.check()

    def begin(request: RunRequest) -> RunReport:
        scope.check()  # the process may have been asked to stop while the request waited for a thread
        return run(request)

    pool = DaemonExecutor("run", at_once)
    futures = {request: pool.submit(begin, request) for request in requests if request.source not in refused}
    pool.shutdown(wait=False)
    try:
        wait_for(futures.values(), scope)
    except Stopped as stopped:
        pool.join(SHUTDOWN_S)
        stopped.left_running = any(map(_left_running, futures.values()))
        raise
    return [
        _outcome(request, futures[request])
        if request in futures
        else Outcome(request.source, error=refused[request.source])
        for request in requests
    ]


def _left_running(future: Future[RunReport]) -> bool:
    error = future.exception() if future.done() and not future.cancelled() else None
    return isinstance(error, Stopped) and error.left_running


def _outcome(request: RunRequest, future: Future[RunReport]) -> Outcome:
    try:
        return Outcome(request.source, report=future.result())
    except RostersyncError as error:
        return Outcome(request.source, error=error)
    except Stopped:
        raise
    except Exception as error:  # an error in one source must not end the runs of other sources
        log.debug("unexpected", source=request.source, exc_info=error)
        return Outcome(request.source, error=unexpected(error))
