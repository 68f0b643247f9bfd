from __future__ import annotations

import gzip
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from stand_in import Client

from rostersync.simulator import Manner, Request, faults

if TYPE_CHECKING:
    from conftest import ManualClock

    from rostersync.simulator import Response


@pytest.fixture
def client(clock: ManualClock) -> Client:
    return Client(clock)


def struck(client: Client, fault: faults.Fault) -> Response:
    client.app.faults.add(fault)
    return client.send("/v2p1/students")


def document(response: Response) -> Any:
    return msgspec.json.decode(response.body)


# When ------------------------------------------------------------------------------------------------------------


def test_a_fault_falls_once_unless_told_otherwise(client: Client) -> None:
    client.app.faults.add(faults.http_status(500))
    assert [client.send("/v2p1/students").status for _ in range(3)] == [500, 200, 200]
    client.app.faults.add(faults.http_status(502), times=2)
    assert [client.send("/v2p1/students").status for _ in range(3)] == [502, 502, 200]
    assert (client.app.faults.fired, client.app.faults.pending) == (3, 0)


def test_a_fault_can_fall_for_ever_until_cleared(client: Client) -> None:
    client.app.faults.add(faults.http_status(500), times=None)
    assert {client.send("/v2p1/students").status for _ in range(10)} == {500}
    client.app.faults.clear()
    assert client.send("/v2p1/students").status == 200


def test_a_fault_can_spare_the_first_requests(client: Client) -> None:
    client.app.faults.add(faults.http_status(500), skip=2)
    assert [client.send("/v2p1/students").status for _ in range(4)] == [200, 200, 500, 200]


def test_faults_fall_in_the_order_of_their_planning(client: Client) -> None:
    client.app.faults.add(faults.http_status(500))
    client.app.faults.add(faults.http_status(503))
    assert [client.send("/v2p1/students").status for _ in range(3)] == [500, 503, 200]


LIST, STUDENT = "/v2p1/students", "/v2p1/students/5"


@pytest.mark.parametrize(
    ("match", "hits"),
    [
        (faults.on_list, {0, 1, 2, 3}),
        (faults.on_roster, {0}),
        (faults.on_modified_feed, {1}),
        (faults.on_deleted_feed, {2}),
        (faults.on_ids, {3}),
        (faults.on_page(2), {1}),
        (faults.on_page(1), {0, 2, 3}),
        (faults.on_student(), {4}),
        (faults.on_student(5), {4}),
        (faults.on_student(6), set()),
        (faults.on_write, {5, 6, 7, 8}),
        (faults.on_method("POST"), {5}),
        (faults.on_method("PATCH", "PUT"), {6, 7}),
        (faults.on_method("PUT", path_end="/5/archive"), {7}),
        (faults.on_method("PUT", path_end="/avatar"), set()),
    ],
)
def test_matches_tell_requests_apart(match: faults.Match, hits: set[int]) -> None:
    requests = [
        Request("GET", LIST, [("page", "1")]),
        Request("GET", LIST, [("modified_since", "x"), ("page", "2")]),
        Request("GET", LIST, [("deleted_since", "x")]),
        Request("GET", LIST, [("ids[]", "1")]),
        Request("GET", STUDENT),
        Request("POST", LIST),
        Request("PATCH", STUDENT),
        Request("PUT", f"{STUDENT}/archive"),
        Request("DELETE", f"{STUDENT}/avatar"),
        Request("GET", "/v2p1/auth/permissions"),
    ]
    assert {turn for turn, request in enumerate(requests) if match(request)} == hits


def test_sometimes_is_a_share_of_the_requests(client: Client) -> None:
    client.app.faults.add(faults.http_status(500), faults.sometimes(Random(1), 0.3, faults.on_list), times=None)
    failures = [client.send("/v2p1/students").status for _ in range(200)].count(500)
    assert 40 < failures < 80
    assert {client.send("/v2p1/students/1").status for _ in range(50)} == {404}


# What ------------------------------------------------------------------------------------------------------------


def test_statuses_come_as_html_or_json(client: Client) -> None:
    html = struck(client, faults.http_status(502))
    assert (html.status, html.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert document(struck(client, faults.http_status(503, html=False))) == {"error": "Failure 503"}


def test_denials_are_the_apis_own(client: Client) -> None:
    assert [struck(client, fault()).status for fault in (faults.unauthorized, faults.forbidden)] == [401, 403]
    assert document(struck(client, faults.not_found())) == {"error": "Record was not found"}
    assert struck(client, faults.not_found(html=True)).body.startswith(b"<html>")


def test_a_redirect_names_its_target(client: Client) -> None:
    response = struck(client, faults.redirect("https://elsewhere.invalid/"))
    assert (response.status, response.headers["Location"]) == (302, "https://elsewhere.invalid/")


@pytest.mark.parametrize(
    ("style", "header", "value"),
    [
        ("text-utc", "X-RateLimit-Reset", "2026-03-02 08:00:05 UTC"),
        ("iso", "X-RateLimit-Reset", "2026-03-02T08:00:05Z"),
        ("epoch", "X-RateLimit-Reset", "1772438405"),
        ("seconds", "X-RateLimit-Reset", "5"),
        ("garbage", "X-RateLimit-Reset", "soon"),
        ("retry-after", "Retry-After", "5"),
        ("retry-after-date", "Retry-After", "Mon, 02 Mar 2026 08:00:05 GMT"),
    ],
)
def test_a_rate_limit_tells_its_reset_in_many_ways(client: Client, style: Any, header: str, value: str) -> None:
    response = struck(client, faults.rate_limited(style, seconds=5, limit=10, period=2))
    assert (response.status, response.headers[header]) == (429, value)
    assert (response.headers["X-RateLimit-Limit"], response.headers["X-RateLimit-Period"]) == ("10", "2")


def test_a_rate_limit_can_tell_nothing(client: Client) -> None:
    assert set(struck(client, faults.rate_limited("missing")).headers) == {"Content-Type", "Date"}


def test_the_reset_is_told_by_the_clock_of_the_date(clock: ManualClock) -> None:
    client = Client(clock, clock_skew=3600)
    response = struck(client, faults.rate_limited("text-utc", seconds=5))
    reset = clock.now() + timedelta(seconds=3605)
    assert response.headers["X-RateLimit-Reset"] == reset.strftime("%Y-%m-%d %H:%M:%S UTC")
    assert response.headers["Date"] == "Mon, 02 Mar 2026 09:00:00 GMT"


@pytest.mark.parametrize("fault", [faults.html_200(), faults.truncated_json(), faults.oversize(1000)])
def test_some_answers_are_200_and_no_json_of_students(client: Client, fault: faults.Fault) -> None:
    response = struck(client, fault)
    assert response.status == 200
    assert b'"meta"' not in response.body


def test_truncated_json_is_the_beginning_of_the_true_answer(client: Client) -> None:
    true, half = client.send("/v2p1/students").body, struck(client, faults.truncated_json()).body
    assert true.startswith(half)
    assert len(half) == len(true) // 2


def test_deep_json_is_as_deep_as_asked(client: Client) -> None:
    assert struck(client, faults.deep_json(50)).body.count(b"[") == 50


def test_a_bomb_is_small_until_it_is_unpacked(client: Client) -> None:
    response = struck(client, faults.gzip_bomb(3_000_000))
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(response.body) < 10_000
    assert len(gzip.decompress(response.body)) == 3_000_000


def test_an_empty_list_is_well_formed(client: Client) -> None:
    assert document(struck(client, faults.empty_list()))["meta"]["total_count"] == 0


def test_students_can_be_missing_beside_their_count(client: Client) -> None:
    page = document(struck(client, faults.not_all_counts()))
    assert (page["students"], page["meta"]["total_count"]) == ([], 12)


def test_meta_can_be_malformed_or_missing(client: Client) -> None:
    assert document(struck(client, faults.malformed_meta(total_count="many")))["meta"]["total_count"] == "many"
    assert "per_page" not in document(struck(client, faults.without_meta("per_page")))["meta"]
    assert set(document(struck(client, faults.without_meta()))) == {"students"}


def test_a_fault_of_lists_leaves_other_answers_alone(client: Client) -> None:
    client.app.faults.add(faults.without_meta())
    number = next(iter(client.school.truth()))
    assert client.student(number)["id"] == number


@pytest.mark.parametrize(
    ("fault", "manner"),
    [
        (faults.cut_off(), Manner.TRUNCATED),
        (faults.reset(), Manner.RESET),
        (faults.slow_drip(), Manner.DRIP),
        (faults.delayed(1), Manner.DRIP),
        (faults.never_answers(), Manner.NEVER),
    ],
)
def test_a_true_answer_can_travel_badly(client: Client, fault: faults.Fault, manner: Manner) -> None:
    true = client.send("/v2p1/students")
    response = struck(client, fault)
    assert response.delivery.manner is manner
    assert (response.status, response.body) == (true.status, true.body)
