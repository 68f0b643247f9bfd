from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from rostersync.cancel import CancelScope
from rostersync.errors import OutOfTime
from rostersync.managebac.wire.http import Reply
from rostersync.managebac.wire.limits import HostLimiter, HostLimiters, advised_wait, server_time

if TYPE_CHECKING:
    from conftest import ManualClock

DATE = "Sun, 01 Mar 2026 07:30:00 GMT"


def answered(**headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # Our clock is a day off: an advice judged by it would come out absurd.
    return Reply(429, named, b"", datetime(2026, 3, 2, 7, 30, tzinfo=UTC), 0.5)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X_RateLimit_Reset": "2026-03-01 07:30:15 UTC"}, 15),
        ({"x_ratelimit_reset": "2026-03-01 07:30:15 UTC"}, 15),
        ({"X_RateLimit_Reset": "2026-03-01 07:30:15 +0000"}, 15),
        ({"X_RateLimit_Reset": "2026-03-01T07:30:15Z"}, 15),
        ({"X_RateLimit_Reset": "2026-03-01T08:30:15.000+01:00"}, 15),
        ({"X_RateLimit_Reset": "1772350215"}, 15),
        ({"X_RateLimit_Reset": "1772350215.5"}, 15.5),
        ({"X_RateLimit_Reset": "1772350215000"}, 15),
        ({"X_RateLimit_Reset": "15"}, 15),
        ({"X_RateLimit_Reset": "Sun, 01 Mar 2026 07:30:15 GMT"}, 15),
        ({"Retry_After": "15"}, 15),
        ({"Retry_After": " 1.5 "}, 1.5),
        ({"Retry_After": "Sun, 01 Mar 2026 07:30:15 GMT"}, 15),
        ({"Retry_After": "20", "X_RateLimit_Reset": "15"}, 20),
        ({"Retry_After": "10", "X_RateLimit_Reset": "15"}, 15),
        ({"Retry_After": "nan", "X_RateLimit_Reset": "15"}, 15),
        ({"Retry_After": "soon", "X_RateLimit_Reset": "15"}, 15),
        ({"Retry_After": "86400"}, 300),
        ({"Retry_After": "inf"}, 300),
        ({"X_RateLimit_Reset": "9" * 300}, 300),
        ({"X_RateLimit_Reset": "9999-12-31 23:59:59 UTC"}, 300),
        ({"X_RateLimit_Reset": "2026-03-01 07:29:59 UTC"}, None),
        ({"X_RateLimit_Reset": "1772350100"}, None),
        ({"X_RateLimit_Reset": "0001-01-01T00:00:00+14:00"}, None),
        ({"Retry_After": "-5"}, None),
        ({"Retry_After": "0"}, None),
        ({"Retry_After": ""}, None),
        ({}, None),
    ],
)
def test_a_429_tells_how_long_to_wait_in_many_styles(headers: dict[str, str], seconds: float | None) -> None:
    assert advised_wait(answered(Date=DATE, **headers)) == seconds


def test_without_a_date_the_advice_is_judged_by_our_clock() -> None:
    assert advised_wait(answered(X_RateLimit_Reset="2026-03-02 07:30:15 UTC")) == 14.5


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (DATE, datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ("Sun, 01 Mar 2026 07:30:00 -0000", datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ("Sun, 01 Mar 2026 08:30:00 +0100", datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ("today", None),
        ("Sun, 31 Feb 2026 07:30:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -1400", None),
        ("", None),
    ],
)
def test_the_servers_time_is_its_date_header(text: str, moment: datetime | None) -> None:
    assert server_time(answered(Date=text)) == moment


class Pace:
    """Starts requests, one right after the other, and tells when each could start."""

    def __init__(self, clock: ManualClock, seconds: float = float("inf")) -> None:
        self.clock = clock
        self.limiter = HostLimiter(4, clock)
        self.scope = CancelScope(clock).child(seconds=seconds)

    def starts(self, count: int) -> list[float]:
        return [round(self._start(), 6) for _ in range(count)]

    def _start(self) -> float:
        with self.limiter.slot(self.scope):
            return self.clock.monotonic()


def test_nothing_is_paced_before_the_first_429(clock: ManualClock) -> None:
    assert Pace(clock).starts(50) == [0.0] * 50


def test_after_a_429_requests_keep_to_four_fifths_of_the_rate_for_an_hour(clock: ManualClock) -> None:
    pace = Pace(clock)
    pace.limiter.slow_down("100", "60")
    assert pace.starts(4) == [0.0, 0.75, 1.5, 2.25]
    clock.advance(3598)
    assert pace.starts(3) == [3600.25, 3600.25, 3600.25]


def test_another_429_begins_another_hour(clock: ManualClock) -> None:
    pace = Pace(clock)
    pace.limiter.slow_down("100", "60")
    clock.advance(3000)
    pace.limiter.slow_down("50", "60")
    clock.advance(3000)
    assert pace.starts(3) == [6000.0, 6001.5, 6003.0]


@pytest.mark.parametrize(
    ("limit", "period"),
    [(None, "60"), ("100", None), ("0", "60"), ("-1", "60"), ("x", "60"), ("inf", "1"), ("1", "nan")],
)
def test_a_rate_that_makes_no_sense_paces_nothing(clock: ManualClock, limit: str | None, period: str | None) -> None:
    pace = Pace(clock)
    pace.limiter.slow_down(limit, period)
    assert pace.starts(3) == [0.0, 0.0, 0.0]


def test_a_pause_holds_everybody_and_is_never_shortened(clock: ManualClock) -> None:
    pace = Pace(clock)
    pace.limiter.pause(30)
    pace.limiter.pause(5)
    assert pace.starts(2) == [30.0, 30.0]


def test_a_pause_beyond_the_deadline_is_not_begun(clock: ManualClock) -> None:
    pace = Pace(clock, seconds=20)
    pace.limiter.pause(30)
    with pytest.raises(OutOfTime):
        pace.starts(1)
    assert clock.monotonic() == 0
    pace.limiter._free.acquire(blocking=False)  # the place was given back
    assert sum(pace.limiter._free.acquire(blocking=False) for _ in range(9)) == 3


def test_no_more_requests_are_in_flight_than_allowed(clock: ManualClock, scope: CancelScope) -> None:
    limiter = HostLimiter(2, clock)
    third = threading.Event()

    def enter() -> None:
        with limiter.slot(scope):
            third.set()

    with limiter.slot(scope):
        with limiter.slot(scope):
            waiting = threading.Thread(target=enter, daemon=True)
            waiting.start()
            assert not third.wait(0.15)
        assert third.wait(2)
    waiting.join(2)


def test_a_host_has_one_limiter_whoever_asks(clock: ManualClock) -> None:
    limiters = HostLimiters(4, clock)
    assert limiters.of("api.example.invalid") is limiters.of("API.example.invalid")
    assert limiters.of("api.example.invalid") is not limiters.of("other.example.invalid")


def test_limiters_are_kept_for_the_hosts_that_are_still_configured(clock: ManualClock) -> None:
    limiters = HostLimiters(4, clock)
    kept, dropped = limiters.of("api.example.invalid"), limiters.of("other.example.invalid")
    limiters.keep({"API.example.invalid", "new.example.invalid"}, 4)
    assert limiters.of("api.example.invalid") is kept
    assert limiters.of("other.example.invalid") is not dropped


def test_another_concurrency_makes_new_limiters_and_leaves_requests_in_flight_alone(clock: ManualClock) -> None:
    limiters = HostLimiters(4, clock)
    before = limiters.of("api.example.invalid")
    with before.slot(CancelScope(clock)):
        limiters.keep({"api.example.invalid"}, 2)
        assert before.pages.submit(int).result(5) == 0
    after = limiters.of("api.example.invalid")
    assert after is not before
    assert sum(after._free.acquire(blocking=False) for _ in range(9)) == 2
