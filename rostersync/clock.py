"""The one door to time: UTC, aware, and stoppable."""

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
"""How long a `Reprieve` sleeps before it looks again whether the process was asked to end."""


class Clock(Protocol):
    """What the rest of the program knows of time. Tests drive one of their own."""

    def now(self) -> datetime:
        """Return the wall clock's time in UTC, aware; it may jump in either direction."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations and deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; raises `Stopped` as soon as the process was asked to end."""
        ...

    def check(self) -> None:
        """Raise `Stopped` when the process was asked to end."""
        ...


class SystemClock:
    """The machine's clocks, and the wish of whoever wants the process to end."""

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
        """End every sleep, now and later, with `Stopped(signal)`. Not for a signal handler: it takes a lock."""
        self._signal = signal
        self._stop.set()


class Reprieve:
    """A clock that goes on for some seconds after another clock was stopped, to let work in progress end."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        """Count the seconds from the moment at which this clock is first asked after the stop."""
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
    """A clock that remembers when the threads that are watched last asked it anything: whoever hangs does not."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[int, float] = {}

    @contextmanager
    def watched(self) -> Iterator[int]:
        """Watch the thread that calls this; lends its number for `silent_for`."""
        thread = threading.get_ident()
        self._asked[thread] = self._clock.monotonic()
        try:
            yield thread
        finally:
            del self._asked[thread]

    def silent_for(self, thread: int) -> float:
        """Return for how many seconds a thread has not asked; 0 for one that is not watched."""
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
    """Return `moment` in UTC, cut down to whole milliseconds: the grain of everything that is stored."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_text(moment: datetime) -> str:
    """Return `YYYY-MM-DDTHH:MM:SS.mmmZ`, the one spelling of a time: on the wire, in SQLite, in JSON."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Read an ISO 8601 time that names its offset (`Z` or numeric); UTC, whole milliseconds.

    Raises `ValueError` for anything else: a time without an offset, a date alone, a zone's abbreviation.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    try:
        return to_milliseconds(moment)
    except OverflowError as error:  # the offset leads out of the years 1 to 9999
        raise ValueError("out of range") from error


def to_epoch_ms(moment: datetime) -> int:
    """Return the whole milliseconds from 1970 to `moment`: the cheapest form of a time that can be compared."""
    return (moment - EPOCH) // _MILLISECOND


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def floor_seconds(moment: datetime) -> datetime:
    """Return `moment` without its fraction of a second."""
    return moment.replace(microsecond=0)
