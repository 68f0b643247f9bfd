"""Provide the time.

All other modules get the time from here. A `datetime` is always aware and in UTC. `cancel` says when work must end.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from threading import Event


class Clock(Protocol):
    """The interface of the clock. Tests have their own implementation."""

    def now(self) -> datetime:
        """Return the current time in UTC. It may jump in either direction when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Return a number of seconds that never decreases, for durations and deadlines."""
        ...

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until `event` is set, for at most `seconds`. Return whether it is set."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: Event, seconds: float) -> bool:
        return event.wait(seconds)


def to_milliseconds(moment: datetime) -> datetime:
    """Return `moment` in UTC, truncated to milliseconds. Every stored time has this precision."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_text(moment: datetime) -> str:
    """Return a time as `YYYY-MM-DDTHH:MM:SS.mmmZ`, the format in requests, in SQLite and in JSON."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Return the time that an ISO 8601 string with an offset (`Z` or numeric) means, in UTC and in milliseconds.

    Raises `ValueError` for any other string: for example, a time without an offset, a date, or the name of a zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    try:
        return to_milliseconds(moment)
    except OverflowError as error:  # in UTC, the time is outside the years 1 to 9999
        raise ValueError("out of range") from error


def to_epoch_ms(moment: datetime) -> int:
    """Return the milliseconds from 1970 to `moment`, rounded down. Comparing these numbers is cheap."""
    return (moment - EPOCH) // _MILLISECOND


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def floor_seconds(moment: datetime) -> datetime:
    """Return `moment` rounded down to a whole second."""
    return moment.replace(microsecond=0)
