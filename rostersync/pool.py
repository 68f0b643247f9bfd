"""Provide a thread pool that does not keep the process alive.

The standard library's `ThreadPoolExecutor` joins its threads when the interpreter exits, so a single DNS look-up that
hangs would keep the process alive. The threads of this pool are daemon threads: they end with the process. All pools
of the program are of this class.
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

    from rostersync.cancel import CancelScope

T = TypeVar("T")
P = ParamSpec("P")

STOP_CHECK_S = 0.1
"""Seconds to wait at a time before checking again whether the process was asked to end."""

SHUTDOWN_S = 3.5
"""Seconds that running jobs have to finish, once the process was asked to end."""


class DaemonExecutor(Executor):
    """An executor that runs jobs in daemon threads, at most `size` at a time (None: any number).

    Further jobs wait in a queue. A job that finds no idle thread starts a new one, up to the limit. The threads are
    kept for later jobs. They end after a shutdown, or when nothing refers to the pool any more.
    """

    def __init__(self, name: str, size: int | None = None) -> None:
        """Create a pool without threads. Each thread will be called `name`, followed by a number."""
        self._name = name
        self._size = math.inf if size is None else size
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._jobs: _Jobs = SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False  # not needed at exit, because idle daemon threads end with the process
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call of `fn`, and return the future of its result. Raises `RuntimeError` after a shutdown."""
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
        """Accept no more jobs. The threads end after the last job. For the parameters, see `Executor.shutdown`."""
        with self._lock:
            self._end()
        if cancel_futures:
            for future in self._open.copy():
                future.cancel()  # has no effect on a running job
        if wait:
            self.join()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for all jobs, for at most `seconds` (None: without limit). Return whether all are done."""
        return not wait(self._open.copy(), seconds).not_done


_Jobs: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


def _work(jobs: _Jobs, idle: threading.Semaphore) -> None:
    """Run jobs until the pool ends.

    A thread has no reference to its pool. Otherwise the pool could not end when nothing else refers to it.
    """
    while (job := jobs.get()) is not None:
        publish = _carry_out(*job)
        idle.release()  # before `publish`, so that a caller who gets the result finds this thread idle for its next job
        publish()
        del job, publish  # while the thread waits for the next job, it must not keep this one's objects alive
    jobs.put(None)  # ends the next thread


def _carry_out(future: Future[T], call: Callable[[], T]) -> Callable[[], None]:
    """Run the job, unless it was cancelled. Return a function that passes the result to the future."""
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        return partial(future.set_result, call())
    except BaseException as error:  # noqa: BLE001 - the caller that waits for the future gets every exception
        return partial(future.set_exception, error)


def wait_for(futures: Collection[Future[Any]], scope: CancelScope) -> None:
    """Wait until all futures are done. Their errors do not matter here.

    Raises `Stopped` within `STOP_CHECK_S` after the scope ends, and `OutOfTime` if its deadline passes.
    """
    for future in futures:
        while not future.done():
            scope.check()
            with suppress(TimeoutError, CancelledError):  # this is cheaper than `concurrent.futures.wait`
                future.exception(min(STOP_CHECK_S, scope.remaining()))
