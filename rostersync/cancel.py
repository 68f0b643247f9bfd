"""Define `CancelScope`, which says when work must end, and notes that the work is still alive.

The command line makes one scope for the process, and a signal cancels it. Code passes a scope to every function that
waits or takes long. A part of the work that may end earlier, or later, gets a child of the scope.
"""

# ruff: noqa: SLF001 - a scope reaches into its children, which are of the same class

from __future__ import annotations

import math
import threading
import weakref
from typing import TYPE_CHECKING

from rostersync.errors import OutOfTime, Stopped

if TYPE_CHECKING:
    from rostersync.clock import Clock


class CancelScope:
    """Says when work must end. That is when the scope was cancelled, or when its deadline has passed.

    Several threads may use a scope at once.
    """

    def __init__(self, clock: Clock) -> None:
        """Create a scope without a parent and without a deadline. It waits with `clock`, and so do its children."""
        self.clock = clock
        self._parent: CancelScope | None = None
        self._children: set[weakref.ref[CancelScope]] = set()  # a WeakSet could change while it is read
        self._lock = threading.Lock()
        self._grace = 0.0
        self._ends_at = math.inf  # by clock.monotonic(); inf until the scope is cancelled
        self._signal = 0
        self._changed = threading.Event()  # is set, and replaced by a new event, when `_ends_at` changes
        self._seconds = self._deadline = math.inf
        self._alive_at = clock.monotonic()

    def child(self, *, grace: float = 0.0, seconds: float = math.inf) -> CancelScope:
        """Return a scope that ends when this scope ends, and that may also be cancelled alone.

        Args:
            grace: If this scope ends, the child ends this many seconds later, so that its work can be completed.
                Default: 0.
            seconds: The seconds from now to the child's deadline. The deadline of this scope also applies to the child.
                Default: no other deadline.

        """
        child = CancelScope(self.clock)
        child._parent, child._grace = self, grace
        child._seconds, child._deadline = seconds, self.clock.monotonic() + seconds
        if self._deadline <= child._deadline:
            child._seconds, child._deadline = self._seconds, self._deadline
        with self._lock:  # a cancellation is either complete by now, or it finds the child
            child._ends_at, child._signal = self._ends_at + grace, self._signal
            self._children.add(weakref.ref(child, self._children.discard))
        return child

    def cancel(self, signal: int = 0) -> None:
        """Make each call of `check` and `sleep` raise `Stopped(signal)`, in this scope and in all scopes below it.

        This also ends the calls of `sleep` that have begun. Do not call it from a signal handler, because it takes a
        lock.
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
        """Note a sign of life. Raise `Stopped` if the scope has ended, or `OutOfTime` if its deadline has passed."""
        now = self.clock.monotonic()
        self._note_life(now)
        if now >= self._ends_at:
            raise Stopped(self._signal)
        if now >= self._deadline:
            raise self._out_of_time()

    def sleep(self, seconds: float) -> None:
        """Wait. Raises `Stopped` as soon as the scope ends, and at once `OutOfTime` if the deadline comes first."""
        self.check()
        until = self.clock.monotonic() + seconds
        if until >= self._deadline:
            raise self._out_of_time()
        changed = self._changed  # we must read this before `_ends_at`: then no change is missed
        while self.clock.wait(changed, min(until, self._ends_at) - self.clock.monotonic()):
            changed = self._changed
        self.check()

    def remaining(self) -> float:
        """Return the seconds until the deadline; inf if there is none. Raises `OutOfTime` if it has passed."""
        left = self._deadline - self.clock.monotonic()
        if left <= 0:
            raise self._out_of_time()
        return left

    def silent_for(self) -> float:
        """Return the seconds since the last call of `check` or `sleep`, in this scope or in a scope below it."""
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
