"""Several requests at once: daemon threads, results in order, little look-ahead, and an end when somebody leaves."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, wait
from functools import partial
from itertools import count, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from rostersync.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from rostersync.clock import Clock

T = TypeVar("T")
Item = TypeVar("Item")

# How long anybody waits before looking again whether the process was asked to end: seconds.
GLANCE = 0.1


class Workers:
    """Threads that are made when there is a job for them, kept for the next, and never keep the process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], Callable[[], None]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._numbers = count(1)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have `job` done by a thread of its own; return the promise of what it returns or raises."""
        promise: Future[T] = Future()
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True).start()
        self._jobs.put(lambda: _do(job, promise))
        return promise

    def close(self) -> None:
        """Let the threads end, each after the job it is at."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            tell = job()
            self._idle.release()  # first: who is told may have the next job
            tell()
            del job, tell  # what they hold must not live until then
        self._jobs.put(None)  # for the next thread


def _do(job: Callable[[], T], promise: Future[T]) -> Callable[[], None]:
    """Do the job and return how to tell its outcome."""
    try:
        result = job()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits
        return partial(promise.set_exception, error)
    return partial(promise.set_result, result)


def await_done(promise: Future[Any], clock: Clock, until: float = float("inf")) -> bool:
    """Wait for the promise, and say whether it was kept before `until` (of `clock.monotonic()`).

    Raises `Stopped` as soon as the clock says so.
    """
    while not promise.done():
        left = until - clock.monotonic()
        if left <= 0:
            return False
        wait([promise], min(left, GLANCE))
        clock.check()
    return True


class Lanes:
    """Up to `width` jobs at once. With one lane, everything happens in the caller's own thread.

    `clock` is the clock for those who work in the lanes: it stops them also when the one they work for has left.
    """

    def __init__(self, width: int, clock: Clock) -> None:
        self.clock: Clock = _LaneClock(clock)
        self._width = width
        self._workers = Workers("rostersync-lane")

    def each(self, work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Yield `work(item)` for each item, in order; at most as many results wait as there are lanes.

        Raises what the work raised, in its turn. Whoever stops iterating ends the work still going on.
        """
        if self._width == 1:
            yield from map(work, items)
            return
        left = threading.Event()
        waiting: deque[Future[T]] = deque()
        queue = iter(items)

        def start(jobs: int) -> None:
            waiting.extend(self._start(work, item, left) for item in islice(queue, jobs))

        try:
            start(self._width)
            while waiting:
                promise = waiting.popleft()
                await_done(promise, self.clock)
                start(1)
                yield promise.result()
        finally:
            left.set()

    def close(self) -> None:
        """Let the idle threads end."""
        self._workers.close()

    def _start(self, work: Callable[[Item], T], item: Item, left: threading.Event) -> Future[T]:
        def job() -> T:
            _here.left = left
            self.clock.check()
            return work(item)

        return self._workers.submit(job)


class _Here(threading.local):
    left: threading.Event | None = None


_here = _Here()


class _LaneClock:
    """A clock that also ends what is done for somebody who has left."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        if _here.left is None:
            self._clock.sleep(seconds)
            return
        while seconds > GLANCE:
            self._clock.sleep(GLANCE)
            seconds -= GLANCE
            self.check()
        self._clock.sleep(seconds)
        self.check()

    def check(self) -> None:
        self._clock.check()
        if _here.left is not None and _here.left.is_set():
            raise Stopped
