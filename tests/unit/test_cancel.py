"""When work must end: cancellation, grace and deadlines; and how a scope shows that its work is alive."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import OutOfTime, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock


def signal_of(call: Callable[[], object]) -> int:
    """Return the signal of the `Stopped` that a call raises."""
    with pytest.raises(Stopped) as caught:
        call()
    return caught.value.signal


# Cancelling ------------------------------------------------------------------------------------------------------


def test_a_cancellation_reaches_children_and_grandchildren(scope: CancelScope) -> None:
    child = scope.child()
    grandchild = child.child()
    scope.cancel(15)
    assert [signal_of(one.check) for one in (scope, child, grandchild)] == [15, 15, 15]
    assert signal_of(lambda: grandchild.sleep(1)) == 15


def test_a_child_can_be_cancelled_alone(scope: CancelScope) -> None:
    child, sibling = scope.child(), scope.child()
    child.cancel()
    assert signal_of(child.check) == 0
    scope.check()
    sibling.check()


def test_a_child_that_is_made_after_the_cancellation_is_cancelled(scope: CancelScope) -> None:
    scope.cancel(2)
    assert signal_of(scope.child().child().check) == 2


def test_the_first_cancellation_counts(scope: CancelScope, clock: ManualClock) -> None:
    scope.cancel(2)
    clock.advance(1)
    scope.cancel(15)
    assert signal_of(scope.check) == 2


def test_a_scope_keeps_no_child_that_nobody_uses(scope: CancelScope) -> None:
    for _ in range(100):
        scope.child().child()
    assert len(scope._children) == 0


# Grace -----------------------------------------------------------------------------------------------------------


def test_a_child_with_grace_ends_some_seconds_after_its_parent(scope: CancelScope, clock: ManualClock) -> None:
    child = scope.child(grace=3)
    work = child.child()
    scope.cancel(15)
    assert signal_of(scope.check) == 15
    child.sleep(2)
    work.check()
    assert clock.slept == [2]
    assert signal_of(lambda: work.sleep(30)) == 15
    assert signal_of(child.check) == 15
    assert clock.monotonic() == 3


def test_a_child_that_is_made_after_the_cancellation_has_the_grace_too(scope: CancelScope, clock: ManualClock) -> None:
    scope.cancel(15)
    clock.advance(1)
    child = scope.child(grace=3)
    child.sleep(1)
    assert signal_of(lambda: child.sleep(30)) == 15
    assert clock.monotonic() == 3


def test_work_that_is_cancelled_alone_has_no_grace(scope: CancelScope) -> None:
    child = scope.child(grace=3)
    work = child.child()
    scope.cancel(15)
    work.cancel()
    assert signal_of(work.check) == 0
    child.cancel()
    assert signal_of(child.check) == 0


# Deadlines -------------------------------------------------------------------------------------------------------


def test_a_deadline_ends_the_scope_and_its_children_but_not_its_parent(scope: CancelScope, clock: ManualClock) -> None:
    child = scope.child(seconds=10)
    grandchild = child.child(seconds=20)
    assert (scope.remaining(), child.remaining(), grandchild.remaining()) == (float("inf"), 10, 10)
    child.sleep(9)
    assert grandchild.remaining() == 1
    clock.advance(1)
    for call in (child.check, child.remaining, grandchild.check, lambda: child.sleep(0)):
        with pytest.raises(OutOfTime, match="within the run's 10 s"):
            call()
    scope.check()


def test_a_child_may_have_an_earlier_deadline(scope: CancelScope, clock: ManualClock) -> None:
    child = scope.child(seconds=10)
    grandchild = child.child(seconds=5)
    clock.advance(5)
    with pytest.raises(OutOfTime, match="within the run's 5 s"):
        grandchild.check()
    child.check()


def test_a_wait_beyond_the_deadline_is_not_begun(scope: CancelScope, clock: ManualClock) -> None:
    with pytest.raises(OutOfTime):
        scope.child(seconds=10).sleep(10)
    assert clock.slept == []


# Waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [0.0, 0.2])
def test_a_wait_ends_as_soon_as_the_scope_does(grace: float) -> None:
    scope = CancelScope(SystemClock())
    work = scope.child(grace=grace).child()
    started = time.monotonic()
    threading.Timer(0.1, scope.cancel, [15]).start()
    assert signal_of(lambda: work.sleep(20)) == 15
    assert 0.1 + grace <= time.monotonic() - started < 1 + grace


def test_a_wait_within_the_grace_ends_as_soon_as_its_own_scope_is_cancelled() -> None:
    scope = CancelScope(SystemClock())
    work = scope.child(grace=20).child()
    started = time.monotonic()
    threading.Timer(0.1, scope.cancel, [15]).start()
    threading.Timer(0.2, work.cancel).start()
    assert signal_of(lambda: work.sleep(20)) == 0
    assert 0.2 <= time.monotonic() - started < 1.2


def test_a_wait_needs_no_processor() -> None:
    scope = CancelScope(SystemClock())
    work = scope.child(grace=20)
    threading.Timer(0.1, scope.cancel, [15]).start()
    used = time.process_time()
    work.sleep(0.5)
    assert time.process_time() - used < 0.1


# Signs of life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [CancelScope.check, lambda scope: scope.sleep(0), lambda scope: scope.child().check()])
def test_a_check_and_a_wait_are_signs_of_life(
    scope: CancelScope, clock: ManualClock, sign: Callable[[CancelScope], None]
) -> None:
    run, other = scope.child(), scope.child()
    clock.advance(700)
    sign(run)
    clock.advance(5)
    assert (scope.silent_for(), run.silent_for(), other.silent_for()) == (5, 5, 705)


def test_a_new_scope_counts_from_its_beginning_and_looking_is_no_sign_of_life(
    scope: CancelScope, clock: ManualClock
) -> None:
    clock.advance(700)
    run = scope.child(seconds=1000)
    clock.advance(5)
    run.remaining()
    run.silent_for()
    assert run.silent_for() == 5


def test_a_scope_that_was_cancelled_still_shows_that_its_work_lives(scope: CancelScope, clock: ManualClock) -> None:
    scope.cancel()
    clock.advance(5)
    signal_of(scope.check)
    assert scope.silent_for() == 0
