"""Store a secret so that no log, traceback or copy shows it by accident."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """A secret string. `str` and `repr` hide the string. A secret cannot be pickled or copied.

    Only `reveal` returns the string.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret. Call this method only where you use the secret, and do not store the result."""
        return self._value

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
