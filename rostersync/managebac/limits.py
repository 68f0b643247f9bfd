"""How fast a host may be asked: what a 429 advises, and the pace that all sources of the process keep together.

The vendor counts requests per IP, over all endpoints, so the pace belongs to the host, not to the source.
"""

from __future__ import annotations

import math
import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from rostersync.pool import STOP_CHECK_S, DaemonExecutor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rostersync.clock import Clock
    from rostersync.managebac.wire import Reply

LONGEST_WAIT = 300.0  # seconds: an advice beyond it is not followed to the end, but asked about again

_SHARE = 0.8  # of the advertised rate: others at the school's address may be asking too
_PACED_FOR = 3600.0
_SMALLEST_EPOCH = 10**8  # below: seconds from now. As an epoch it would lie in 1973
_SMALLEST_EPOCH_MS = 10**11


def server_time(reply: Reply) -> datetime | None:
    """Return the reply's `Date`, UTC, or None where it is missing or unreadable."""
    try:
        return _in_utc(parsedate_to_datetime(reply.header("Date") or ""))
    except (ValueError, OverflowError):
        return None


def advised_wait(reply: Reply) -> float | None:
    """Return how many seconds a 429 asks to wait: the longer of Retry-After and X-RateLimit-Reset, at most 300.

    Judged by the response's own `Date`, for our clock may differ. None: no advice, or one that has passed already.
    """
    now = server_time(reply) or reply.sent_at + timedelta(seconds=reply.duration)
    advice = (_seconds_until(reply.header(name), now) for name in ("Retry-After", "X-RateLimit-Reset"))
    longest = max((seconds for seconds in advice if seconds is not None), default=0.0)
    return min(longest, LONGEST_WAIT) if longest > 0 else None


def _seconds_until(text: str | None, now: datetime) -> float | None:
    """Read a number of seconds, an epoch in seconds or milliseconds, an HTTP date, or ISO 8601 (UTC if it says none).

    `2026-03-01 07:30:15 UTC` is what ManageBac is believed to send.
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
    """Read ISO 8601, and the two ways in which Ruby prints a time: `... UTC` and `... +0000`."""
    return datetime.fromisoformat(re.sub(r" (?=[+-]\d{4}$)", "", text.removesuffix(" UTC")))


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Sleeper(Protocol):
    """How the limiter waits: `Deadline` raises `OutOfTime` where a wait would take too long."""

    def sleep(self, seconds: float) -> None: ...


class HostLimiter:
    """The pace of one host: `concurrency` requests in flight, and no hurry after a 429. Shared by clients and threads.

    Nothing is paced until the first 429. For an hour from each, requests are spread evenly over time at 80 % of the
    rate that it advertised.
    """

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self.pages = DaemonExecutor("page", concurrency)
        """The threads that fetch pages: of all clients no more than may be in flight."""
        self.exchanges = DaemonExecutor("exchange")
        """The threads of single exchanges, one of which may hang."""
        self._clock = clock
        self._free = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._next = float("-inf")  # when the next request may start, by clock.monotonic()
        self._interval = 0.0
        self._paced_until = float("-inf")

    def close(self) -> None:
        """Let the threads end."""
        self.pages.shutdown(wait=False)
        self.exchanges.shutdown(wait=False)

    @contextmanager
    def slot(self, sleeper: Sleeper) -> Iterator[None]:
        """Hold one of the places in flight, entered when it is this request's turn.

        Raises `OutOfTime` and `Stopped` as `sleeper` does.
        """
        while not self._free.acquire(timeout=STOP_CHECK_S):
            sleeper.sleep(0)
        try:
            while (seconds := self._turn()) > 0:
                sleeper.sleep(seconds)
            yield
        finally:
            self._free.release()

    def slow_down(self, limit: str | None, period: str | None) -> None:
        """Keep for an hour to 80 % of `limit` requests in `period` seconds, as the headers of a 429 have it."""
        rate = _positive(limit) / _positive(period) if _positive(limit) and _positive(period) else 0.0
        if rate > 0:
            with self._lock:
                self._interval = min(1 / (_SHARE * rate), LONGEST_WAIT)
                self._paced_until = self._clock.monotonic() + _PACED_FOR

    def pause(self, seconds: float) -> None:
        """Let nobody start a request for so many seconds."""
        with self._lock:
            self._next = max(self._next, self._clock.monotonic() + seconds)

    def _turn(self) -> float:
        """Take the turn and return 0, or return the seconds to wait before asking again."""
        with self._lock:
            now = self._clock.monotonic()
            if now < self._next:
                return self._next - now
            if now < self._paced_until:
                self._next = now + self._interval
            return 0.0


class HostLimiters:
    """The limiters of a process, one for each host."""

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self._concurrency, self._clock = concurrency, clock
        self._limiters: dict[str, HostLimiter] = {}
        self._lock = threading.Lock()

    def keep(self, hosts: Collection[str], concurrency: int) -> None:
        """Keep the limiters of these hosts, with their pace, and drop the others.

        If the concurrency changes, all are dropped: a host gets a new limiter, which paces nothing before the next 429.
        Clients go on with a limiter that was dropped. Its threads end with the last of these clients.
        """
        with self._lock:
            if concurrency != self._concurrency:
                self._concurrency = concurrency
                self._limiters.clear()
            for host in self._limiters.keys() - {host.lower() for host in hosts}:
                del self._limiters[host]

    def of(self, host: str) -> HostLimiter:
        """Return the limiter of `host`, the same for all who ask."""
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
