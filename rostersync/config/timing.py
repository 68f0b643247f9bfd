"""Durations as people write them, and cron lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

_DURATION = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,7})m)?(?:(\d{1,9})s)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Return days, hours, minutes and seconds, in this order: `7d`, `1h30m`, `90s`. `ValueError` for anything else."""
    match = _DURATION.fullmatch(text)
    if not match or not text:
        raise ValueError("not a duration")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def spell_duration(duration: timedelta) -> str:
    """Return the shortest string that `parse_duration` reads as `duration` (whole seconds, not negative)."""
    seconds = int(duration.total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, duration.days
    parts = ((days, "d"), (hours % 24, "h"), (minutes % 60, "m"), (seconds % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONGEST_MONTHS = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the five fields: APScheduler's name for it, its bounds, and the names of its numbers."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_PARTS = (
    _Part("minute", 0, 59),
    _Part("hour", 0, 23),
    _Part("day", 1, 31),
    _Part("month", 1, 12, _MONTHS),
    _Part("day_of_week", 0, 7, _WEEKDAYS),  # both 0 and 7 are Sunday
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A five-field cron line, with the meaning that cron(8) gives it: 0 and 7 are Sunday."""

    line: str

    def __post_init__(self) -> None:
        """Raise `ValueError` for a line that is not valid, or that never comes due."""
        numbers = {part.name: self._numbers(part.name) for part in _PARTS}
        if all(min(numbers["day"]) > _LONGEST_MONTHS[month] for month in numbers["month"]):
            raise ValueError("this day never comes")
        if "*" not in (self._field("day"), self._field("day_of_week")):
            raise ValueError("name days of the month or days of the week, not both")

    def fields(self) -> dict[str, str]:
        """Return keyword arguments for APScheduler's `CronTrigger`, which numbers weekdays differently."""
        return {part.name: self._spelled(part) for part in _PARTS}

    def per_day(self) -> int:
        """Return how often the line comes due on a day on which it does at all."""
        return len(self._numbers("minute")) * len(self._numbers("hour"))

    def _spelled(self, part: _Part) -> str:
        if self._field(part.name) == "*":
            return "*"
        numbers = self._numbers(part.name)
        if part.name == "day_of_week":
            return ",".join(dict.fromkeys(_WEEKDAYS[number % 7] for number in numbers))
        return ",".join(map(str, numbers))

    def _field(self, name: str) -> str:
        fields = self.line.lower().split()
        if len(fields) != len(_PARTS):
            raise ValueError("not five fields")
        return fields[[part.name for part in _PARTS].index(name)]

    def _numbers(self, name: str) -> list[int]:
        part = next(part for part in _PARTS if part.name == name)
        numbers = {number for item in self._field(name).split(",") for number in _range(item, part)}
        return sorted(numbers)


_ITEM = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d{1,2}))?", re.ASCII)


def _range(item: str, part: _Part) -> range:
    """Return the numbers of `*`, `5`, `1-5`, `mon-fri`, `*/15`, `10-40/10` or `10/15`."""
    match = _ITEM.fullmatch(item)
    if not match or match["step"] in {"0", "00"}:
        raise ValueError("not a cron field")
    step = int(match["step"] or 1)
    if match["all"]:
        return range(part.low, part.high + 1, step)
    first = _number(match["first"], part)
    open_ended = match["step"] and not match["last"]
    last = part.high if open_ended else _number(match["last"] or match["first"], part)
    if last < first:
        raise ValueError("a range that runs backward")
    return range(first, last + 1, step)


def _number(text: str, part: _Part) -> int:
    if text in part.names:
        return part.names.index(text) + part.low
    number = int(text) if text.isdigit() else -1
    if not part.low <= number <= part.high:
        raise ValueError("out of bounds")
    return number
