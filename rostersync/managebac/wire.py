"""One HTTP exchange: a call goes out, a reply comes back, limited in time and size, and to one host.

The wire knows nothing of students and retries nothing. It is the only place where the token meets an HTTP library.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlencode, urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from rostersync import __version__
from rostersync.errors import ApiError, ConfigError, Malformed, Stopped, TimedOut, TooLarge, Unreachable
from rostersync.logger import get_logger
from rostersync.managebac.connections import Adapter, Exchange
from rostersync.managebac.network import proxies_for, tls_context
from rostersync.pool import wait_for
from rostersync.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor
    from datetime import datetime

    from rostersync.clock import Clock

MAX_BYTES = 2 * 2**20
"""Bytes of one answer, decompressed: 200 students, the most that v2p3 puts on a page, have some 250 kB.

What an answer holds may take thirty times as much in memory while it is staged, and four answers are under way.
"""

MAX_ERROR_BYTES = 64 * 2**10
"""So much of an error is read; what is longer is none of the API's own."""

_CHUNK = 2**16

log = get_logger(__name__)

Auth = Literal["header", "parameter"]
"""How the token is sent: in the header `auth-token`, or in the query as `auth_token`."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": f"rostersync/{__version__}"}

ABSENT = frozenset({404, 410})
"""With these an API may say that there is nothing here, or no longer."""

_READ = ABSENT | {200, 201, 400, 422}  # of another answer the status is enough


@dataclass(frozen=True, slots=True)
class Call:
    """A request: a path from the root of the host, the pairs of the query in their order, and what a write sends.

    Its `repr` shows neither query nor body: they may name people.
    """

    path: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    method: str = "GET"
    body: bytes = field(default=b"", repr=False)
    content_type: str = ""

    @property
    def reads(self) -> bool:
        """Whether the request changes nothing, so that it may be sent again at will."""
        return self.method == "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `body` is decoded, empty for a status that says all there is to say, and cut off in a long error.

    `sent_at` is our clock (UTC) when the request was sent, `duration` the seconds until the body was complete.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sent_at: datetime
    duration: float

    def header(self, name: str) -> str | None:
        """Return the header of this name, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


class Wire(Protocol):
    """What carries a call to the API and its answer back."""

    def send(self, call: Call, timeout: float) -> Reply:
        """Return the answer to `call`, whatever its status, within `timeout` seconds for all of it.

        Raises `Unreachable`, `TimedOut`, `Malformed` (what came is not what was announced), `TooLarge`, `Stopped`. Of
        an error `sent` tells whether any of the request may have reached the server.
        """
        ...


class RequestsWire:
    """A wire to one host, with its connections kept open; any number of threads may send at once.

    Redirects are not followed, cookies not kept, ~/.netrc not read: the token is this wire's and goes to `base_url`
    only. What the environment may say of the way there is in `network.py`. Between exchanges only a `Secret` holds the
    token, so whoever shows the attributes of this object does not show it.
    """

    def __init__(
        self,
        base_url: str,
        token: Secret,
        clock: Clock,
        threads: Executor,
        *,
        auth: Auth = "header",
        max_bytes: int = MAX_BYTES,
        proxy_from_env: bool = False,
    ) -> None:
        """Prepare the wire; nothing is sent. `threads` do the exchanges: any number, for one may hang.

        With `auth` "parameter" the token is sent in the query, and in no header.

        Raises `ConfigError` for a token that no header can carry, and for certificates that cannot be read.
        """
        self._base = base_url.rstrip("/")
        self._host = urlsplit(self._base).netloc
        self._clock = clock
        self._max_bytes = max_bytes
        _require_sendable(token)
        self._token = token
        self._in_header = auth == "header"
        self._parameter = None if self._in_header else Secret(urlencode({"auth_token": token.reveal()}))
        self._adapter = Adapter(tls_context() if self._base.startswith("https:") else None)
        self._proxies = proxies_for(self._base) if proxy_from_env else {}
        self._threads = threads

    def send(self, call: Call, timeout: float) -> Reply:
        sent_at, started = self._clock.now(), self._clock.monotonic()
        exchange = Exchange(self._parameter)
        # In a thread of its own, because a DNS look-up cannot be interrupted, only left behind.
        future = self._threads.submit(self._exchange, exchange, call, timeout)
        try:
            in_time = wait_for([future], self._clock, started + timeout)
        except Stopped as stopped:
            exchange.end()
            stopped.in_doubt = exchange.sent and not call.reads
            raise
        finally:
            exchange.end()
        try:
            if not in_time:
                raise _too_late(self._host, timeout)
            status, headers, body = future.result()
        except ApiError as error:
            error.sent = exchange.sent
            raise
        return Reply(status, headers, body, sent_at, self._clock.monotonic() - started)

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def _exchange(self, exchange: Exchange, call: Call, timeout: float) -> tuple[int, Mapping[str, str], bytes]:
        """Carry out an exchange. Its errors hold neither a library's error nor the frames that held the request."""
        try:
            return self._carry_out(exchange, call, timeout)
        except TooLarge as error:
            failure: ApiError = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - the libraries raise more than their own, such as for a chunk's size
            log.debug("exchange_failed", errors=[type(one).__name__ for one in _causes(error)])
            failure = _explained(error, self._host, timeout)
        raise failure  # not in the `except`, where the library's error would become its context

    def _carry_out(self, exchange: Exchange, call: Call, timeout: float) -> tuple[int, Mapping[str, str], bytes]:
        request = requests.PreparedRequest()
        request.method = call.method
        request.headers = CaseInsensitiveDict(_HEADERS)
        if self._in_header:
            request.headers["auth-token"] = self._token.reveal()
        if not call.reads:
            request.body = call.body
            request.headers["Content-Length"] = str(len(call.body))
            if call.content_type:
                request.headers["Content-Type"] = call.content_type
        request.url = f"{self._base}{call.path}" + (f"?{urlencode(call.query)}" if call.query else "")
        with exchange:
            response = self._adapter.send(request, stream=True, timeout=timeout, proxies=self._proxies)
            with response:
                return response.status_code, self._headers(response), self._body(response)

    def _headers(self, response: requests.Response) -> Mapping[str, str]:
        """Return the headers without the token, should they repeat it: of a redirect's target the host is shown."""
        token = _token_pattern(self._token)
        return {name: token.sub("***", value) for name, value in response.headers.items()}

    def _body(self, response: requests.Response) -> bytes:
        """Return the decoded body, of an error only its beginning, and without the token.

        Raises `TooLarge` before more than the limit is in memory.
        """
        if response.status_code not in _READ:
            return b""
        is_error = response.status_code >= HTTPStatus.BAD_REQUEST
        body = bytearray()  # one for all: a server may send a million pieces
        for chunk in response.raw.stream(_CHUNK, decode_content=True):
            body += chunk
            if is_error and len(body) > MAX_ERROR_BYTES:
                break
            if len(body) > self._max_bytes:
                message = f"the answer of {self._host} is larger than {self._max_bytes:,} bytes"
                raise TooLarge(message, "choose a smaller sync.per_page")
        if not is_error:
            return bytes(body)
        return _token_pattern(self._token).sub("***", body[:MAX_ERROR_BYTES].decode("latin-1")).encode("latin-1")


def _token_pattern(token: Secret) -> re.Pattern[str]:
    """Return a pattern that finds the token, even if characters of it are escaped as in an address or in JSON."""
    characters = (rf"(?:\\?{re.escape(one)}|(?:%|\\u00){ord(one):02x})" for one in token.reveal())
    return re.compile("".join(characters), re.IGNORECASE)


def _require_sendable(token: Secret) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", token.reveal()):
        raise ConfigError(
            ["the API token is empty, or contains spaces or other characters that an HTTP header cannot carry"],
            "copy the token again from ManageBac: Settings > Develop > API Manager",
        )


def _explained(error: Exception, host: str, timeout: float) -> ApiError:
    """Return what a library's error means to people; they need not know the library."""
    failed = f"connection to {host} failed"
    if isinstance(error, NameResolutionError):
        return Unreachable(f"{failed} (DNS: no such name)", f"check base_url, and the DNS of this machine; {_PROXY}")
    timed_out = isinstance(error, (requests.Timeout, ReadTimeoutError, ConnectTimeoutError))
    if timed_out and not isinstance(error, NewConnectionError):  # a refusal, which the library counts among them
        return _too_late(host, timeout)
    if isinstance(error, (requests.exceptions.SSLError, SSLError)):
        hint = "check the date of this machine; behind an inspecting proxy set REQUESTS_CA_BUNDLE to its certificate"
        return Unreachable(f"{failed} (TLS)", hint)
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable(f"{failed} (proxy)", "check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, DecodeError):
        return Malformed(f"the answer of {host} is not compressed as it says")
    return Unreachable(
        f"{failed} ({_how_it_failed(error)})", f"check the network of this machine, and base_url; {_PROXY}"
    )


def _how_it_failed(error: Exception) -> str:
    """Return how a connection ended, from the system's own error, which the libraries wrap in theirs."""
    for cause in _causes(error):
        if isinstance(cause, (IncompleteRead, RemoteDisconnected)):
            return "cut off"
        if isinstance(cause, OSError) and cause.errno:
            return _ENDINGS.get(cause.errno) or os.strerror(cause.errno).lower()
    return "cut off" if isinstance(error, ProtocolError) else "not valid HTTP"  # the former while the body is read


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the one that it came of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_PROXY = "behind a proxy set network.proxy_from_env = true"

_ENDINGS = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EPIPE: "reset"}


def _too_late(host: str, timeout: float) -> TimedOut:
    return TimedOut(f"{host} did not answer in full within {timeout:.3g} s", "if it happens again, raise sync.timeout")
