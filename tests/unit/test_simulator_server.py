from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from stand_in import HEADERS, TOKEN, Client

from rostersync.simulator import Server, faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock


@pytest.fixture
def client(clock: ManualClock) -> Client:
    return Client(clock, size=30)


@pytest.fixture
def server(client: Client) -> Iterator[Server]:
    with Server(client.app) as server:
        yield server


def connect(server: Server, timeout: float = 5) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=timeout))


def ask(connection: http.client.HTTPConnection, *query: tuple[str, Any]) -> Any:
    connection.request("GET", f"/v2p1/students?{urlencode(query)}", headers=HEADERS)
    return json.loads(connection.getresponse().read())


def exchange(server: Server) -> bytes:
    """Send one raw request, and return all that comes until the server ends the connection."""
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(f"GET /v2p1/students HTTP/1.1\r\nHost: x\r\nauth-token: {TOKEN}\r\n\r\n".encode())
        received = b""
        while chunk := plain.recv(65_536):
            received += chunk
        return received


def test_the_socket_serves_what_the_app_answers(client: Client, server: Server) -> None:
    with connect(server) as connection:
        page = ask(connection, ("per_page", 10), ("page", 2), ("q", ""))
    assert page == client.page(("per_page", 10), ("page", 2))


def test_a_query_is_decoded_and_a_bare_plus_is_a_space(client: Client, server: Server) -> None:
    number = client.school.create(nickname="Ünö+ Zö")
    with connect(server) as connection:
        assert [row["id"] for row in ask(connection, ("q", "ünö+ zö"))["students"]] == [number]
        connection.request("GET", "/v2p1/students?modified_since=2026-03-01T00:00:00+00:00", headers=HEADERS)
        response = connection.getresponse()
        response.read()
        assert response.status == 400


def test_a_connection_is_kept_alive_and_headers_are_told(server: Server) -> None:
    with connect(server) as connection:
        ask(connection)
        first = connection.sock
        connection.request("GET", "/v2p1/students/1", headers=HEADERS)
        response = connection.getresponse()
        response.read()
        assert connection.sock is first
        assert (response.status, response.version) == (404, 11)
        assert response.headers["Date"] == "Mon, 02 Mar 2026 08:00:00 GMT"
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"


def test_other_methods_are_refused_and_their_bodies_read(server: Server) -> None:
    with connect(server) as connection:
        for method in ("PUT", "HEAD", "GET"):
            connection.request(method, "/v2p1/students", body=b"{}", headers=HEADERS)
            response = connection.getresponse()
            response.read()
            assert response.status == (200 if method == "GET" else 405)


def test_connections_are_served_side_by_side(client: Client, server: Server) -> None:
    met = threading.Barrier(2, timeout=5)
    client.app.on_request = lambda _: met.wait() and None
    answers: list[Any] = []

    def one() -> None:
        with connect(server) as connection:
            answers.append(ask(connection))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 2


def test_closing_ends_idle_and_silent_connections_at_once(client: Client) -> None:
    with connect(server := Server(client.app)) as idle, connect(server) as waiting:
        ask(idle)
        client.app.faults.add(faults.never_answers())
        waiting.request("GET", "/v2p1/students", headers=HEADERS)
        while not client.app.faults.fired:
            time.sleep(0.01)
        begin = time.monotonic()
        server.close()
        assert idle.sock.recv(1) == b""
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            waiting.getresponse()
        assert time.monotonic() - begin < 1
    server.close()


def test_a_closed_port_can_be_taken_again(client: Client) -> None:
    first = Server(client.app)
    port = int(first.base_url.rpartition(":")[2])
    with connect(first) as connection:
        ask(connection)
        first.close()  # before the client leaves: the port is left in TIME_WAIT
        assert connection.sock.recv(1) == b""
    with Server(client.app, port=port) as second, connect(second) as connection:
        assert len(ask(connection)["students"]) == 30


def test_a_port_that_is_taken_is_an_error(client: Client, server: Server) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(client.app, port=int(server.base_url.rpartition(":")[2]))


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
def test_a_failing_status_leaves_the_connection_usable(client: Client, server: Server, status: int) -> None:
    client.app.faults.add(faults.http_status(status))
    with connect(server) as connection:
        connection.request("GET", "/v2p1/students", headers=HEADERS)
        response = connection.getresponse()
        assert (response.status, response.read().startswith(b"<html>")) == (status, True)
        assert len(ask(connection)["students"]) == 30


def test_a_cut_off_answer_promises_more_than_it_brings(client: Client, server: Server) -> None:
    client.app.faults.add(faults.cut_off(10))
    with connect(server) as connection:
        connection.request("GET", "/v2p1/students", headers=HEADERS)
        with pytest.raises(http.client.IncompleteRead) as caught:
            connection.getresponse().read()
    assert len(caught.value.partial) == 10


@pytest.mark.parametrize("after", [0, 10])
def test_a_reset_is_a_reset(client: Client, server: Server, after: int) -> None:
    client.app.faults.add(faults.reset(after))
    with pytest.raises(ConnectionResetError):
        exchange(server)


def test_a_drip_brings_all_in_the_end_but_slowly(client: Client, server: Server) -> None:
    client.app.faults.add(faults.slow_drip(0.05, chunk=4000))
    begin = time.monotonic()
    with connect(server) as connection:
        assert len(ask(connection)["students"]) == 30
    assert time.monotonic() - begin > 0.2


def test_the_headers_can_drip_too(client: Client, server: Server) -> None:
    client.app.faults.add(faults.slow_drip(0.3, with_headers=True))
    with connect(server, timeout=0.15) as connection:
        connection.request("GET", "/v2p1/students", headers=HEADERS)
        with pytest.raises(TimeoutError):
            connection.getresponse()


def test_a_silent_server_says_nothing_and_lets_the_client_leave(client: Client, server: Server) -> None:
    client.app.faults.add(faults.never_answers())
    with connect(server, timeout=0.2) as connection:
        connection.request("GET", "/v2p1/students", headers=HEADERS)
        with pytest.raises(TimeoutError):
            connection.getresponse()
    with connect(server) as connection:
        assert len(ask(connection)["students"]) == 30


def test_a_bomb_travels_packed(client: Client, server: Server) -> None:
    client.app.faults.add(faults.gzip_bomb(1 << 20))
    with connect(server) as connection:
        connection.request("GET", "/v2p1/students", headers=HEADERS)
        response = connection.getresponse()
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(gzip.decompress(response.read())) == 1 << 20


def test_an_oversize_answer_travels_whole(client: Client, server: Server) -> None:
    client.app.faults.add(faults.oversize(5 << 20))
    with connect(server) as connection:
        connection.request("GET", "/v2p1/students", headers=HEADERS)
        assert len(connection.getresponse().read()) > 5 << 20
