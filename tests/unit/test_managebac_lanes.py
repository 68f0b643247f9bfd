from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from rostersync.clock import SystemClock
from rostersync.errors import Stopped
from rostersync.managebac.lanes import Lanes, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes(4, SystemClock())
    yield lanes
    lanes.close()


def test_results_come_in_order(lanes: Lanes) -> None:
    def work(item: int) -> int:
        time.sleep(0.02 * (item % 3 == 0))
        return item * 2

    assert list(lanes.each(work, range(30))) == [item * 2 for item in range(30)]


def test_no_more_jobs_are_begun_than_there_are_lanes_ahead_of_the_reader(lanes: Lanes) -> None:
    begun: list[int] = []
    results = lanes.each(begun.append, range(100))
    for taken in range(1, 20):
        next(results)
        time.sleep(0.01)
        assert len(begun) <= taken + 4


def test_several_jobs_are_done_at_once(lanes: Lanes) -> None:
    together = threading.Barrier(4)
    assert len(list(lanes.each(lambda _: together.wait(5), range(8)))) == 8


def test_with_one_lane_everything_happens_in_the_callers_thread_when_it_is_asked_for() -> None:
    begun: list[int] = []

    def work(item: int) -> threading.Thread:
        begun.append(item)
        return threading.current_thread()

    results = Lanes(1, SystemClock()).each(work, range(3))
    assert next(results) is threading.current_thread()
    assert begun == [0]


def test_a_failure_comes_in_its_turn_and_ends_the_others(lanes: Lanes) -> None:
    ended = threading.Event()

    def work(item: int) -> int:
        if item == 2:
            raise KeyError(item)
        if item == 3:
            try:
                lanes.clock.sleep(30)
            except Stopped:
                ended.set()
        return item

    results = lanes.each(work, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert ended.wait(2)


def test_a_stop_is_noticed_while_waiting() -> None:
    clock = SystemClock()
    lanes = Lanes(2, clock)
    released = threading.Event()
    threading.Timer(0.2, clock.stop, [15]).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        list(lanes.each(lambda _: released.wait(10), range(2)))
    assert time.monotonic() - started < 1
    released.set()


def test_the_clock_outside_a_lane_is_the_clock_itself() -> None:
    clock = SystemClock()
    lanes = Lanes(2, clock)
    lanes.clock.sleep(0)
    clock.stop(15)
    with pytest.raises(Stopped):
        lanes.clock.check()


def threads_of(name: str) -> int:
    return sum(thread.name.startswith(f"{name}-") for thread in threading.enumerate())


def test_a_thread_is_free_for_the_next_job_before_anybody_hears_of_the_last() -> None:
    workers, go, told = Workers("test"), threading.Event(), threading.Event()

    def another(_: object) -> None:
        promise = workers.submit(lambda: None)
        promise.add_done_callback(lambda _: told.set())

    workers.submit(lambda: go.wait(5)).add_done_callback(another)
    go.set()
    assert told.wait(5)
    assert threads_of("test") == 1
    workers.close()


def test_no_thread_is_left_after_the_end() -> None:
    workers, together = Workers("ending"), threading.Barrier(5)
    for _ in range(4):
        workers.submit(lambda: together.wait(5))
    together.wait(5)
    workers.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ending-"):
            thread.join(5)
    assert threads_of("ending") == 0
