"""Several requests at once: their order, their number, and their end."""

from __future__ import annotations

import threading
import time

import pytest

from rostersync.clock import SystemClock
from rostersync.errors import Stopped
from rostersync.managebac.wire.ordered_map import OrderedMap
from rostersync.pool import DaemonExecutor


@pytest.fixture
def ordered_map() -> OrderedMap:
    return OrderedMap(4, SystemClock(), DaemonExecutor("page"))


def test_results_come_in_order(ordered_map: OrderedMap) -> None:
    def work(item: int) -> int:
        time.sleep(0.02 * (item % 3 == 0))
        return item * 2

    assert list(ordered_map.each(work, range(30))) == [item * 2 for item in range(30)]


def test_no_more_jobs_are_begun_than_the_width_ahead_of_the_reader(ordered_map: OrderedMap) -> None:
    begun: list[int] = []
    results = ordered_map.each(begun.append, range(100))
    for taken in range(1, 20):
        next(results)
        time.sleep(0.01)
        assert len(begun) <= taken + 4


def test_several_jobs_are_done_at_once(ordered_map: OrderedMap) -> None:
    together = threading.Barrier(4)
    assert len(list(ordered_map.each(lambda _: together.wait(5), range(8)))) == 8


def test_with_a_width_of_one_everything_happens_in_the_callers_thread_when_it_is_asked_for() -> None:
    begun: list[int] = []

    def work(item: int) -> threading.Thread:
        begun.append(item)
        return threading.current_thread()

    results = OrderedMap(1, SystemClock(), DaemonExecutor("page")).each(work, range(3))
    assert next(results) is threading.current_thread()
    assert begun == [0]


def test_a_failure_comes_in_its_turn_and_ends_the_others(ordered_map: OrderedMap) -> None:
    ended = threading.Event()

    def work(item: int) -> int:
        if item == 2:
            raise KeyError(item)
        if item == 3:
            try:
                ordered_map.clock.sleep(30)
            except Stopped:
                ended.set()
        return item

    results = ordered_map.each(work, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert ended.wait(2)


def test_a_stop_is_noticed_while_waiting() -> None:
    clock = SystemClock()
    ordered_map = OrderedMap(2, clock, DaemonExecutor("page"))
    released = threading.Event()
    threading.Timer(0.2, clock.stop, [15]).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        list(ordered_map.each(lambda _: released.wait(10), range(2)))
    assert time.monotonic() - started < 1
    released.set()


def test_the_clock_outside_a_call_is_the_clock_itself() -> None:
    clock = SystemClock()
    ordered_map = OrderedMap(2, clock, DaemonExecutor("page"))
    ordered_map.clock.sleep(0)
    clock.stop(15)
    with pytest.raises(Stopped):
        ordered_map.clock.check()
