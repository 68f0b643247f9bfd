"""Read cron lines with five fields, as cron(8) does. If a line is invalid, the error explains the mistake."""

from __future__ import annotations

import re

import msgspec

from rostersync.address import Wrong, may_be_a_token

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONGEST_MONTHS = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))


class _Part(msgspec.Struct, frozen=True):
    """One of the five fields of a cron line.

    `name` is APScheduler's name for the field, and `title` is the name in our error messages. `names` are words that a
    user may write in place of numbers, such as "mon".
    """

    name: str
    title: str
    low: int
    high: int
    examples: str
    names: tuple[str, ...] = ()

    def wrong(self, item: str, why: str = "", better: str = "") -> Wrong:
        """Return the error for an invalid item of this field.

        `why` adds a reason to the message. `better` describes what to write instead. Without `better`, the message
        gives the field's bounds and examples.
        """
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        expected = f"{self.low} to {self.high}{names}, such as {self.examples}"
        return Wrong(f"{_shown(item)} as the {self.title}{why and f', {why}'}", better or expected)


_PARTS = (
    _Part("minute", "minute", 0, 59, '"30", "0,30", "10-40" or "*/15"'),
    _Part("hour", "hour", 0, 23, '"2", "8,20", "8-17" or "*/6"'),
    _Part("day", "day of the month", 1, 31, '"1", "1,15" or "1-7"'),
    _Part("month", "month", 1, 12, '"9", "jan,jul" or "jan-jun"', _MONTHS),
    _Part("day_of_week", "day of the week", 0, 7, '"sun", "sat,sun" or "mon-fri"', _WEEKDAYS),  # 0 and 7 are Sunday
)
_FIVE = f"five fields ({', '.join(part.title for part in _PARTS)}), such as"
_OR_INTERVAL = f'{_FIVE} "0 2 * * *", or an interval such as "1h30m"'

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def is_meant_as_cron(text: str) -> bool:
    """Return whether a string looks like a cron line rather than an interval. The cron line need not be valid."""
    return len(text.split()) > 1 or text.startswith("@")


class Cron(msgspec.Struct, frozen=True):
    """A valid cron line of five fields. As in cron(8), both 0 and 7 mean Sunday.

    A line is refused if it restricts both the day of the month and the day of the week, because cron(8) would run it on
    every day that matches one of the two.
    """

    line: str

    def __post_init__(self) -> None:
        """Raise `Wrong` if the line is invalid, or if its date does not exist, such as February 30."""
        self._require_five_fields()
        numbers = {part.name: self._numbers(part.name) for part in _PARTS}
        day, weekday = self._field("day"), self._field("day_of_week")
        if all(min(numbers["day"]) > _LONGEST_MONTHS[month] for month in numbers["month"]):
            raise Wrong(
                f"day {_shown(day)} of month {_shown(self._field('month'))}, which never comes",
                "a day that the month has",
            )
        if "*" not in (day, weekday):
            found = f"both a day of the month ({_shown(day)}) and a day of the week ({_shown(weekday)})"
            raise Wrong(found, '"*" as one of them')

    def fields(self) -> dict[str, str]:
        """Return arguments for APScheduler's `CronTrigger`.

        Weekdays are names, because APScheduler numbers them differently.
        """
        return {part.name: self._spelled(part) for part in _PARTS}

    def per_day(self) -> int:
        """Return how many times the line is due on each day that matches it."""
        return len(self._numbers("minute")) * len(self._numbers("hour"))

    def _require_five_fields(self) -> None:
        fields = self.line.lower().split()
        if fields and fields[0].startswith("@"):
            meant = _NICKNAMES.get(fields[0])
            raise Wrong(_shown(fields[0]), f'{_FIVE} "{meant}"' if meant else _OR_INTERVAL)
        if len(fields) == len(_PARTS) + 1:
            raise Wrong("six fields (the first one would be the seconds)", f'{_FIVE} "{" ".join(fields[1:])}"')
        if len(fields) != len(_PARTS):
            raise Wrong("one field" if len(fields) == 1 else f"{len(fields)} fields", _OR_INTERVAL)

    def _spelled(self, part: _Part) -> str:
        if self._field(part.name) == "*":
            return "*"
        numbers = self._numbers(part.name)
        if part.name == "day_of_week":
            return ",".join(dict.fromkeys(_WEEKDAYS[number % 7] for number in numbers))
        return ",".join(map(str, numbers))

    def _field(self, name: str) -> str:
        return self.line.lower().split()[[part.name for part in _PARTS].index(name)]

    def _numbers(self, name: str) -> list[int]:
        part = next(part for part in _PARTS if part.name == name)
        numbers = {number for item in self._field(name).split(",") for number in _range(item, part)}
        return sorted(numbers)


_ITEM = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d{1,4}))?", re.ASCII)


def _range(item: str, part: _Part) -> range:
    """Return the numbers in an item such as `*`, `5`, `1-5`, `mon-fri`, `*/15`, `10-40/10` or `10/15`."""
    match = _ITEM.fullmatch(item)
    if not match:
        raise _unreadable(item, part)
    step = int(match["step"] or 1)
    if not 1 <= step <= part.high:
        raise part.wrong(item, f"a step of {step}", f'a step from 1 to {part.high}, such as "*/2"')
    if match["all"]:
        return range(part.low, part.high + 1, step)
    first = _number(match["first"], part)
    open_ended = match["step"] and not match["last"]
    last = part.high if open_ended else _number(match["last"] or match["first"], part)
    if last < first:
        two = f"{_span(first, part.high)},{_span(part.low, last)}"
        raise part.wrong(item, "a range that runs backward", f'two ranges: "{two}"')
    return range(first, last + 1, step)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _number(text: str, part: _Part) -> int:
    if text in part.names:
        return part.names.index(text) + part.low
    if not text.isdigit():
        raise _unreadable(text, part)
    if not part.low <= int(text) <= part.high:
        raise part.wrong(text)
    return int(text)


def _unreadable(item: str, part: _Part) -> Wrong:
    """Return the error for an item that is neither a number nor a range. The message may guess what the user meant."""
    if item == "?":
        return part.wrong(item, "which is not supported", '"*"')
    homes = [other for other in _PARTS if other is not part and item[:3] in other.names]
    if homes:
        return part.wrong(item, f"which is a {homes[0].title}")
    if re.fullmatch(r"l|l-\d+|lw|\d+w|\w+l|\w+#\d+", item):
        return part.wrong(item, "but L, W and # are not supported")
    return part.wrong(item)


def _shown(text: str) -> str:
    """Quote a part of the cron line for an error message. If `text` may be a token, only its type is named."""
    if not text:
        return "nothing"
    return "a string" if may_be_a_token(text.lstrip("@")) else repr(text[:20])
