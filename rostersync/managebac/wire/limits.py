"""Limit the rate of requests to a host, and read from a 429 response how long to wait.

The vendor's rate limit applies to all requests from one IP address, and to all endpoints together. So each host has one
limiter, which all sources of the process share.
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

_SHARE = 0.8  # we use this part of the rate limit, because other programs at the IP address may send requests too
_PACED_FOR = 3600.0  # after a 429, the rate is limited for this number of seconds
_SMALLEST_EPOCH = 10**8  # a smaller number is a number of seconds to wait, because as an epoch it would be before 1974
_SMALLEST_EPOCH_MS = 10**11  # an epoch that is not smaller than this is in milliseconds


def server_time(reply: Reply) -> datetime | None:
    """Return the time in the reply's `Date` header, in UTC, or None if the header is missing or cannot be read."""
    try:
        return _in_utc(parsedate_to_datetime(reply.header("Date") or ""))
    except (ValueError, OverflowError):
        return None


def advised_wait(reply: Reply) -> float | None:
    """Return the number of seconds that a 429 response asks us to wait, at most `LONGEST_WAIT`.

    If Retry-After and X-RateLimit-Reset differ, the longer wait applies. If one of these headers contains a time, we
    compare it with the `Date` header of the same response, because our clock may differ from the server's. Returns None
    if neither header can be read, or if the time in them has passed.
    """
    now = server_time(reply) or reply.sent_at + timedelta(seconds=reply.duration)
    advice = (_seconds_until(reply.header(name), now) for name in ("Retry-After", "X-RateLimit-Reset"))
    longest = max((seconds for seconds in advice if seconds is not None), default=0.0)
    return min(longest, LONGEST_WAIT) if longest > 0 else None


def _seconds_until(text: str | None, now: datetime) -> float | None:
    """Return the seconds from `now` to the time in a header, or None if the header cannot be read.

    The header may contain a number of seconds, an epoch in seconds or milliseconds, an HTTP date, or a time in ISO
    8601. If the time has no offset, it is in UTC. ManageBac probably sends `2026-03-01 07:30:15 UTC`.
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
    """Return a time from text in ISO 8601, or in one of Ruby's two formats, which end in ` UTC` or ` +0000`."""
    return datetime.fromisoformat(re.sub(r" (?=[+-]\d{4}$)", "", text.removesuffix(" UTC")))


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class HostLimiter:
    """Limits the requests in flight and the requests per second for one host. Clients and threads share a limiter.

    At most `concurrency` requests are in flight at once. The rate is not limited until a 429 response contains a rate
    limit. Then, for an hour, requests are spread evenly over time at 80 % of that limit.
    """

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self.pages = DaemonExecutor("page", concurrency)
        """The executor that fetches pages for all clients. More than `concurrency` threads would only wait."""
        self.exchanges = DaemonExecutor("exchange")
        """The executor for single exchanges. The number of its threads is not limited, because an exchange may hang."""
        self._clock = clock
        self._free = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._next = float("-inf")  # the time when the next request may start, by clock.monotonic()
        self._interval = 0.0
        self._paced_until = float("-inf")

    def close(self) -> None:
        """Let the threads of both executors end after their last job."""
        self.pages.shutdown(wait=False)
        self.exchanges.shutdown(wait=False)

    @contextmanager
    def slot(self, scope: CancelScope) -> Iterator[None]:
        """Wait until a request may start, and count the request as in flight inside the `with` block.

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
        """Limit the rate to 80 % of `limit` requests in `period` seconds, for an hour.

        The two values come from the headers of a 429 response. If one of them is missing or is not a positive number,
        this method does nothing.
        """
        rate = _positive(limit) / _positive(period) if _positive(limit) and _positive(period) else 0.0
        if rate > 0:
            with self._lock:
                self._interval = min(1 / (_SHARE * rate), LONGEST_WAIT)
                self._paced_until = self._clock.monotonic() + _PACED_FOR

    def pause(self, seconds: float) -> None:
        """Do not let any request start during the next `seconds` seconds."""
        with self._lock:
            self._next = max(self._next, self._clock.monotonic() + seconds)

    def _turn(self) -> float:
        """Return 0 if the request may start now, and count it. Otherwise return the number of seconds to wait."""
        with self._lock:
            now = self._clock.monotonic()
            if now < self._next:
                return self._next - now
            if now < self._paced_until:
                self._next = now + self._interval
            return 0.0


class HostLimiters:
    """The limiters of the whole process. Each host has one limiter."""

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self._concurrency, self._clock = concurrency, clock
        self._limiters: dict[str, HostLimiter] = {}
        self._lock = threading.Lock()

    def keep(self, hosts: Collection[str], concurrency: int) -> None:
        """Keep the limiters of `hosts` with their current rate limits, and drop all other limiters.

        If `concurrency` has changed, this drops all limiters. Each host then gets a new limiter, which does not limit
        the rate until the next 429. If a client already has a limiter that was dropped, the client continues to use it.
        The threads of this limiter end when no client uses it any more.
        """
        with self._lock:
            if concurrency != self._concurrency:
                self._concurrency = concurrency
                self._limiters.clear()
            for host in self._limiters.keys() - {host.lower() for host in hosts}:
                del self._limiters[host]

    def of(self, host: str) -> HostLimiter:
        """Return the limiter for `host`. All callers get the same limiter."""
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
