"""What the table of requests and responses cannot show: any bytes, writes at once, time, and broken connections."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st
from stand_in import HEADERS, TOKEN, Client

from rostersync.managebac import fields as managebac
from rostersync.simulator import App, RateLimit, Request, Server, faults
from rostersync.simulator.fields import WRITABLE
from rostersync.simulator.payload import read_avatar

if TYPE_CHECKING:
    from conftest import ManualClock

    from rostersync.simulator import Response

JSON = {**HEADERS, "content-type": "application/json"}
NEW = {"student": {"email": "new@example.invalid", "last_name": "Newquay"}}


def write(client: Client, method: str, path: str, document: Any = None) -> Response:
    return client.app.handle(Request(method, f"/v2p1/students{path}", [], JSON, json.dumps(document).encode()))


def create(client: Client, **fields: Any) -> int:
    response = write(client, "POST", "", {"student": NEW["student"] | fields})
    assert response.status == 201, response.body
    return int(json.loads(response.body)["student"]["id"])


def test_it_accepts_every_field_that_the_client_may_write() -> None:
    assert set(WRITABLE) == set(managebac.WRITABLE)


# Bodies ----------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1), st.sampled_from(["1.png", "Ünö.png", 'a"b;c.png', "x" * 300]))
@example(b"\r", "1.png")
@example(b"\n", "1.png")
@example(b"\r\n", "1.png")
@example(b"\r\n--boundary--\r\n\r\n", "1.png")
@example(b"Content-Type: text/html\r\n\r\n\x85\xe2\x80\xa8", "1.png")
@example(bytes(range(256)) * 1000 + b"\r", "1.png")
def test_an_uploaded_file_arrives_byte_for_byte(content: bytes, name: str) -> None:
    form = {"note": (None, "no file"), "avatar[file]": (name, content)}
    sent = requests.Request("PUT", "http://x.invalid", files=form).prepare()
    assert isinstance(sent.body, bytes)
    assert read_avatar(Request.to("/", dict(sent.headers), "PUT", sent.body)) == content


def test_a_file_with_a_type_of_its_own_is_taken_too() -> None:
    form = {"avatar[file]": ("1.png", b"\x89PNG\r\n", "image/png")}
    sent = requests.Request("PUT", "http://x.invalid", files=form).prepare()
    assert isinstance(sent.body, bytes)
    assert read_avatar(Request.to("/", dict(sent.headers), "PUT", sent.body)) == b"\x89PNG\r\n"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"student": "\xff"}', b'{"student": "\\ud800"}', b"null", b'"x"'])
def test_a_strange_body_is_refused_and_harms_nothing(clock: ManualClock, body: bytes) -> None:
    client = Client(clock)
    for method, path in (("POST", ""), ("PATCH", f"/{next(iter(client.school.truth()))}")):
        assert client.app.handle(Request(method, f"/v2p1/students{path}", [], JSON, body)).status == 400


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("value", [True, 1.5, {"a": 1}, [None], [[]], -(10**30)])
def test_no_writable_field_takes_a_value_of_a_kind_that_no_field_has(clock: ManualClock, name: str, value: Any) -> None:
    client = Client(clock, size=1)
    response = write(client, "PATCH", f"/{next(iter(client.school.truth()))}", {"student": {name: value}})
    assert (response.status, list(json.loads(response.body)["errors"])) == (422, [name])


# What a write sees, and who sees a write --------------------------------------------------------------------------


def test_a_student_who_is_not_in_sight_yet_can_be_written_and_their_address_is_taken(clock: ManualClock) -> None:
    client = Client(clock, late_commit_seconds=60)
    number = create(client)
    assert client.send(f"/v2p1/students/{number}").status == 404
    assert write(client, "PATCH", f"/{number}", {"student": {"city": "Mythwich"}}).status == 200
    assert write(client, "POST", "", NEW).status == 422
    clock.advance(61)
    assert client.student(number)["city"] == "Mythwich"


def test_a_lagging_replica_shows_the_state_before_the_write(clock: ManualClock) -> None:
    client = Client(clock, lag_seconds=30, lag_share=1.0)
    number = next(iter(client.school.truth()))
    clock.advance(60)
    answer = write(client, "PATCH", f"/{number}", {"student": {"city": "Elsewhere"}})
    assert json.loads(answer.body)["student"]["city"] == "Elsewhere"
    assert client.student(number).get("city") != "Elsewhere"
    clock.advance(31)
    assert client.student(number)["city"] == "Elsewhere"


def test_a_written_student_is_in_the_list_the_feed_and_the_search(clock: ManualClock) -> None:
    client = Client(clock)
    clock.advance(10)
    number = create(client, nickname="Neverbefore")
    assert client.ids(("modified_since", "2026-03-02T08:00:10.000Z")) == [number] == client.ids(("q", "neverbefore"))
    assert number in client.ids(("archived", 0))
    write(client, "PUT", f"/{number}/archive", {"withdrawn_on": "2026-03-01"})
    assert client.ids(("q", "neverbefore"), ("status", "withdrawn")) == [number]


def test_of_two_creates_with_one_address_at_once_one_is_refused(clock: ManualClock) -> None:
    client = Client(clock)
    met, statuses = threading.Barrier(2, timeout=5), []
    client.app.on_request = lambda _: met.wait() and None
    threads = [threading.Thread(target=lambda: statuses.append(write(client, "POST", "", NEW).status)) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(statuses) == [201, 422]


def test_an_update_repairs_a_record_that_cannot_be_decoded(clock: ManualClock) -> None:
    client = Client(clock)
    number = next(iter(client.school.truth()))
    client.school.inject(number, {"id": number, "birthday": "no day"})
    assert write(client, "PATCH", f"/{number}", {"student": {"birthday": "2012-01-01"}}).status == 200
    assert client.student(number)["birthday"] == "2012-01-01"


def test_the_same_picture_has_the_same_address_and_another_one_another(clock: ManualClock) -> None:
    client = Client(clock)
    number, seen = next(iter(client.school.truth())), []
    for name in ("1", "2", "1"):
        url = f"https://images.example.invalid/{name}.png"
        assert write(client, "PUT", f"/{number}/avatar", {"avatar": {"remote_file_url": url}}).status == 200
        seen.append(client.student(number)["photo_url"])
        assert seen[-1].endswith(hashlib.blake2b(url.encode(), digest_size=8).hexdigest())
    assert seen[0] == seen[2] != seen[1]


# Broken connections ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "done"), [(faults.reset(), True), (faults.unheard(), False)])
def test_a_reset_comes_after_the_write_or_before_it(clock: ManualClock, fault: faults.Fault, done: bool) -> None:
    client = Client(clock)
    client.app.faults.add(fault, faults.on_method("POST"))
    with Server(client.app) as server:
        connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=5)
        connection.request("POST", "/v2p1/students", json.dumps(NEW).encode(), JSON)
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
        connection.close()
    assert bool(client.ids(("q", "new@example.invalid"))) is done


@pytest.mark.parametrize("fault", [faults.cut_off(), faults.never_answers(), faults.truncated_json()])
def test_an_answer_that_does_not_arrive_is_the_answer_to_a_write_that_was_done(
    clock: ManualClock, fault: faults.Fault
) -> None:
    client = Client(clock)
    client.app.faults.add(fault, faults.on_write)
    write(client, "POST", "", NEW)
    assert len(client.ids(("q", "new@example.invalid"))) == 1


@pytest.mark.parametrize("fault", [faults.http_status(503), faults.rate_limited(), faults.html_200()])
def test_an_answer_that_is_not_the_apis_is_the_answer_to_a_write_that_was_not_done(
    clock: ManualClock, fault: faults.Fault
) -> None:
    client = Client(clock)
    client.app.faults.add(fault, faults.on_write)
    write(client, "POST", "", NEW)
    assert client.ids(("q", "new@example.invalid")) == []


# Rate limit ------------------------------------------------------------------------------------------------------


def limited(clock: ManualClock, requests: int, seconds: int, **switches: Any) -> Client:
    client = Client(clock, **switches)
    client.app = App(client.school, TOKEN, rate_limit=RateLimit(requests, seconds))
    return client


def test_a_period_begins_with_its_first_request_and_the_next_one_has_room_again(clock: ManualClock) -> None:
    client = limited(clock, 2, 10)

    def statuses() -> list[int]:
        return [client.send("/v2p1/students").status for _ in range(3)]

    clock.advance(7)
    assert statuses() == [200, 200, 429]
    clock.advance(9.99)
    assert statuses() == [429, 429, 429]
    clock.advance(0.01)
    assert statuses() == [200, 200, 429]


def test_a_retry_at_the_time_that_is_told_succeeds(clock: ManualClock) -> None:
    client = limited(clock, 1, 10, clock_skew=3600)
    clock.advance(0.25)
    client.send("/v2p1/students")
    refusal = client.send("/v2p1/students")
    assert refusal.headers["X-RateLimit-Reset"] == "2026-03-02 09:00:11 UTC"  # 09:00:10.25, in whole seconds
    assert refusal.headers["Date"] == "Mon, 02 Mar 2026 09:00:00 GMT"
    clock.advance(10.75)
    assert client.send("/v2p1/students").status == 200


def test_a_clock_that_is_set_back_does_not_prolong_the_period(clock: ManualClock) -> None:
    client = limited(clock, 1, 10)
    client.send("/v2p1/students")
    clock.time = clock.time.replace(year=2025)
    clock.advance(10)
    assert client.send("/v2p1/students").status == 200


def test_all_endpoints_count_together(clock: ManualClock) -> None:
    client = limited(clock, 3, 10)
    number = next(iter(client.school.truth()))
    assert write(client, "POST", "", NEW).status == 201
    assert client.send("/v2p1/auth/permissions").status == 200
    assert write(client, "DELETE", f"/{number}/avatar").status == 200
    assert client.send(f"/v2p1/students/{number}").status == 429


# What no endpoint does -------------------------------------------------------------------------------------------


def test_one_student_can_be_deleted_as_an_administrator_does_it(clock: ManualClock) -> None:
    client = Client(clock)
    number = next(iter(client.school.truth()))
    request = Request("DELETE", f"/simulator/students/{number}")
    assert client.app.handle(request).status == 200
    assert client.school.deleted() == {number}
    assert client.ids(("deleted_since", "2026-03-01")) == [number]
    assert client.app.handle(request).status == 404
    assert client.app.handle(Request("DELETE", "/simulator/students/nobody")).status == 404


def test_neither_a_fault_nor_the_rate_limit_bars_the_deletion_by_an_administrator(clock: ManualClock) -> None:
    client = Client(clock)
    client.app.faults.add(faults.http_status(503), times=None)
    number = next(iter(client.school.truth()))
    assert client.app.handle(Request("DELETE", f"/simulator/students/{number}")).status == 200
