"""Format numbers and times for people, and remove control characters. JSON output does not use this module."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rostersync.clock import to_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

HARMFUL = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff"
"""Characters that control a terminal, end a line or change the direction of the surrounding text. Lone surrogates are
included, because no encoding can write them. Zero-width joiners are not included, because some scripts need them to
form characters.
"""

_BREAK = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_IN_TEXT = re.compile(f"[{HARMFUL}]")


def clean(text: str) -> str:
    """Return `text` as one line.

    Consecutive line breaks and tabs become one space. Every other harmful character becomes U+FFFD.
    """
    return _IN_TEXT.sub("�", _BREAK.sub(" ", text))


def moment(when: datetime | None) -> str:
    """Return a time in UTC such as `2026-03-01 08:00:00Z`, or "never" for None."""
    return to_text(when)[:19].replace("T", " ") + "Z" if when else "never"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 request` or `1,200 students`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {_plural(noun)}"


def _plural(noun: str) -> str:
    return noun[:-1] + "ies" if noun.endswith("y") else f"{noun}s"


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first `most` names and the number of the others, such as `a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def ago(seconds: float) -> str:
    """Return how long ago something happened, such as `just now` or `8 s ago`."""
    return f"{span(int(seconds))} ago" if seconds >= 1 else "just now"


def span(seconds: float) -> str:
    """Return a duration in its two largest units, such as `3 h 20 min`. A float below 10 s has two decimal places."""
    if seconds < 60:  # noqa: PLR2004 - a minute has 60 seconds
        in_full = isinstance(seconds, int) or seconds >= 10  # noqa: PLR2004 - from 10 s upwards, fractions do not matter
        return f"{seconds:.0f} s" if in_full else f"{seconds:.2f} s"
    minutes = int(seconds) // 60
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])
