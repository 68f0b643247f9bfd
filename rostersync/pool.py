"""Provide a thread pool that does not keep the process alive.

The standard library's `ThreadPoolExecutor` waits for its threads when the interpreter exits, so a single DNS look-up
that hangs would keep the process alive. The threads of this pool are daemon threads, which end when the process ends.
The program uses this class for all of its thread pools.
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
"""The number of seconds between two checks of whether the process was asked to end."""

SHUTDOWN_S = 3.5
"""The number of seconds that running jobs have to finish after the process was asked to end."""


class DaemonExecutor(Executor):
    """An executor that runs jobs in daemon threads.

    At most `size` jobs run at the same time, or any number of jobs if `size` is None. All other jobs wait in a queue.
    If a job is submitted while no thread is idle, the executor starts a new thread, unless it already has `size`
    threads. Threads are reused for later jobs. The threads end after a shutdown, or when nothing refers to the executor
    any more.
    """

    def __init__(self, name: str, size: int | None = None) -> None:
        """Create an executor that has no threads yet. Each thread gets a name that consists of `name` and a number."""
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
        """Schedule a call of `fn`, and return a future for the result of the call.

        Raises `RuntimeError` after a shutdown.
        """
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
        """Stop accepting jobs. The threads end after the last job. `Executor.shutdown` describes the parameters."""
        with self._lock:
            self._end()
        if cancel_futures:
            for future in self._open.copy():
                future.cancel()  # has no effect on a running job
        if wait:
            self.join()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until all jobs are done, but at most `seconds` seconds. Return whether all jobs are done.

        If `seconds` is None, there is no limit.
        """
        return not wait(self._open.copy(), seconds).not_done


_Jobs: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


def _work(jobs: _Jobs, idle: threading.Semaphore) -> None:
    """Run jobs in a thread until the executor has been shut down.

    This function gets no reference to the executor, because the reference would keep an executor alive that nothing
    else uses.
    """
    while (job := jobs.get()) is not None:
        publish = _carry_out(*job)
        idle.release()  # before `publish`, so that this thread is idle when the caller gets the result
        publish()
        del job, publish  # otherwise the objects of this job would stay in memory until the next job
    jobs.put(None)  # makes the next thread end


def _carry_out(future: Future[T], call: Callable[[], T]) -> Callable[[], None]:
    """Run a job unless it was cancelled. Return a function that stores the result in the future."""
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        return partial(future.set_result, call())
    except BaseException as error:  # noqa: BLE001 - the future passes every exception to the caller that waits for it
        return partial(future.set_exception, error)


def wait_for(futures: Collection[Future[Any]], scope: CancelScope) -> None:
    """Wait until all futures are done. This does not raise the exceptions of the futures.

    Raises `Stopped` within `STOP_CHECK_S` seconds after the scope ends, and `OutOfTime` if the scope's deadline passes.
    """
    for future in futures:
        while not future.done():
            scope.check()
            with suppress(TimeoutError, CancelledError):  # this is cheaper than `concurrent.futures.wait`
                future.exception(min(STOP_CHECK_S, scope.remaining()))
