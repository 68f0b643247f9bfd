"""Provide the current time, and convert times.

All other modules get the time from this module, so that tests can replace the clock. The program represents each time
as a `datetime` that is aware and in UTC.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from threading import Event


class Clock(Protocol):
    """The interface of a clock. Tests use their own implementation."""

    def now(self) -> datetime:
        """Return the current time in UTC. The time may jump in either direction when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Return the reading, in seconds, of a clock that never goes backwards. Use it for durations and deadlines."""
        ...

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until `event` is set, but at most `seconds` seconds. Return whether the event is set."""
        ...


class SystemClock:
    """The clock of the machine, for normal use outside of tests."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: Event, seconds: float) -> bool:
        return event.wait(seconds)


def to_milliseconds(moment: datetime) -> datetime:
    """Return `moment` in UTC, truncated to milliseconds. All times in the database have this precision."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_text(moment: datetime) -> str:
    """Return a time as `YYYY-MM-DDTHH:MM:SS.mmmZ`. This format is used in requests, in SQLite and in JSON output."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Return the time in an ISO 8601 string that has an offset from UTC (`Z` or a number).

    The result is in UTC, and truncated to milliseconds. Raises `ValueError` for any other string, for example for a
    date, or for a time that has no offset or only the name of a time zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    try:
        return to_milliseconds(moment)
    except OverflowError as error:  # in UTC, the time is outside the years 1 to 9999
        raise ValueError("out of range") from error


def to_epoch_ms(moment: datetime) -> int:
    """Return the number of milliseconds from the start of 1970 to `moment`, rounded down.

    These numbers can be compared faster than `datetime` objects.
    """
    return (moment - EPOCH) // _MILLISECOND


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def floor_seconds(moment: datetime) -> datetime:
    """Return `moment` rounded down to a whole second."""
    return moment.replace(microsecond=0)
