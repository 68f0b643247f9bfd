"""One run of each of several sources: side by side, none in the way of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.errors import RostersyncError, Stopped, unexpected
from rostersync.logger import get_logger
from rostersync.pool import SHUTDOWN_S, DaemonExecutor, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from rostersync.clock import Clock
    from rostersync.report import RunReport, RunRequest

log = get_logger(__name__)

WORST_FIRST = (1, 2, 75, 3, 0)
"""Exit statuses: of several, the first in this order counts."""


class Outcome(msgspec.Struct, frozen=True):
    """How a request ended: with a report, or with the error that left none."""

    source: str
    report: RunReport | None = None
    error: RostersyncError | None = None

    @property
    def exit_status(self) -> int:
        """The status for this source alone."""
        if self.report is None:
            return self.error.exit_status if self.error else 1
        return self.report.exit_status


def worst(outcomes: Iterable[Outcome]) -> int:
    """Return the exit status for all of them; 0 for none."""
    return min((outcome.exit_status for outcome in outcomes), key=WORST_FIRST.index, default=0)


def run_all(
    requests: Sequence[RunRequest],
    run: Callable[[RunRequest], RunReport],
    *,
    at_once: int,
    clock: Clock,
    refused: Mapping[str, RostersyncError],
) -> list[Outcome]:
    """Carry out `requests` by `run`, and return their outcomes in order; those of `refused` sources are not begun.

    Raises `Stopped` when the process is to end: runs under way get some seconds to end as well, no other is begun.
    """
    clock.check()

    def begin(request: RunRequest) -> RunReport:
        clock.check()  # it may have waited for its place until the process was to end
        return run(request)

    pool = DaemonExecutor("run", at_once)
    futures = {request: pool.submit(begin, request) for request in requests if request.source not in refused}
    pool.shutdown(wait=False)
    try:
        wait_for(futures.values(), clock)
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
    except Exception as error:  # a source's failure never ends another's run
        log.debug("unexpected", source=request.source, exc_info=error)
        return Outcome(request.source, error=unexpected(error))
