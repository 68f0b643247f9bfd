"""The pool of threads: how many there are, what becomes of jobs and their failures, and when it stops waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, NoReturn

import pytest

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import OutOfTime, Stopped
from rostersync.pool import DaemonExecutor, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Keep the jobs that wait for it busy, no longer than the test."""
    event = threading.Event()
    yield event
    event.set()


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


# Threads ---------------------------------------------------------------------------------------------------------


def test_41_jobs_in_a_pool_of_4_use_4_threads_and_all_are_done(go: threading.Event) -> None:
    pool = DaemonExecutor("four", 4)
    futures = [pool.submit(lambda job=job: go.wait(20) and job) for job in range(41)]
    assert len(threads_of("four")) == 4
    go.set()
    assert [future.result(20) for future in futures] == list(range(41))
    assert len(threads_of("four")) == 4
    pool.shutdown()


def test_waiting_jobs_begin_in_the_order_in_which_they_were_submitted() -> None:
    pool, begun = DaemonExecutor("order", 1), list[int]()
    for job in range(9):
        pool.submit(begun.append, job)
    pool.shutdown()
    assert begun == list(range(9))


def test_in_a_pool_without_a_limit_no_job_waits_for_another(go: threading.Event) -> None:
    pool, together = DaemonExecutor("unlimited"), threading.Barrier(30)
    hanging = [pool.submit(go.wait, 20) for _ in range(3)]
    assert len({future.result(20) for future in [pool.submit(together.wait, 20) for _ in range(30)]}) == 30
    assert not any(future.done() for future in hanging)
    go.set()
    pool.shutdown()


def test_threads_are_daemons() -> None:
    pool = DaemonExecutor("daemon")
    assert pool.submit(lambda: threading.current_thread().daemon).result(20)
    pool.shutdown()


def test_a_thread_is_free_for_the_next_job_before_anybody_learns_of_the_last(go: threading.Event) -> None:
    pool, done = DaemonExecutor("free"), threading.Event()

    def submit_another(_: object) -> None:
        pool.submit(done.set)

    pool.submit(go.wait, 20).add_done_callback(submit_another)
    go.set()
    assert done.wait(5)
    assert len(threads_of("free")) == 1
    pool.shutdown()


def test_no_thread_is_left_after_a_shutdown() -> None:
    pool, together = DaemonExecutor("ending"), threading.Barrier(5)
    for _ in range(4):
        pool.submit(together.wait, 5)
    together.wait(5)
    pool.shutdown()
    for thread in threads_of("ending"):
        thread.join(5)
    assert threads_of("ending") == []


def test_no_thread_is_left_when_nothing_refers_to_the_pool_any_more(go: threading.Event) -> None:
    pool, done = DaemonExecutor("forgotten", 2), threading.Event()
    for job in (go.wait, go.wait, done.set):
        pool.submit(job)
    del pool
    go.set()
    assert done.wait(5)
    for thread in threads_of("forgotten"):
        thread.join(5)
    assert threads_of("forgotten") == []


def test_the_process_ends_although_a_job_hangs_and_another_waits() -> None:
    program = """
import threading
from rostersync.pool import DaemonExecutor
pool = DaemonExecutor("hanging", 1)
begun = threading.Event()
for _ in range(2):
    pool.submit(lambda: begun.set() or threading.Event().wait())
begun.wait()
pool.shutdown(wait=False)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=10)


# Jobs ------------------------------------------------------------------------------------------------------------


def test_an_exception_reaches_the_future_of_its_job_and_leaves_the_pool_at_work() -> None:
    def fail(reason: str) -> NoReturn:
        raise SystemExit(reason)

    pool = DaemonExecutor("failing", 1)
    failed, other = pool.submit(fail, "whatever it is"), pool.submit(len, "four")
    with pytest.raises(SystemExit, match="whatever it is"):
        failed.result(20)
    assert other.result(20) == 4
    pool.shutdown()


def test_a_waiting_job_that_was_cancelled_is_not_done_and_its_place_goes_to_the_next(go: threading.Event) -> None:
    pool, done = DaemonExecutor("cancelled", 1), list[str]()
    pool.submit(go.wait, 20)
    cancelled, next_one = pool.submit(done.append, "cancelled"), pool.submit(done.append, "next")
    assert cancelled.cancel()
    go.set()
    next_one.result(20)
    pool.shutdown()
    assert done == ["next"]


def test_nothing_of_a_job_that_is_done_is_kept() -> None:
    pool = DaemonExecutor("forgetful", 1)
    given, returned = threading.Event(), threading.Event()
    traces = [weakref.ref(given), weakref.ref(returned)]
    future = pool.submit(lambda _given, returned: returned, given, returned)
    assert future.result(20) is returned
    del given, returned, future
    deadline = time.monotonic() + 5  # the thread lets go a moment after it has told
    while any(trace() for trace in traces):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pool.shutdown()


@pytest.mark.parametrize("cancel", [False, True])
def test_a_shutdown_lets_waiting_jobs_be_done_or_cancels_them_as_it_is_told(go: threading.Event, cancel: bool) -> None:
    begun, done = threading.Barrier(2), threading.Event()
    pool = DaemonExecutor("shutdown", 1)
    under_way, waiting = pool.submit(lambda: begun.wait(20) >= 0 and go.wait(20)), pool.submit(done.set)
    begun.wait(20)
    pool.shutdown(wait=False, cancel_futures=cancel)
    go.set()
    assert under_way.result(20)
    assert pool.join(20)
    assert (waiting.cancelled(), done.is_set()) == (cancel, not cancel)


def test_nothing_can_be_submitted_after_a_shutdown() -> None:
    pool = DaemonExecutor("closed")
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after the shutdown"):
        pool.submit(int)


# Waiting ---------------------------------------------------------------------------------------------------------


def test_a_job_that_does_not_end_is_left_behind(go: threading.Event) -> None:
    pool = DaemonExecutor("left", 1)
    future = pool.submit(go.wait, 20)
    assert not pool.join(0.05)
    go.set()
    assert future.result(20)
    assert pool.join(20)


def test_waiting_ends_when_all_are_done_or_at_its_time(go: threading.Event) -> None:
    scope, pool = CancelScope(SystemClock()), DaemonExecutor("waiting", 2)
    quick, slow = pool.submit(int), pool.submit(go.wait, 20)
    wait_for([quick], scope)
    assert quick.done()
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        wait_for([quick, slow], scope.child(seconds=0.3))
    assert 0.3 <= time.monotonic() - started < 1
    go.set()
    wait_for([quick, slow], scope.child(seconds=20))
    assert slow.done()
    pool.shutdown()


def test_waiting_ends_at_once_when_the_scope_is_cancelled(go: threading.Event) -> None:
    scope, pool = CancelScope(SystemClock()), DaemonExecutor("stopped")
    future = pool.submit(go.wait, 20)
    threading.Timer(0.2, scope.cancel, [15]).start()
    started = time.monotonic()
    with pytest.raises(Stopped) as caught:
        wait_for([future], scope)
    assert caught.value.signal == 15
    assert time.monotonic() - started < 1
