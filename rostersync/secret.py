"""A value that is used and never shown."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """A text that no log line, repr, traceback, pickle or copy gives away; only `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself: at the one place that sends it."""
        return self._value

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
