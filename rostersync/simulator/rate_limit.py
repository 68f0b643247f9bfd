"""The API's rate limit: so many requests in a period, whatever they ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rostersync.simulator.refusals import spell_reset, too_many_requests

if TYPE_CHECKING:
    from datetime import datetime

    from rostersync.simulator.messages import Response


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` (from 1) in `seconds` (from 1)."""

    requests: int
    seconds: int


class RateCounter:
    """Counts requests in periods, each of which begins with the first request after the last one's end."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._end = -math.inf
        self._count = 0

    def count(self, elapsed: float, now: datetime) -> Response | None:
        """Count a request; returns the refusal when it is one too many.

        `elapsed` are seconds on a clock that nobody sets, `now` is the time that the answer's `Date` will tell.
        """
        if elapsed >= self._end:
            self._end, self._count = elapsed + self._limit.seconds, 0
        self._count += 1
        return self._refusal(now, self._end - elapsed) if self._count > self._limit.requests else None

    def _refusal(self, now: datetime, wait: float) -> Response:
        reset = now + timedelta(seconds=wait)
        if reset.microsecond:  # the header knows whole seconds, and a retry at that time must succeed
            reset = reset.replace(microsecond=0) + timedelta(seconds=1)
        return too_many_requests(
            {
                "X-RateLimit-Limit": str(self._limit.requests),
                "X-RateLimit-Period": str(self._limit.seconds),
                "X-RateLimit-Reset": spell_reset(reset),
            }
        )
