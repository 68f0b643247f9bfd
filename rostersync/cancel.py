"""Define `CancelScope`, which decides when work must end and records when the work was last active.

The command line creates one scope for the whole process, and cancels this scope when the process receives a signal to
stop. Every function that waits or may take a long time has a scope as a parameter. If a part of the work has an earlier
deadline, or may end a little later than the rest, this part gets a child of the scope.
"""

# ruff: noqa: SLF001 - a scope uses private attributes of its parent and children, which are scopes too

from __future__ import annotations

import math
import threading
import weakref
from typing import TYPE_CHECKING

from rostersync.errors import OutOfTime, Stopped

if TYPE_CHECKING:
    from rostersync.clock import Clock


class CancelScope:
    """Decides when work must end, which is when the scope is cancelled or when its deadline has passed.

    Several threads may use a scope at once.
    """

    def __init__(self, clock: Clock) -> None:
        """Create a scope that has no parent and no deadline.

        The scope and its children use `clock` to measure time and to wait.
        """
        self.clock = clock
        self._parent: CancelScope | None = None
        self._children: set[weakref.ref[CancelScope]] = set()  # a WeakSet could change while it is read
        self._lock = threading.Lock()
        self._grace = 0.0
        self._ends_at = math.inf  # by clock.monotonic(), or inf if the scope has not been cancelled
        self._signal = 0
        self._changed = threading.Event()  # when `_ends_at` changes, we set this event and replace it
        self._seconds = self._deadline = math.inf
        self._alive_at = clock.monotonic()

    def child(self, *, grace: float = 0.0, seconds: float = math.inf) -> CancelScope:
        """Return a new scope that ends when this scope ends. The new scope can also be cancelled separately.

        Args:
            grace: The child ends this many seconds after this scope ends, so that the child's work can be completed.
                Default: 0.
                Default: 0.
            seconds: The number of seconds from now to the child's deadline. If the deadline of this scope is earlier,
                the earlier deadline applies. Default: the child has only the deadline of this scope.
                Default: no other deadline.

        """
        child = CancelScope(self.clock)
        child._parent, child._grace = self, grace
        child._seconds, child._deadline = seconds, self.clock.monotonic() + seconds
        if self._deadline <= child._deadline:
            child._seconds, child._deadline = self._seconds, self._deadline
        with self._lock:  # without the lock, a cancellation in another thread might miss the new child
            child._ends_at, child._signal = self._ends_at + grace, self._signal
            self._children.add(weakref.ref(child, self._children.discard))
        return child

    def cancel(self, signal: int = 0) -> None:
        """Make `check` and `sleep` raise `Stopped(signal)`, in this scope and in all of its descendants.

        Calls of `sleep` that are already waiting raise `Stopped` as well. If a child has a `grace` period, the child
        ends only after this period. Do not call this method from a signal handler, because the method acquires a lock.
        """
        self._end(self.clock.monotonic(), signal)

    def _end(self, at: float, signal: int) -> None:
        with self._lock:
            if at >= self._ends_at:
                return
            self._ends_at, self._signal = at, signal
            changed, self._changed = self._changed, threading.Event()
            children = [child for each in self._children.copy() if (child := each())]
        changed.set()
        for child in children:
            child._end(at + child._grace, signal)

    def check(self) -> None:
        """Record that the work is still active, and raise an error if the work must end.

        Raises `Stopped` if the scope has ended, and `OutOfTime` if the deadline of the scope has passed.
        """
        now = self.clock.monotonic()
        self._note_life(now)
        if now >= self._ends_at:
            raise Stopped(self._signal)
        if now >= self._deadline:
            raise self._out_of_time()

    def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds.

        Raises `Stopped` as soon as the scope ends. If the deadline would pass during the wait, this raises `OutOfTime`
        immediately, without waiting.
        """
        self.check()
        until = self.clock.monotonic() + seconds
        if until >= self._deadline:
            raise self._out_of_time()
        changed = self._changed  # read this before `_ends_at`, because a change in between would be missed otherwise
        while self.clock.wait(changed, min(until, self._ends_at) - self.clock.monotonic()):
            changed = self._changed
        self.check()

    def remaining(self) -> float:
        """Return the number of seconds until the deadline, or inf if the scope has no deadline.

        Raises `OutOfTime` if the deadline has passed.
        """
        left = self._deadline - self.clock.monotonic()
        if left <= 0:
            raise self._out_of_time()
        return left

    def silent_for(self) -> float:
        """Return the number of seconds since `check` or `sleep` was last called in this scope or in a descendant."""
        return self.clock.monotonic() - self._alive_at

    def _note_life(self, now: float) -> None:
        scope: CancelScope | None = self
        while scope is not None:
            scope._alive_at = now
            scope = scope._parent

    def _out_of_time(self) -> OutOfTime:
        return OutOfTime(
            f"the API did not answer all requests within the run's {self._seconds:g} s",
            "try again later, or raise sync.run_deadline",
        )
