"""Read and write durations in a short notation, such as 1h30m."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,7})m)?(?:(\d{1,9})s)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Return the duration for a string such as `7d`, `1h30m` or `90s`. The units must be in the order d, h, m, s.

    Raises `ValueError` if `text` is not a valid duration.
    """
    match = _DURATION.fullmatch(text)
    if not match or not text:
        raise ValueError("not a duration")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def spell_duration(duration: timedelta) -> str:
    """Return the shortest string that `parse_duration` converts to `duration`, which must not be negative.

    Fractions of a second are dropped.
    """
    seconds = int(duration.total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, duration.days
    parts = ((days, "d"), (hours % 24, "h"), (minutes % 60, "m"), (seconds % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
