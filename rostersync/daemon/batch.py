"""One run of each of several sources: side by side, none in the way of another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from rostersync.daemon.crew import Crew
from rostersync.errors import RostersyncError, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from rostersync.clock import Clock
    from rostersync.daemon.executor import Order
    from rostersync.report import RunReport

log = structlog.get_logger()

WORST_FIRST = (1, 2, 75, 3, 0)
"""Exit statuses, in the order in which one of several counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended: with a report, or with the error that left none."""

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


def unexpected(error: BaseException) -> RostersyncError:
    """Return what a person is told of an error that nobody foresaw: its text may hold anything."""
    hint = 'run it again with logging.level = "debug" for details'
    return RostersyncError(f"unexpected: {type(error).__name__}", hint)


def run_all(
    orders: Sequence[Order],
    run: Callable[[Order], RunReport],
    *,
    at_once: int,
    clock: Clock,
    refused: Mapping[str, RostersyncError],
) -> list[Outcome]:
    """Carry out `orders` by `run`, and return their outcomes in order; those `refused`, by source, are not begun.

    Raises `Stopped` when the process is to end: runs under way get some seconds to end as well.
    """
    clock.check()
    crew = Crew(at_once)
    begun = {order: crew.submit(partial(run, order)) for order in orders if order.source not in refused}
    try:
        crew.wait(clock)
    except Stopped:
        crew.leave()
        raise
    return [
        _outcome(order, begun[order]) if order in begun else Outcome(order.source, error=refused[order.source])
        for order in orders
    ]


def _outcome(order: Order, promise: Future[RunReport]) -> Outcome:
    try:
        return Outcome(order.source, report=promise.result())
    except RostersyncError as error:
        return Outcome(order.source, error=error)
    except Stopped:
        raise
    except Exception as error:  # a source's failure never ends another's run
        log.debug("unexpected", source=order.source, exc_info=error)
        return Outcome(order.source, error=unexpected(error))
