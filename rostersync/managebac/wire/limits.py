"""Limit how fast we send requests to a host, and read from a 429 how long to wait.

The vendor counts requests by IP address, over all endpoints. So there is one limiter for each host, and all sources of
the process share it.
"""

from __future__ import annotations

import math
import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from rostersync.pool import STOP_CHECK_S, DaemonExecutor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rostersync.cancel import CancelScope
    from rostersync.clock import Clock
    from rostersync.managebac.wire.http import Reply

LONGEST_WAIT = 300.0  # seconds; if a 429 asks us to wait longer, we try again after this time

_SHARE = 0.8  # of the rate that a 429 names, because other programs at the school's IP address may send requests too
_PACED_FOR = 3600.0  # seconds after a 429
_SMALLEST_EPOCH = 10**8  # a smaller number means seconds from now, because as an epoch it would be in 1973 or earlier
_SMALLEST_EPOCH_MS = 10**11  # from this number on, an epoch is in milliseconds


def server_time(reply: Reply) -> datetime | None:
    """Return the reply's `Date` in UTC, or None if it is missing or unreadable."""
    try:
        return _in_utc(parsedate_to_datetime(reply.header("Date") or ""))
    except (ValueError, OverflowError):
        return None


def advised_wait(reply: Reply) -> float | None:
    """Return how many seconds a 429 asks us to wait: the longer of Retry-After and X-RateLimit-Reset, at most 300.

    A time in these headers is compared with the response's own `Date`, because our clock may differ. Returns None if
    neither header can be read, or if the time has passed.
    """
    now = server_time(reply) or reply.sent_at + timedelta(seconds=reply.duration)
    advice = (_seconds_until(reply.header(name), now) for name in ("Retry-After", "X-RateLimit-Reset"))
    longest = max((seconds for seconds in advice if seconds is not None), default=0.0)
    return min(longest, LONGEST_WAIT) if longest > 0 else None


def _seconds_until(text: str | None, now: datetime) -> float | None:
    """Return the seconds from `now` to the time in a header, or None if the header cannot be read.

    The header may be a number of seconds, an epoch in seconds or milliseconds, an HTTP date, or ISO 8601, which is UTC
    if it has no offset. ManageBac probably sends `2026-03-01 07:30:15 UTC`.
    """
    text = (text or "").strip()
    try:
        number = float(text)
    except ValueError:
        moment = _moment(text)
        return None if moment is None else (moment - now).total_seconds()
    if math.isnan(number):
        return None
    if number < _SMALLEST_EPOCH:
        return number
    return number / (1000 if number >= _SMALLEST_EPOCH_MS else 1) - now.timestamp()


def _moment(text: str) -> datetime | None:
    for read in (_from_iso, parsedate_to_datetime):
        try:
            return _in_utc(read(text))
        except (ValueError, OverflowError):
            continue
    return None


def _from_iso(text: str) -> datetime:
    """Return a time from ISO 8601, or from one of the two formats in which Ruby prints it: `... UTC`, `... +0000`."""
    return datetime.fromisoformat(re.sub(r" (?=[+-]\d{4}$)", "", text.removesuffix(" UTC")))


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class HostLimiter:
    """The limits for one host, which clients and threads share: requests in flight, and requests per second.

    There are at most `concurrency` requests in flight. The rate is not limited until the first 429 that names one.
    Then, for an hour, requests are spread evenly over time at 80 % of that rate.
    """

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self.pages = DaemonExecutor("page", concurrency)
        """The threads that fetch pages for all clients. More than `concurrency` of them would only wait."""
        self.exchanges = DaemonExecutor("exchange")
        """The threads of single exchanges. Their number is not limited, because an exchange may hang."""
        self._clock = clock
        self._free = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._next = float("-inf")  # when the next request may start, by clock.monotonic()
        self._interval = 0.0
        self._paced_until = float("-inf")

    def close(self) -> None:
        """Let the threads end after their last job."""
        self.pages.shutdown(wait=False)
        self.exchanges.shutdown(wait=False)

    @contextmanager
    def slot(self, scope: CancelScope) -> Iterator[None]:
        """Wait until a request may start, and count it as in flight inside the `with` block.

        Raises `Stopped`, or `OutOfTime` if the wait would exceed the scope's deadline.
        """
        while not self._free.acquire(timeout=STOP_CHECK_S):
            scope.check()
        try:
            while (seconds := self._turn()) > 0:
                scope.sleep(seconds)
            yield
        finally:
            self._free.release()

    def slow_down(self, limit: str | None, period: str | None) -> None:
        """For an hour, limit the rate to 80 % of `limit` requests in `period` seconds.

        These are the headers of a 429. This does nothing if one of them is missing or is not a positive number.
        """
        rate = _positive(limit) / _positive(period) if _positive(limit) and _positive(period) else 0.0
        if rate > 0:
            with self._lock:
                self._interval = min(1 / (_SHARE * rate), LONGEST_WAIT)
                self._paced_until = self._clock.monotonic() + _PACED_FOR

    def pause(self, seconds: float) -> None:
        """Let no request start in the next `seconds`."""
        with self._lock:
            self._next = max(self._next, self._clock.monotonic() + seconds)

    def _turn(self) -> float:
        """Return 0 and count the request if it may start now. Otherwise return the seconds to wait before retrying."""
        with self._lock:
            now = self._clock.monotonic()
            if now < self._next:
                return self._next - now
            if now < self._paced_until:
                self._next = now + self._interval
            return 0.0


class HostLimiters:
    """The limiters of a process, with one for each host."""

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self._concurrency, self._clock = concurrency, clock
        self._limiters: dict[str, HostLimiter] = {}
        self._lock = threading.Lock()

    def keep(self, hosts: Collection[str], concurrency: int) -> None:
        """Keep the limiters of `hosts`, with the rates that they have learned, and drop the others.

        If `concurrency` differs from before, this drops all limiters. A host then gets a new one, which does not limit
        the rate before the next 429. Clients continue to use a limiter that was dropped. Its threads end when the last
        of these clients is gone.
        """
        with self._lock:
            if concurrency != self._concurrency:
                self._concurrency = concurrency
                self._limiters.clear()
            for host in self._limiters.keys() - {host.lower() for host in hosts}:
                del self._limiters[host]

    def of(self, host: str) -> HostLimiter:
        """Return the limiter of `host`. All callers get the same one."""
        host = host.lower()
        with self._lock:
            if host not in self._limiters:
                self._limiters[host] = HostLimiter(self._concurrency, self._clock)
            return self._limiters[host]


def _positive(text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        return 0.0
    return number if 0 < number < float("inf") else 0.0
