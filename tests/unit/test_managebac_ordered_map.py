"""Several requests at once: their order, their number, and their end."""

from __future__ import annotations

import threading
import time

import pytest

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import Stopped
from rostersync.managebac.wire.ordered_map import OrderedMap
from rostersync.pool import DaemonExecutor


@pytest.fixture
def ordered_map() -> OrderedMap:
    return OrderedMap(4, DaemonExecutor("page"))


@pytest.fixture
def scope() -> CancelScope:
    return CancelScope(SystemClock())


def test_results_come_in_order(ordered_map: OrderedMap, scope: CancelScope) -> None:
    def work(item: int, scope: CancelScope) -> int:
        time.sleep(0.02 * (item % 3 == 0))
        return item * 2

    assert list(ordered_map.each(work, range(30), scope)) == [item * 2 for item in range(30)]


def test_no_more_jobs_are_begun_than_the_width_ahead_of_the_reader(ordered_map: OrderedMap, scope: CancelScope) -> None:
    begun: list[int] = []
    results = ordered_map.each(lambda item, _: begun.append(item), range(100), scope)
    for taken in range(1, 20):
        next(results)
        time.sleep(0.01)
        assert len(begun) <= taken + 4


def test_several_jobs_are_done_at_once(ordered_map: OrderedMap, scope: CancelScope) -> None:
    together = threading.Barrier(4)
    assert len(list(ordered_map.each(lambda *_: together.wait(5), range(8), scope))) == 8


def test_with_a_width_of_one_everything_happens_in_the_callers_thread_when_it_is_asked_for(
    scope: CancelScope,
) -> None:
    begun: list[int] = []

    def work(item: int, scope: CancelScope) -> threading.Thread:
        begun.append(item)
        return threading.current_thread()

    results = OrderedMap(1, DaemonExecutor("page")).each(work, range(3), scope)
    assert next(results) is threading.current_thread()
    assert begun == [0]


def test_a_failure_comes_in_its_turn_and_ends_the_others(ordered_map: OrderedMap, scope: CancelScope) -> None:
    ended = threading.Event()

    def work(item: int, scope: CancelScope) -> int:
        if item == 2:
            raise KeyError(item)
        if item == 3:
            try:
                scope.sleep(30)
            except Stopped:
                ended.set()
        return item

    results = ordered_map.each(work, range(9), scope)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert ended.wait(2)


def test_a_stop_is_noticed_while_waiting(scope: CancelScope) -> None:
    ordered_map = OrderedMap(2, DaemonExecutor("page"))
    released = threading.Event()
    threading.Timer(0.2, scope.cancel, [15]).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        list(ordered_map.each(lambda *_: released.wait(10), range(2), scope))
    assert time.monotonic() - started < 1
    released.set()


def test_the_callers_scope_outlives_the_calls(ordered_map: OrderedMap, scope: CancelScope) -> None:
    given: list[CancelScope] = []
    results = ordered_map.each(lambda _, calls: given.append(calls), range(2), scope)
    next(results)
    given[0].check()
    results.close()  # type: ignore[attr-defined] # it is a generator
    scope.check()
    with pytest.raises(Stopped):
        given[0].check()


def test_the_scope_of_the_calls_outlives_them_if_the_caller_wants_all_results(
    ordered_map: OrderedMap, scope: CancelScope
) -> None:
    for calls in list(ordered_map.each(lambda _, calls: calls, range(9), scope)):
        calls.check()  # a page decodes its rows late
