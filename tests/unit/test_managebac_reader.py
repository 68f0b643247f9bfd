"""How the students' endpoints find out that the server ignores `deleted_since`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rostersync.cancel import CancelScope
from rostersync.clock import from_text, to_text
from rostersync.errors import (
    DECLINED,
    AccessDenied,
    ApiError,
    Forbidden,
    Malformed,
    NotFound,
    OutcomeUnknown,
    OutOfTime,
    RateLimited,
    Redirected,
    Refused,
    ServerFailed,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from rostersync.managebac import ManageBac
from rostersync.managebac.reader import StudentReader
from rostersync.managebac.wire.http import Call, Reply
from rostersync.records import Moment, Page

if TYPE_CHECKING:
    from conftest import ManualClock

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
YEAR = timedelta(days=365)

Answer = Reply | Exception


def reply(status: int, body: bytes = b'{"error": "declined"}') -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, body, NOW, 0.05)


def students(total: int) -> Reply:
    """Return the first page of a list of so many students."""
    rows = [{"id": key} for key in range(1, min(total, 100) + 1)]
    meta = {"current_page": 1, "total_pages": -(-total // 100), "total_count": total, "per_page": 100}
    return reply(200, json.dumps({"students": rows, "meta": meta}).encode())


class Server:
    """Answers for a deleted feed and for the plain list, and remembers from which days the feed was asked for."""

    def __init__(self, to_come: Answer, plain: Answer | None = None) -> None:
        self.to_come, self.plain = to_come, plain
        self.days: list[str] = []

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        day = dict(call.query).get("deleted_since")
        if day is not None:
            self.days.append(day)
        answer = self.to_come if day is not None else self.plain
        assert answer is not None, "the plain list was not to be asked for"
        if isinstance(answer, Exception):
            raise answer
        return answer


def ignores(server: Server, clock: ManualClock, listed: int, moment: Moment = Moment(NOW, NOW)) -> bool:  # noqa: B008
    """Tell what is found out about a deleted feed of so many students, whose first page was made at `moment`."""
    scope = CancelScope(clock)
    api = ManageBac("https://api.managebac.invalid", "a-token", retries=0, concurrency=1, scope=scope, wire=server)
    return StudentReader(api).ignores_deleted_since(Page(1, (), listed, 1, 100, moment))


# As many as before, within a tenth -------------------------------------------------------------------------------

TENTH = [
    (30, 27, True),
    (30, 26, False),
    (27, 30, True),
    (26, 30, False),
    (1, 1, True),
    (1, 0, False),
    (30, 0, False),
    (2, 1, False),
    (1, 2, False),
]


@pytest.mark.parametrize(("listed", "to_come", "ignored"), TENTH)
def test_the_filter_is_ignored_when_about_as_many_are_listed_from_a_day_to_come(
    clock: ManualClock, listed: int, to_come: int, ignored: bool
) -> None:
    server = Server(students(to_come))
    assert ignores(server, clock, listed) is ignored
    assert len(server.days) == 1


@pytest.mark.parametrize(("listed", "plain", "ignored"), TENTH)
def test_the_filter_is_ignored_when_about_as_many_are_listed_without_it_where_a_day_to_come_is_refused(
    clock: ManualClock, listed: int, plain: int, ignored: bool
) -> None:
    assert ignores(Server(reply(400), students(plain)), clock, listed) is ignored


# The day to come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(days=800), timedelta(days=-800)], ids=str)
def test_the_day_to_come_lies_a_year_ahead_of_both_clocks(clock: ManualClock, ahead: timedelta) -> None:
    server = Server(students(0))
    ignores(server, clock, 1, Moment(NOW, NOW + ahead))
    assert server.days == [to_text(max(NOW, NOW + ahead) + YEAR)]


def test_without_a_date_the_day_to_come_lies_a_year_ahead_of_our_clock(clock: ManualClock) -> None:
    server = Server(students(0))
    ignores(server, clock, 1, Moment(NOW, None))
    assert server.days == [to_text(NOW + YEAR)]


@pytest.mark.parametrize("left", [timedelta(0), timedelta(days=1), YEAR], ids=str)
def test_the_day_to_come_is_no_later_than_the_end_of_the_calendar(clock: ManualClock, left: timedelta) -> None:
    server, end = Server(students(0)), datetime.max.replace(tzinfo=UTC)
    assert not ignores(server, clock, 1, Moment(NOW, end - left))
    assert from_text(server.days[0]) == from_text(to_text(end))


# Servers that do not take such a day -----------------------------------------------------------------------------

DECLINING: dict[type[ApiError], Answer] = {
    Refused: reply(422),
    Forbidden: reply(403),
    NotFound: reply(404),
    ServerFailed: reply(500),
    Malformed: reply(200, b"<html>"),
    TooLarge: TooLarge("too large"),
}
OTHERS: dict[type[ApiError], Answer] = {
    Unauthorized: reply(401),
    Redirected: reply(302),
    RateLimited: reply(429),
    Unreachable: Unreachable("unreachable"),
    TimedOut: TimedOut("timed out"),
    OutOfTime: OutOfTime("out of time"),
}


def test_each_kind_of_api_error_is_tried() -> None:
    assert set(DECLINING) == set(DECLINED)
    of_reads = {*ApiError.__subclasses__(), *AccessDenied.__subclasses__()} - {AccessDenied, OutcomeUnknown}
    assert {*DECLINING, *OTHERS} == of_reads


@pytest.mark.parametrize("error", DECLINING)
@pytest.mark.parametrize("ignored", [True, False])
def test_a_server_that_declines_a_day_to_come_is_asked_for_the_plain_list(
    clock: ManualClock, error: type[ApiError], ignored: bool
) -> None:
    server = Server(DECLINING[error], students(9 if ignored else 300))
    assert ignores(server, clock, 9) is ignored


@pytest.mark.parametrize("error", OTHERS)
def test_another_error_in_answer_to_the_day_to_come_is_raised(clock: ManualClock, error: type[ApiError]) -> None:
    with pytest.raises(error):
        ignores(Server(OTHERS[error]), clock, 9)


def test_an_error_in_answer_to_the_plain_list_is_raised(clock: ManualClock) -> None:
    with pytest.raises(ServerFailed):
        ignores(Server(reply(400), reply(500)), clock, 9)
