"""Processes that die in the middle of a run, acted out within the tests' own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine


class Crash(BaseException):
    """The process is gone: nothing of it runs any more."""


class CrashInjector:
    """Kills a process at its n-th step: a statement, or a commit. Afterwards no step of it can be taken.

    Steps are counted from 1; a fuse of 0 only counts.
    """

    def __init__(self, engine: Engine, blow_at: int = 0, look: Callable[[], None] | None = None) -> None:
        """Count the steps of `engine`, and those that are told by `step`; `look` is called at each."""
        self.steps = 0
        self.blow_at = blow_at
        self._engine = engine
        self._look = look
        self._looking = False
        event.listen(engine, "before_cursor_execute", self.step)
        event.listen(engine, "commit", self.step)

    def remove(self) -> None:
        event.remove(self._engine, "before_cursor_execute", self.step)
        event.remove(self._engine, "commit", self.step)

    def step(self, *_: Any) -> None:
        if self._looking:  # a look's own statements are no steps
            return
        self.steps += 1
        if self.blow_at and self.steps >= self.blow_at:
            raise Crash
        if self._look is not None:
            self._looking = True
            try:
                self._look()
            finally:
                self._looking = False
