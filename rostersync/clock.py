"""Provide the time, sleeping, and the request to stop.

All other modules get the time from here. A `datetime` is always aware and in UTC. Once the process was asked to stop,
`sleep` and `check` raise `Stopped`. This ends work that takes long.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from rostersync.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator


_NAP_S = 0.1
"""Seconds that a `Reprieve` sleeps before it checks again whether its time is over."""


class Clock(Protocol):
    """The interface of all clocks. Tests have their own implementation."""

    def now(self) -> datetime:
        """Return the current time in UTC. It may jump in either direction when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Return a number of seconds that never decreases, for durations and deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`. Raises `Stopped` as soon as the process is asked to stop."""
        ...

    def check(self) -> None:
        """Raise `Stopped` if the process was asked to stop."""
        ...


class SystemClock:
    """The machine's clocks. `stop` asks the process to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._signal = 0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self._stop.wait(max(0.0, seconds))
        self.check()

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped(self._signal)

    def stop(self, signal: int = 0) -> None:
        """Make every call of `sleep` and `check`, current and later, raise `Stopped(signal)`.

        Do not call this from a signal handler, because it takes a lock.
        """
        self._signal = signal
        self._stop.set()


class Reprieve:
    """A clock that raises `Stopped` some seconds later than the clock that it wraps, so that work can be completed."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        """Wrap `clock`. The `seconds` start with the first call of `check` or `sleep` after `clock` was stopped."""
        self._clock = clock
        self._seconds = seconds
        self._end: float | None = None

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _NAP_S))
        self.check()

    def check(self) -> None:
        try:
            self._clock.check()
        except Stopped:
            if self._end is None:
                self._end = self.monotonic() + self._seconds
            if self.monotonic() >= self._end:
                raise


class WatchedClock:
    """A clock that notes when each watched thread last used it. A thread that has not used it for long may hang."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[int, float] = {}

    @contextmanager
    def watched(self) -> Iterator[int]:
        """Watch the calling thread inside the `with` block. Yields the thread's number, for `silent_for`."""
        thread = threading.get_ident()
        self._asked[thread] = self._clock.monotonic()
        try:
            yield thread
        finally:
            del self._asked[thread]

    def silent_for(self, thread: int) -> float:
        """Return the seconds since a watched thread last used this clock; 0 if the thread is not watched."""
        asked = self._asked.get(thread)
        return 0.0 if asked is None else self._clock.monotonic() - asked

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        now, thread = self._clock.monotonic(), threading.get_ident()
        if thread in self._asked:
            self._asked[thread] = now
        return now

    def sleep(self, seconds: float) -> None:
        self.monotonic()
        self._clock.sleep(seconds)

    def check(self) -> None:
        self.monotonic()
        self._clock.check()


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
