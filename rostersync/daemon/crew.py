"""Threads for the runs of several sources: so many at work at once, and none that keeps the process from ending."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.clock import Clock

T = TypeVar("T")

LEAVE = 3.5
"""Seconds for those at work to end, once the process was asked to."""

_GLANCE = 0.1


class Crew:
    """Does jobs, `size` at once, each in a thread of its own."""

    def __init__(self, size: int) -> None:
        self._places = threading.Semaphore(size)
        self._open: set[Future[None]] = set()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have `job` done as soon as there is a place; return the promise of what it returns or raises."""
        promise: Future[T] = Future()
        left: Future[None] = Future()
        self._open.add(left)
        threading.Thread(target=self._do, args=(job, promise, left), name="crew", daemon=True).start()
        return promise

    def _do(self, job: Callable[[], T], promise: Future[T], left: Future[None]) -> None:
        try:
            with self._places:
                promise.set_result(job())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits
            promise.set_exception(error)
        finally:
            self._open.discard(left)
            left.set_result(None)

    def wait(self, clock: Clock) -> None:
        """Wait for all jobs; raises `Stopped` when the process is to end."""
        while wait(self._open.copy(), _GLANCE).not_done:
            clock.check()

    def leave(self) -> bool:
        """Wait `LEAVE` seconds for the jobs, which know that the process is to end; tell whether all have."""
        return not wait(self._open.copy(), LEAVE).not_done
