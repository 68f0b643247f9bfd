"""The API's rate limit, which is a number of requests in a period. All endpoints share the limit."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from rostersync.simulator.refusals import spell_reset, too_many_requests

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.simulator.messages import Response


class RateLimit(msgspec.Struct, frozen=True):
    """At most `requests` (1 or more) in a period of `seconds` (1 or more)."""

    requests: int
    seconds: int


class RateCounter:
    """Counts requests in periods. A period begins with the first request after the previous period has ended."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._end = -math.inf
        self._count = 0

    def count(self, elapsed: float, now: datetime) -> Response | None:
        """Count a request. Return the 429 response if the request exceeds the limit, else None.

        `elapsed` is the time in seconds on a monotonic clock. `now` is the time in the response's `Date`. The time of
        the reset depends on both.
        """
        if elapsed >= self._end:
            self._end, self._count = elapsed + self._limit.seconds, 0
        self._count += 1
        return self._refusal(now, self._end - elapsed) if self._count > self._limit.requests else None

    def _refusal(self, now: datetime, wait: float) -> Response:
        reset = now + timedelta(seconds=wait)
        if reset.microsecond:  # round up, because the header has whole seconds, and a retry at that time must succeed
            reset = reset.replace(microsecond=0) + timedelta(seconds=1)
        return too_many_requests(
            {
                "X-RateLimit-Limit": str(self._limit.requests),
                "X-RateLimit-Period": str(self._limit.seconds),
                "X-RateLimit-Reset": spell_reset(reset),
            }
        )
