from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from canary import EAR

from rostersync.errors import (
    ApiError,
    Malformed,
    OutOfTime,
    RateLimited,
    Redirected,
    ServerFailed,
    Stopped,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from rostersync.managebac.wire.http import Call, Reply
from rostersync.managebac.wire.limits import HostLimiter
from rostersync.managebac.wire.transport import RetryPolicy, Transport, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.cancel import CancelScope

CALL = Call("/v2p1/students", (("q", "marrowgate"), ("page", "3"), ("per_page", "100")))


def status(code: int, body: bytes = b"body", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(code, named, body, datetime(2026, 3, 2, 8, tzinfo=UTC), 0.25)


class Script:
    """A wire that answers with what stands in its script, and remembers with which timeout it was asked, and when."""

    def __init__(self, clock: ManualClock, *answers: Reply | Exception, takes: float = 0.0) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.takes = takes
        self.timeouts: list[float] = []
        self.asked_at: list[float] = []

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        self.timeouts.append(timeout)
        self.asked_at.append(self.clock.monotonic())
        self.clock.advance(self.takes)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Highest(random.Random):
    """Chance that always takes the largest value."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def transport(clock: ManualClock) -> Callable[..., tuple[Transport, Script]]:
    def make(
        *answers: Reply | Exception, retries: int = 5, takes: float = 0.0, **more: Any
    ) -> tuple[Transport, Script]:
        script = Script(clock, *answers, takes=takes)
        rng = more.get("rng", Highest())
        made = Transport(
            script,
            "api.example.invalid",
            HostLimiter(4, clock),
            policy=RetryPolicy(30, retries),
            rng=rng,
        )
        return made, script

    return make


def body(reply: Reply) -> bytes:
    return reply.body


@pytest.mark.parametrize(
    "failure",
    [status(500), status(503), status(429), Unreachable("x"), TimedOut("x"), Malformed("x")],
    ids=lambda failure: getattr(failure, "status", None) or type(failure).__name__,
)
def test_what_may_pass_by_itself_is_tried_again(transport: Any, failure: Reply | Exception, scope: CancelScope) -> None:
    made, _ = transport(failure, failure, status(200))
    assert made.request(CALL, body, scope) == b"body"
    assert (made.counter.requests, made.counter.retries) == (3, 2)


@pytest.mark.parametrize("code", [301, 304, 400, 401, 403, 404, 422])
def test_what_will_not_pass_by_itself_is_not_tried_again(transport: Any, code: int, scope: CancelScope) -> None:
    made, _ = transport(status(code))
    with pytest.raises(ApiError):
        made.request(CALL, body, scope)
    assert (made.counter.requests, made.counter.retries) == (1, 0)


def test_an_answer_that_is_too_large_is_not_asked_for_again(transport: Any, scope: CancelScope) -> None:
    made, _ = transport(TooLarge("x"))
    with pytest.raises(TooLarge):
        made.request(CALL, body, scope)
    assert made.counter.requests == 1


def test_retries_end_and_the_last_failure_is_told(transport: Any, scope: CancelScope) -> None:
    made, _ = transport(status(500), status(500), status(503), retries=2)
    with pytest.raises(ServerFailed, match="503"):
        made.request(CALL, body, scope)
    assert made.counter.requests == 3


def test_waits_double_and_are_capped(transport: Any, clock: ManualClock, scope: CancelScope) -> None:
    made, _ = transport(Unreachable("x"), retries=8)
    with pytest.raises(Unreachable):
        made.request(CALL, body, scope)
    assert clock.slept == [1, 2, 4, 8, 16, 32, 60, 60]


def test_waits_are_spread_over_the_whole_range(transport: Any, clock: ManualClock, scope: CancelScope) -> None:
    made, _ = transport(Unreachable("x"), retries=400, rng=random.Random(7))
    with pytest.raises(Unreachable):
        made.request(CALL, body, scope)
    late = clock.slept[10:]
    assert min(late) < 2
    assert max(late) > 58
    assert 25 < sum(late) / len(late) < 35


@pytest.mark.parametrize("code", [404, 410])
def test_absence_is_an_answer_only_where_it_may_be_one(transport: Any, code: int, scope: CancelScope) -> None:
    made, _ = transport(status(code, b"gone"))
    assert made.request(CALL, body, scope, absent_ok=True) == b"gone"
    with pytest.raises(ApiError):
        made.request(CALL, body, scope)


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_told_with_its_place(
    transport: Any, scope: CancelScope
) -> None:
    def read(reply: Reply) -> bytes:
        raise Malformed("no list of students")

    made, _ = transport(status(200), retries=1)
    with pytest.raises(Malformed) as caught:
        made.request(CALL, read, scope)
    assert caught.value.message == "api.example.invalid/v2p1/students, page 3: no list of students"
    assert made.counter.requests == 2


def test_a_web_page_is_told_as_such(transport: Any, scope: CancelScope) -> None:
    def read(reply: Reply) -> bytes:
        raise Malformed("no JSON")

    made, _ = transport(status(200, b"\n <html>"), retries=0)
    with pytest.raises(Malformed, match="a web page instead of data"):
        made.request(CALL, read, scope)


def test_a_stop_is_not_an_error_to_be_tried_again(transport: Any, scope: CancelScope) -> None:
    made, _ = transport(Stopped(15))
    with pytest.raises(Stopped):
        made.request(CALL, body, scope)
    made, _ = transport(status(500))
    scope.cancel(2)
    with pytest.raises(Stopped):
        made.request(CALL, body, scope)


# 429 -------------------------------------------------------------------------------------------------------------


def test_a_429_is_waited_for_as_it_advises_and_a_little_longer(transport: Any, scope: CancelScope) -> None:
    made, script = transport(status(429, Retry_After="15"), status(200))
    made.request(CALL, body, scope)
    assert script.asked_at == [0, 16]


def test_a_429_without_advice_is_backed_off_from(transport: Any, scope: CancelScope) -> None:
    made, script = transport(status(429), status(429), status(200))
    made.request(CALL, body, scope)
    assert script.asked_at == [0, 1, 3]


def test_a_429_paces_what_comes_after_it(transport: Any, scope: CancelScope) -> None:
    limits = {"X_RateLimit_Limit": "80", "X_RateLimit_Period": "64"}
    made, script = transport(status(429, Retry_After="9", **limits), status(200))
    for _ in range(3):
        made.request(CALL, body, scope)
    assert script.asked_at == [0, 10, 11, 12]


def test_429_for_ever_is_an_error_in_the_end(transport: Any, scope: CancelScope) -> None:
    made, _ = transport(status(429, Retry_After="1"), retries=2)
    with pytest.raises(RateLimited):
        made.request(CALL, body, scope)
    assert made.counter.requests == 3


# The deadline ----------------------------------------------------------------------------------------------------


def test_no_request_is_given_more_time_than_the_run_has(transport: Any, scope: CancelScope) -> None:
    made, script = transport(status(200), takes=20)
    scope = scope.child(seconds=50)
    made.request(CALL, body, scope)
    made.request(CALL, body, scope)
    assert script.timeouts == [30, 30]
    made.request(CALL, body, scope)
    assert script.timeouts[2] == 10
    with pytest.raises(OutOfTime):
        made.request(CALL, body, scope)
    assert len(script.timeouts) == 3


def test_a_wait_that_would_pass_the_deadline_is_not_begun(
    transport: Any, clock: ManualClock, scope: CancelScope
) -> None:
    made, _ = transport(status(500))
    scope = scope.child(seconds=5)
    with pytest.raises(OutOfTime) as caught:
        made.request(CALL, body, scope)
    assert clock.monotonic() == 3
    assert isinstance(caught.value.__context__, ServerFailed)
    made, _ = transport(status(429, Retry_After="60"))
    scope = scope.child(seconds=5)
    with pytest.raises(OutOfTime):
        made.request(CALL, body, scope)
    assert clock.monotonic() == 3


# Words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://login.example.invalid/x?y=marrowgate", "login.example.invalid"),
        ("/elsewhere", "api.example.invalid"),
        ("//other.example.invalid:8080", "other.example.invalid"),
        ("https://\x1b[31m/", "another address"),
        ("https://[::1", "another address"),
        ("", "api.example.invalid"),
    ],
)
def test_a_redirect_names_the_host_it_leads_to_and_no_more(location: str, told: str) -> None:
    error = refusal(status(302, Location=location), "api.example.invalid", CALL)
    assert isinstance(error, Redirected)
    assert f"redirects to {told} " in error.message
    assert "marrowgate" not in error.message


@pytest.mark.parametrize("code", [302, 400, 401, 403, 404, 429, 500])
def test_every_refusal_says_what_to_do(code: int) -> None:
    error = refusal(status(code), "api.example.invalid", CALL)
    assert "api.example.invalid" in error.message
    assert str(code) in error.message
    assert error.hint
    assert "\n" not in error.message


def test_an_unknown_token_is_told_with_where_to_make_one() -> None:
    error = refusal(status(401), "api.example.invalid", CALL)
    assert isinstance(error, Unauthorized)
    assert "API Manager" in error.hint
    assert "systemctl reload rostersync" in error.hint


def test_a_request_is_logged_without_what_was_searched_for(transport: Any, scope: CancelScope) -> None:
    made, _ = transport(status(200))
    made.request(CALL, body, scope)
    logged = json.loads(EAR.last[-1])
    assert logged.pop("timestamp")
    assert logged == {
        "level": "debug",
        "event": "request",
        "method": "GET",
        "path": "/v2p1/students",
        "page": "3",
        "per_page": "100",
        "status": 200,
        "bytes": 4,
        "ms": 250,
    }
