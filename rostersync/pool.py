"""The one pool of threads: for the pages in flight, the runs of several sources, and the scheduler's jobs.

The standard library's pool joins its threads when the interpreter ends, so one look-up of a name that hangs would keep
the process alive. The threads of this pool are daemons: they end with the process.
"""

from __future__ import annotations

import math
import threading
import weakref
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rostersync.clock import Clock

T = TypeVar("T")
P = ParamSpec("P")

STOP_CHECK_S = 0.1
"""How long anybody waits before checking again whether the process was asked to end."""

SHUTDOWN_S = 3.5
"""How long jobs under way get to end, once the process was asked to."""


class DaemonExecutor(Executor):
    """Does jobs in daemon threads: `size` at once, or any number. The others wait in a queue, without a thread.

    A thread is started when there is a job and no idle thread, and kept for the next job. After a shutdown, or when
    nothing refers to the pool any more, the threads end.
    """

    def __init__(self, name: str, size: int | None = None) -> None:
        """`name` is that of the threads, followed by a number."""
        self._name = name
        self._size = math.inf if size is None else size
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._jobs: _Jobs = SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False  # threads that wait for a job end with the process
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn` called; return the future of what it returns or raises. Raises `RuntimeError` after a shutdown."""
        future: Future[T] = Future()
        with self._lock:
            if not self._end.alive:
                raise RuntimeError("no job can be submitted after the shutdown")
            if not self._idle.acquire(blocking=False) and self._threads < self._size:
                name = f"{self._name}-{self._threads + 1}"
                threading.Thread(target=_work, args=(self._jobs, self._idle), name=name, daemon=True).start()
                self._threads += 1
            self._open.add(future)
            self._jobs.put((future, partial(fn, *args, **kwargs)))
        future.add_done_callback(self._open.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and let the threads end after the last; see `Executor.shutdown`."""
        with self._lock:
            self._end()
        if cancel_futures:
            for future in self._open.copy():
                future.cancel()  # which leaves alone what is under way
        if wait:
            self.join()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for all jobs, at most so many seconds; tell whether all are done."""
        return not wait(self._open.copy(), seconds).not_done


_Jobs: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


def _work(jobs: _Jobs, idle: threading.Semaphore) -> None:
    """Do jobs until the pool ends. A thread does not refer to its pool, which would then never end by itself."""
    while (job := jobs.get()) is not None:
        publish = _carry_out(*job)
        idle.release()  # first: whoever learns of the outcome may have the next job
        publish()
        del job, publish  # what they hold must not live until then
    jobs.put(None)  # for the next thread


def _carry_out(future: Future[T], call: Callable[[], T]) -> Callable[[], None]:
    """Do the job, unless it was cancelled; return what hands its outcome to the future."""
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        return partial(future.set_result, call())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits
        return partial(future.set_exception, error)


def wait_for(futures: Collection[Future[Any]], clock: Clock, until: float = math.inf) -> bool:
    """Wait for the futures; tell whether all were done before `until` (of `clock.monotonic()`).

    Raises `Stopped`, soon after the clock was stopped.
    """
    for future in futures:
        while not _is_done(future, max(0.0, min(STOP_CHECK_S, until - clock.monotonic()))):
            clock.check()
            if clock.monotonic() >= until:
                return False
    return True


def _is_done(future: Future[Any], seconds: float) -> bool:
    """Wait for one future, which costs less than to wait for several."""
    if not future.done():
        with suppress(TimeoutError, CancelledError):
            future.exception(seconds)
    return future.done()
