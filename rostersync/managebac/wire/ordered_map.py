"""Make several requests at once, and return the results in order.

If the caller stops iterating, the clock that the running calls use raises `Stopped`, so that they end early.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from rostersync.errors import Stopped
from rostersync.pool import STOP_CHECK_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from datetime import datetime

    from rostersync.clock import Clock

T = TypeVar("T")
Item = TypeVar("Item")


class OrderedMap:
    """Like `map`, but with up to `width` calls at once. If `width` is 1, the caller's thread makes the calls.

    The called code must use `clock`, which also raises `Stopped` if the caller has stopped iterating.
    """

    def __init__(self, width: int, clock: Clock, pool: Executor) -> None:
        """Use `pool` for the calls. Several maps may share a pool."""
        self.clock: Clock = _CallersClock(clock)
        self._width = width
        self._pool = pool

    def each(self, work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Yield `work(item)` for each item, in order. At most `width` calls are started ahead of the results.

        If `work` raises an exception for an item, this raises it in place of that item's result. If the caller stops
        iterating, the running calls end.
        """
        if self._width == 1:
            yield from map(work, items)
            return
        abandoned = threading.Event()
        futures: deque[Future[T]] = deque()
        begun = (self._start(work, item, abandoned) for item in items)
        try:
            futures.extend(islice(begun, self._width))
            while futures:
                future = futures.popleft()
                wait_for([future], self.clock)
                futures.extend(islice(begun, 1))
                yield future.result()
        finally:
            abandoned.set()

    def _start(self, work: Callable[[Item], T], item: Item, abandoned: threading.Event) -> Future[T]:
        def call() -> T:
            _thread.abandoned = abandoned
            self.clock.check()
            return work(item)

        return self._pool.submit(call)


class _Thread(threading.local):
    """The event of the current thread that is set when its caller stops iterating. None outside of `each`."""

    abandoned: threading.Event | None = None


_thread = _Thread()


class _CallersClock:
    """A clock that also raises `Stopped` in the threads of a caller that has stopped iterating."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        if _thread.abandoned is None:
            self._clock.sleep(seconds)
            return
        while seconds > STOP_CHECK_S:
            self._clock.sleep(STOP_CHECK_S)
            seconds -= STOP_CHECK_S
            self.check()
        self._clock.sleep(seconds)
        self.check()

    def check(self) -> None:
        self._clock.check()
        if _thread.abandoned is not None and _thread.abandoned.is_set():
            raise Stopped
