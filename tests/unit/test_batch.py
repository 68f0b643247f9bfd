"""Runs of several sources: side by side, and what becomes of their failures."""

from __future__ import annotations

import threading
import time
from itertools import permutations
from typing import TYPE_CHECKING, NoReturn

import pytest

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import ConfigError, LockHeld, RostersyncError, Stopped
from rostersync.report import Counts, RunKind, RunReport, RunRequest, RunState, Watermarks
from rostersync.runs import batch
from rostersync.runs.batch import Outcome, run_all, worst

if TYPE_CHECKING:
    from conftest import ManualClock

REQUESTS = [RunRequest(name, RunKind.FULL) for name in ("a", "b", "c")]


def report(clock: ManualClock, source: str, state: RunState = RunState.SUCCEEDED, status: int = 0) -> RunReport:
    return RunReport(
        1, source, RunKind.FULL, state, Counts(), 0, 0, 0.0, Watermarks(), clock.now(), clock.now(), exit_status=status
    )


def test_the_worst_status_counts_in_the_order_of_the_contract(clock: ManualClock) -> None:
    outcomes = {
        1: Outcome("a", error=RostersyncError("failed")),
        75: Outcome("b", error=LockHeld("held")),
        3: Outcome("c", report(clock, "c", RunState.HELD, 3)),
        0: Outcome("d", report(clock, "d")),
    }
    for some in permutations(outcomes, 2):
        expected = next(status for status in (1, 75, 3, 0) if status in some)
        assert worst(outcomes[status] for status in some) == expected
    assert worst([Outcome("e", error=ConfigError(["wrong"]))]) == 2
    assert worst([]) == 0


def test_a_dry_run_has_the_status_of_the_real_one(clock: ManualClock) -> None:
    assert Outcome("a", report(clock, "a", RunState.DRY_RUN, 3)).exit_status == 3


def test_every_source_gets_its_outcome_in_order_whatever_befalls_the_others(
    clock: ManualClock, scope: CancelScope
) -> None:
    def run(request: RunRequest) -> RunReport:
        if request.source == "a":
            raise LookupError("Zorla Brindlequay")
        return report(clock, request.source)

    refused = {"c": ConfigError(["no token"])}
    first, second, third = run_all(REQUESTS, run, at_once=2, scope=scope, refused=refused)
    assert first.error is not None
    assert (first.error.message, first.exit_status) == ("unexpected: LookupError", 1)
    assert second.report is not None
    assert (third.error, third.exit_status) == (refused["c"], 2)


def test_no_more_sources_are_at_work_than_are_allowed(clock: ManualClock, scope: CancelScope) -> None:
    at_work, most = [0], [0]
    lock, two = threading.Lock(), threading.Barrier(2, timeout=20)

    def run(request: RunRequest) -> RunReport:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        two.wait()
        time.sleep(0.1)  # so that one too many would be met
        with lock:
            at_work[0] -= 1
        return report(clock, request.source)

    run_all([*REQUESTS, RunRequest("d", RunKind.FULL)], run, at_once=2, scope=scope, refused={})
    assert most == [2]


def test_no_thread_is_left_once_all_runs_have_ended(clock: ManualClock, scope: CancelScope) -> None:
    threads: list[threading.Thread] = []

    def run(request: RunRequest) -> RunReport:
        threads.append(threading.current_thread())
        return report(clock, request.source)

    run_all(REQUESTS, run, at_once=2, scope=scope, refused={})
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_wish_to_end_is_passed_on_once_the_runs_have_ended() -> None:
    scope, ended = CancelScope(SystemClock()), threading.Event()

    def run(_order: RunRequest) -> NoReturn:
        scope.cancel(15)
        try:
            scope.sleep(20)
        finally:
            time.sleep(0.3)  # what a run needs to end in good order
            ended.set()
        raise AssertionError

    with pytest.raises(Stopped):
        run_all(REQUESTS[:1], run, at_once=1, scope=scope, refused={})
    assert ended.is_set()


def test_a_run_that_waits_for_its_place_is_not_begun_once_the_process_is_to_end() -> None:
    scope, begun = CancelScope(SystemClock()), list[str]()

    def run(request: RunRequest) -> NoReturn:
        begun.append(request.source)
        scope.cancel(15)
        scope.sleep(20)
        raise AssertionError

    with pytest.raises(Stopped):
        run_all(REQUESTS, run, at_once=1, scope=scope, refused={})
    assert begun == ["a"]


def test_a_run_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SHUTDOWN_S", 0.05)
    scope, go = CancelScope(SystemClock()), threading.Event()

    def run(_: RunRequest) -> NoReturn:
        scope.cancel(15)
        go.wait(20)
        raise AssertionError

    started = time.monotonic()
    with pytest.raises(Stopped):
        run_all(REQUESTS, run, at_once=1, scope=scope, refused={})
    assert time.monotonic() - started < 2
    go.set()
