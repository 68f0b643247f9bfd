"""The wire and the students over real sockets, to servers that misbehave byte by byte."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import pytest
from canary import EAR, TOKEN

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import (
    ApiError,
    ConfigError,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Redirected,
    Refused,
    ServerFailed,
    Stopped,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from rostersync.managebac import ManageBac
from rostersync.managebac.decoding.records import decode_student
from rostersync.managebac.reader import StudentReader
from rostersync.managebac.wire.http import Call, RequestsWire
from rostersync.managebac.wire.limits import HostLimiter
from rostersync.pool import DaemonExecutor
from rostersync.records import Gone, Query, Student, Unclear
from rostersync.secret import Secret
from rostersync.simulator import App, Faults, School, Server, Switches, faults

if TYPE_CHECKING:
    from pathlib import Path

NAME = "fizz marrowgate"  # somebody searched for, whom nothing may name

Answer = Callable[[socket.socket, str], None]

THREADS = DaemonExecutor("exchange")


class Bytes:
    """A loopback server whose answers are bytes: `answer(connection, path)` is called for each request's head."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heads: list[str] = []
        self.connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        for end in (self._listener, *self.connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=[connection], daemon=True))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as lines:
            while head := self._head(lines):
                self.heads.append(head)
                self.answer(connection, head.split()[1])

    def _head(self, lines: Any) -> str:
        head = ""
        while (line := lines.readline()) not in {b"", b"\r\n"}:
            head += line.decode()
        return head


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Bytes]]:
    servers: list[Bytes] = []

    def start(answer: Answer) -> Bytes:
        servers.append(Bytes(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def page_of(*ids: int) -> bytes:
    meta = {"current_page": 1, "total_pages": 1, "total_count": len(ids), "per_page": 100}
    return json.dumps({"students": [{"id": key} for key in ids], "meta": meta}).encode()


def always(answer: bytes) -> Answer:
    return lambda connection, _: connection.sendall(answer)


@pytest.fixture
def connect() -> Iterator[Callable[..., StudentReader]]:
    opened: list[ManageBac] = []

    def start(url: str, scope: CancelScope | None = None, *, per_page: int = 100, **settings: Any) -> StudentReader:
        scope = scope or CancelScope(SystemClock())
        defaults: dict[str, Any] = {"retries": 0, "timeout": 5.0, "concurrency": 1}
        limiter = HostLimiter(8, scope.clock)
        opened.append(ManageBac(url, TOKEN, scope=scope, limiter=limiter, **(defaults | settings)))
        return StudentReader(opened[-1], per_page)

    yield start
    for api in opened:
        api.close()


Serve = Callable[[Answer], Bytes]
Connect = Callable[..., StudentReader]


# What goes over the wire -------------------------------------------------------------------------------------------


def test_a_page_is_asked_for_in_the_vendors_words(serve: Serve, connect: Connect) -> None:
    server = serve(always(reply(page_of(1, 2), "200 OK", "Date: Mon, 02 Mar 2026 08:00:10 GMT")))
    query = Query(
        ids=(5, 6),
        archived=False,
        status="enrolled",
        modified_since=datetime(2026, 3, 1, tzinfo=UTC),
        deleted_since=datetime(2026, 3, 1, 7, tzinfo=UTC),
        year_group_ids=(7, 8),
        homeroom_advisor_ids=(9,),
        q="a b&c",
    )
    page = connect(server.url, per_page=50).page(query, 3)
    assert page is not None
    assert [row.id for row in page.rows] == [1, 2]
    assert page.number == 3
    assert page.moment.server is not None
    assert 8.5 < page.moment.server.second < 9.1 or page.moment.server.second == 8
    request, *lines = server.heads[0].splitlines()
    assert request == (
        "GET /v2p1/students?ids%5B%5D=5&ids%5B%5D=6&archived=0&status=enrolled"
        "&modified_since=2026-03-01T00%3A00%3A00.000Z&deleted_since=2026-03-01T07%3A00%3A00.000Z"
        "&year_group_ids%5B%5D=7&year_group_ids%5B%5D=8&homeroom_advisor_ids%5B%5D=9&q=a+b%26c"
        "&page=3&per_page=50 HTTP/1.1"
    )
    headers = {line.split(": ")[0].lower(): line.split(": ")[1] for line in lines}
    assert headers["auth-token"] == TOKEN
    assert headers["accept"] == "application/json"
    assert headers["user-agent"].startswith("rostersync/")
    assert "authorization" not in headers
    assert "cookie" not in headers


def test_connections_are_kept_open_and_cookies_are_not_kept(serve: Serve, connect: Connect) -> None:
    server = serve(always(reply(page_of(1), "200 OK", "Set-Cookie: a=b")))
    students = connect(server.url)
    for number in (1, 2, 3):
        students.page(Query(), number)
    assert len(server.connections) == 1
    assert students.requests == 3
    assert not any("cookie" in head.lower() for head in server.heads)


def test_an_answer_may_be_compressed_and_chunked(serve: Serve, connect: Connect) -> None:
    packed = gzip.compress(page_of(4))
    chunk = f"{len(packed):x}\r\n".encode() + packed + b"\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    page = connect(serve(always(head + chunk)).url).page(Query(), 1)
    assert page is not None
    assert page.rows[0].id == 4


def test_netrc_is_not_consulted(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(always(reply(page_of(1))))
    connect(server.url).page(Query(), 1)
    assert "authorization" not in server.heads[0].lower()


def test_a_redirect_is_not_followed_and_takes_no_token_along(serve: Serve, connect: Connect) -> None:
    other = serve(always(reply(page_of(1))))
    location = f"Location: http://localhost:{other.port}/v2p1/students"
    server = serve(always(reply(b"", "302 Found", location)))
    with pytest.raises(Redirected, match="redirects to localhost"):
        connect(server.url).page(Query(), 1)
    assert len(server.heads) == 1
    assert other.connections == []


def test_a_redirect_that_repeats_the_token_is_told_without_it(serve: Serve, connect: Connect) -> None:
    server = serve(always(reply(b"", "302 Found", f"Location: https://{TOKEN.upper()}.invalid/?token={TOKEN}")))
    with pytest.raises(Redirected, match="redirects to another address") as caught:
        connect(server.url).page(Query(), 1)
    assert TOKEN not in str(caught.value).lower()


def test_headers_that_cannot_be_read_are_logged_without_what_is_in_them(serve: Serve, connect: Connect) -> None:
    connect(serve(always(reply(page_of(1), "200 OK", f"{NAME} and {TOKEN}"))).url).page(Query(), 1)
    logged = "".join(EAR.last)
    assert "Failed to parse headers" in logged
    assert "marrowgate" not in logged
    assert TOKEN not in logged


# The token as a parameter -------------------------------------------------------------------------------------------

PARAMETER = f"auth_token={TOKEN}"


def test_a_token_that_is_sent_as_a_parameter_is_in_no_header(serve: Serve, connect: Connect) -> None:
    server = serve(always(reply(page_of(1), "200 OK", "Connection: keep-alive")))
    students = connect(server.url, auth="parameter")
    assert students.page(Query(q="a b"), 1) is not None
    with pytest.raises(Malformed):
        students.get(1)
    assert [head.split(" HTTP/")[0] for head in server.heads] == [
        f"GET /v2p1/students?q=a+b&page=1&per_page=100&{PARAMETER}",
        f"GET /v2p1/students/1?{PARAMETER}",
    ]
    assert not any("auth-token" in head.lower() for head in server.heads)


def test_a_token_is_escaped_in_the_address(serve: Serve) -> None:
    server = serve(always(reply(b"{}")))
    token = Secret("canary-token+&=%/?#")
    wire = RequestsWire(server.url, token, DaemonExecutor("exchange"), auth="parameter")
    wire.send(Call("/"), 5, CancelScope(SystemClock()))
    assert server.heads[0].startswith("GET /?auth_token=canary-token%2B%26%3D%25%2F%3F%23 HTTP/1.1")


def echo(connection: socket.socket, path: str) -> None:
    """Answer with the address that was asked for where a status should be."""
    connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    connection.shutdown(socket.SHUT_RDWR)


def echoing(status: str, *headers: str) -> Answer:
    """Return an answer that repeats the address that was asked for, in its body and in `headers`."""

    def answer(connection: socket.socket, path: str) -> None:
        body = json.dumps({"error": f"No route matches {path}", "errors": {path: [path]}}).encode()
        connection.sendall(reply(body, status, *(header.format(path=path) for header in headers)))

    return answer


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (echo, {Unreachable, OutcomeUnknown}),
        (lambda connection, _: connection.shutdown(socket.SHUT_RDWR), {Unreachable, OutcomeUnknown}),
        (echoing("302 Found", "Location: https://elsewhere.invalid{path}"), {Redirected}),
        (echoing("302 Found", f"Location: https://{TOKEN}.invalid/"), {Redirected}),
        (echoing("401 Unauthorized", "WWW-Authenticate: {path}"), {Unauthorized}),
        (echoing("429 Too Many", "Retry-After: {path}"), {RateLimited}),
        (echoing("422 Unprocessable"), {Refused, Invalid}),
        (echoing("500 Oops"), {ServerFailed, OutcomeUnknown}),
    ],
)
def test_no_error_shows_a_token_that_is_sent_as_a_parameter(
    serve: Serve, answer: Answer, kinds: set[type[ApiError]]
) -> None:
    """Not even if the server repeats the address. What the HTTP library logs is searched after each test."""
    seen = set()
    with ManageBac(serve(answer).url, TOKEN, retries=0, auth="parameter") as api:
        for call in (lambda: list(api.students.list()), lambda: api.students.unarchive(1)):
            with pytest.raises(ApiError) as caught:
                call()
            seen.add(type(caught.value))
            assert TOKEN not in "".join(traceback.format_exception(caught.value))
            error: BaseException | None = caught.value
            while error is not None:
                assert TOKEN not in f"{error!r} {vars(error)!r}"
                error = error.__cause__ or error.__context__
    assert seen == kinds


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "naïve", "tab\t"])
def test_a_token_that_no_header_can_carry_is_a_mistake_of_the_configuration(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RequestsWire("http://127.0.0.1:1", Secret(token), DaemonExecutor("exchange"))
    assert not token.strip() or token.strip() not in str(caught.value)


# What is an error --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("204 No Content", Malformed),
        ("301 Moved", Redirected),
        ("304 Not Modified", Redirected),
        ("400 Bad Request", Refused),
        ("401 Unauthorized", Unauthorized),
        ("403 Forbidden", Forbidden),
        ("404 Not Found", NotFound),
        ("418 Teapot", Refused),
        ("422 Unprocessable", Refused),
        ("429 Too Many Requests", RateLimited),
        ("500 Internal Bytes Error", ServerFailed),
        ("503 Unavailable", ServerFailed),
    ],
)
def test_each_status_has_its_error_which_repeats_nothing_of_the_answer(
    serve: Serve, connect: Connect, status: str, kind: type[ApiError]
) -> None:
    server = serve(always(reply(b'{"error": "fizz marrowgate may not"}', status, "Connection: close")))
    with pytest.raises(kind) as caught:
        connect(server.url).page(Query(q=NAME), 1)
    assert type(caught.value) is kind
    assert "127.0.0.1" in caught.value.message
    assert "marrowgate" not in "".join(traceback.format_exception(caught.value))
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<!doctype html><title>Sign in</title>", "200 OK", "Content-Type: text/html"),
        reply(page_of(1)[:-5]),
        reply(b""),
        reply(b'{"error": "Access Denied"}'),
        reply(b"no gzip at all", "200 OK", "Content-Encoding: gzip"),
        reply(gzip.compress(page_of(1))[:-20], "200 OK", "Content-Encoding: gzip"),
    ],
)
def test_an_answer_that_is_not_what_it_should_be_is_malformed(serve: Serve, connect: Connect, answer: bytes) -> None:
    with pytest.raises(Malformed):
        connect(serve(always(answer)).url).page(Query(), 1)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (b"", "cut off"),
        (b"SSH-2.0-OpenSSH\r\n", "not valid HTTP"),
        (reply(page_of(1))[:-1], "cut off"),
        (CHUNKED + b"%x\r\n" % len(page_of(1)) + page_of(1) + b"\r\n", "cut off"),
        (CHUNKED + b"zz\r\n", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, "not valid HTTP"),
    ],
    ids=["nothing", "no http", "short", "no last chunk", "no chunk", "two lengths", "endless header"],
)
def test_an_answer_that_breaks_off_is_never_accepted(serve: Serve, connect: Connect, answer: bytes, how: str) -> None:
    def breaking_off(connection: socket.socket, _: str) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with pytest.raises(Unreachable, match=rf"connection to 127\.0\.0\.1:\d+ failed \({how}\)"):
        connect(serve(breaking_off).url).page(Query(), 1)


def test_a_reset_and_a_refused_connection_are_unreachable(serve: Serve, connect: Connect) -> None:
    def reset(connection: socket.socket, _: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raise ConnectionResetError

    with pytest.raises(Unreachable, match=r"connection to 127\.0\.0\.1:\d+ failed \(reset\)"):
        connect(serve(reset).url).page(Query(), 1)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(Unreachable, match=r"connection to 127\.0\.0\.1:\d+ failed \(refused\)"):
        connect(f"http://127.0.0.1:{port}").page(Query(), 1)


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no name have an address, without asking anybody."""
    resolve = socket.getaddrinfo

    def refuse(host: str, *args: Any, **kwargs: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_names")
def test_a_host_that_has_no_address_is_told_so(connect: Connect) -> None:
    with pytest.raises(Unreachable, match=r"connection to nowhere\.invalid failed \(DNS"):
        connect("https://nowhere.invalid").page(Query(), 1)


def test_no_secure_connection_where_there_is_no_tls(connect: Connect) -> None:
    def greet() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"220 no TLS here\r\n")
            connection.recv(10_000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(Unreachable, match=r"failed \(TLS\)"):
            connect(f"https://127.0.0.1:{listener.getsockname()[1]}").page(Query(), 1)


@pytest.mark.usefixtures("no_names")
def test_no_error_shows_the_token_or_the_query(serve: Serve, connect: Connect) -> None:
    def nothing(connection: socket.socket, _: str) -> None:
        connection.shutdown(socket.SHUT_RDWR)

    short = always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    for url in (serve(nothing).url, "https://nowhere.invalid", serve(short).url):
        with pytest.raises(ApiError) as caught:
            connect(url, timeout=0.3).page(Query(q=NAME), 1)
        told = "".join(traceback.format_exception(caught.value))
        assert "marrowgate" not in told
        assert TOKEN not in told
        assert TOKEN not in repr(vars(caught.value))


def test_a_refusal_is_known_by_its_status_whatever_its_body(serve: Serve, connect: Connect) -> None:
    def endless(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 99999999\r\n\r\n<html>")
        time.sleep(2)

    started = time.monotonic()
    with pytest.raises(ServerFailed):
        connect(serve(endless).url).page(Query(), 1)
    assert time.monotonic() - started < 1


# Sizes and times ---------------------------------------------------------------------------------------------------


def test_an_answer_beyond_the_limit_is_not_read(serve: Serve) -> None:
    wire = RequestsWire(
        serve(always(reply(b" " * 2_000))).url,
        Secret(TOKEN),
        DaemonExecutor("exchange"),
        max_bytes=1_000,
    )
    with pytest.raises(TooLarge):
        wire.send(Call("/"), 5, CancelScope(SystemClock()))
    wire.close()


BOMB = """
import gzip, io, resource, socket, threading, zlib
from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import TooLarge
from rostersync.managebac.wire.http import Call, RequestsWire
from rostersync.pool import DaemonExecutor
from rostersync.secret import Secret

def pack(chunks):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()

bomb = b"".join(pack(bytes(2**20) for _ in range(1024)))  # 1 GiB
if {twice}:
    bomb = gzip.compress(bomb)
listener = socket.create_server(("127.0.0.1", 0))

def serve():
    connection, _ = listener.accept()
    connection.recv(65536)
    encoding = "gzip, gzip" if {twice} else "gzip"
    connection.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Length: {{len(bomb)}}\\r\\n"
                       f"Content-Encoding: {{encoding}}\\r\\n\\r\\n".encode() + bomb)

threading.Thread(target=serve, daemon=True).start()
threads = DaemonExecutor("exchange")
wire = RequestsWire(f"http://127.0.0.1:{{listener.getsockname()[1]}}", Secret("x"), threads)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    wire.send(Call("/"), 30, CancelScope(SystemClock()))
except TooLarge:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("twice", [False, True])
def test_a_gzip_bomb_does_not_expand_in_memory(twice: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMB.format(twice=twice)], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 10 * 1024  # KiB: the limit of 2 MiB, and what it takes to hold it


def drip(start: bytes, byte: bytes) -> Answer:
    def dripping(connection: socket.socket, _: str) -> None:
        connection.sendall(start)
        for _ in range(200):
            connection.sendall(byte)
            time.sleep(0.05)

    return dripping


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drip(b"", b""),
    ],
    ids=["header", "continue", "body", "chunks", "silence"],
)
def test_the_timeout_is_for_the_whole_request(serve: Serve, connect: Connect, answer: Answer) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOut):
        connect(serve(answer).url, timeout=0.5).page(Query(), 1)
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("first", [1, 2], ids=["reused", "new"])
def test_a_request_given_up_ends_its_connection(serve: Serve, connect: Connect, first: int) -> None:
    ended = threading.Event()

    def answer(connection: socket.socket, path: str) -> None:
        if "&page=2&" not in path.replace("?", "&"):
            connection.sendall(reply(page_of(1)))
            return
        with suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.02)
        ended.set()

    server = serve(answer)
    students = connect(server.url, timeout=0.3)
    for number in range(first, 2):
        students.page(Query(), number)
    with pytest.raises(TimedOut):
        students.page(Query(), 2)
    assert ended.wait(2)
    assert len(server.connections) == 1
    assert students.page(Query(), 1) is not None


def test_a_tls_handshake_obeys_the_timeout_too(serve: Serve, connect: Connect) -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # accepts in the kernel, and never says a word
    started = time.monotonic()
    with listener, pytest.raises(TimedOut):
        connect(f"https://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5).page(Query(), 1)
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_stop_ends_requests_in_flight_at_once(serve: Serve, connect: Connect, concurrency: int) -> None:
    scope = CancelScope(SystemClock())
    students = connect(serve(drip(b"", b"")).url, scope, concurrency=concurrency, timeout=30)
    threading.Timer(0.3, scope.cancel, [15]).start()
    started = time.monotonic()
    with pytest.raises(Stopped) as caught:
        list(students.pages(Query(), [1, 2, 3]))
    assert caught.value.signal == 15
    assert time.monotonic() - started < 1.0


def test_a_stop_ends_a_look_up_that_hangs(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(10) and [])
    scope = CancelScope(SystemClock())
    threading.Timer(0.3, scope.cancel, [2]).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        connect("https://students.invalid", scope, timeout=30).page(Query(), 1)
    assert time.monotonic() - started < 1.0
    answered.set()


def test_a_request_that_hangs_does_not_keep_the_process_alive(serve: Serve) -> None:
    server = serve(drip(b"", b""))
    program = f"""
import threading
from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.managebac.wire.http import Call, RequestsWire
from rostersync.pool import DaemonExecutor
from rostersync.secret import Secret
wire = RequestsWire({server.url!r}, Secret("x"), DaemonExecutor("exchange"))
threading.Thread(target=wire.send, args=[Call("/"), 60, CancelScope(SystemClock())], daemon=True).start()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=10, env=os.environ)


# Students ----------------------------------------------------------------------------------------------------------


def by_path(answers: dict[str, bytes]) -> Answer:
    return lambda connection, path: connection.sendall(answers[path])


def test_one_student_is_there_or_gone_or_unclear(serve: Serve, connect: Connect) -> None:
    gone = b'{"error": "Record was not found"}'
    server = serve(
        by_path(
            {
                "/v2p1/students/1": reply(b'{"student": {"id": "1", "city": "Nowhereton"}}'),
                "/v2p1/students/2": reply(gone, "404 Not Found"),
                "/v2p1/students/3": reply(b"<html>404</html>", "404 Not Found"),
                "/v2p1/students/4": reply(b'{"student": {"id": 1}}'),
                "/v2p1/students/5": reply(b"", "500 Oops", "Connection: close"),
                "/v2p1/students/6": reply(b'{"student": {"city": "x"}}'),
                "/v2p1/students/7": reply(gone, "401 Unauthorized"),
                "/v2p1/students/8": reply(gone, "410 Gone"),
                "/v2p1/students/9": reply(b"", "410 Gone"),
                "/v2p1/students/10": reply(b'{"id": 10, "city": "Nowhereton"}'),
                "/v2p1/students/11": reply(b'{"id": 10, "city": "Nowhereton"}'),
            }
        )
    )
    students = connect(server.url, concurrency=3)
    answers = dict(students.answers(range(1, 12)))
    assert answers.pop(1) == Student(id=1, city="Nowhereton")
    assert answers.pop(10) == Student(id=10, city="Nowhereton")
    assert (answers.pop(2), answers.pop(8)) == (Gone(), Gone())
    assert {type(answer) for answer in answers.values()} == {Unclear}
    with pytest.raises(NotFound):
        students.get(3)
    with pytest.raises(Unauthorized):
        students.get(7)


def test_a_page_beyond_the_end_is_missing_but_the_first_page_cannot_be(serve: Serve, connect: Connect) -> None:
    server = serve(always(reply(b'{"error": "nothing"}', "404 Not Found")))
    assert connect(server.url).page(Query(), 2) is None
    with pytest.raises(NotFound) as caught:
        connect(server.url).page(Query(), 1)
    assert "api_version" in caught.value.hint
    empty = connect(serve(always(reply(page_of()))).url)
    assert empty.page(Query(), 2) is None
    first = empty.page(Query(), 1)
    assert first is not None
    assert first.rows == ()


def test_an_answer_that_is_malformed_once_is_asked_for_again(serve: Serve, connect: Connect) -> None:
    answers = iter([reply(page_of(1)[:-4]), reply(page_of(1))])
    students = connect(serve(lambda connection, _: connection.sendall(next(answers))).url, retries=1)
    assert students.page(Query(), 1) is not None
    assert (students.requests, students.retries) == (2, 1)


def test_pages_come_in_their_order_whatever_the_order_of_the_answers(serve: Serve, connect: Connect) -> None:
    def slower_at_first(connection: socket.socket, path: str) -> None:
        number = int(path.split("page=")[1].split("&", 1)[0])
        time.sleep(0.05 * (number % 4 == 1))
        connection.sendall(reply(page_of(number)))

    server = serve(slower_at_first)
    students = connect(server.url, concurrency=4)
    numbers = [page.rows[0].id for page in students.pages(Query(), range(1, 31)) if page]
    assert numbers == list(range(1, 31))
    assert 1 < len(server.connections) <= 4


def test_leaving_the_pages_early_ends_the_requests_in_flight(serve: Serve, connect: Connect) -> None:
    silent = threading.Event()

    def first_only(connection: socket.socket, path: str) -> None:
        if "&page=1&" in f"&{path.split('?')[1]}&":
            connection.sendall(reply(page_of(1)))
        elif connection.recv(1) == b"":
            silent.set()

    students = connect(serve(first_only).url, concurrency=4, timeout=30)
    pages = students.pages(Query(), range(1, 9))
    next(pages)
    pages.close()  # type: ignore[attr-defined]  # a generator, told to be an iterator
    assert silent.wait(1)


# A whole school ----------------------------------------------------------------------------------------------------


class Served:
    """A simulated school on a socket, and its students as this package reads them."""

    def __init__(self, connect: Connect, size: int = 250, *, retries: int = 3, **switches: Any) -> None:
        self.clock = SystemClock()
        self.school = School(7, size, self.clock, Switches(**switches))
        self.faults = Faults()
        self.server = Server(App(self.school, TOKEN, self.faults))
        self.students = connect(self.server.base_url, retries=retries, concurrency=3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def crawl(self) -> dict[int, Any]:
        first = self.students.page(Query(), 1)
        assert first is not None
        others = self.students.pages(Query(), first.others)
        return {row.id or 0: row for page in (first, *others) if page for row in page.rows}


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"gzip": True, "nulls": True, "status_key": True},
        {"ids_as_text": True, "offset": "-08:00", "grain_ms": 1},
        {"per_page_cap": 50, "order": "-updated_at", "meta_extra": True},
    ],
    ids=" ".join,
)
def test_a_school_is_read_as_it_is_served(connect: Connect, switches: dict[str, Any]) -> None:
    with Served(connect, **switches) as served:
        truth = {key: decode_student(record) for key, record in served.school.truth().items()}
        assert len(truth) == 250
        assert served.crawl() == truth
        some = sorted(truth)[::50]
        assert dict(served.students.answers(some)) == {key: truth[key] for key in some}


def test_the_deleted_are_gone(connect: Connect) -> None:
    with Served(connect, 20) as served:
        key = min(served.school.truth())
        served.school.delete(key)
        assert served.students.get(key) == Gone()
        feed = served.students.page(Query(deleted_since=datetime(2020, 1, 1, tzinfo=UTC)), 1)
        assert feed is not None
        assert key in {row.id for row in feed.rows}


@pytest.mark.parametrize(
    "fault",
    [
        faults.http_status(503),
        faults.rate_limited("text-utc", seconds=1),
        faults.rate_limited("missing"),
        faults.truncated_json(),
        faults.html_200(),
        faults.reset(),
    ],
)
def test_a_crawl_survives_what_passes_by_itself(connect: Connect, fault: faults.Fault) -> None:
    with Served(connect, size=350) as served:
        served.faults.add(fault, skip=2)
        assert served.crawl().keys() == served.school.truth().keys()
        assert served.students.retries == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.unauthorized(), Unauthorized),
        (faults.forbidden(), Forbidden),
        (faults.redirect("http://localhost:9/"), Redirected),
        (faults.gzip_bomb(), TooLarge),
        (faults.oversize(), TooLarge),
        (faults.deep_json(), Malformed),
        (faults.empty_list(), None),
        (faults.not_all_counts(), Malformed),
    ],
)
def test_a_crawl_ends_with_what_does_not_pass(
    connect: Connect, fault: faults.Fault, kind: type[ApiError] | None
) -> None:
    with Served(connect, 20, retries=0) as served:
        served.faults.add(fault)
        if kind is None:
            assert served.crawl() == {}  # told apart by whoever knows that there were students
            return
        with pytest.raises(kind):
            served.crawl()
