"""Send one HTTP request to the API's host and return the reply, within limits on time and size.

This module knows nothing about students, and never retries. It is the only module that passes the token to an HTTP
library.
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
from rostersync.errors import ApiError, ConfigError, Malformed, OutOfTime, Stopped, TimedOut, TooLarge, Unreachable
from rostersync.logger import get_logger
from rostersync.managebac.wire.connections import Adapter, Exchange
from rostersync.managebac.wire.network import proxies_for, tls_context
from rostersync.pool import wait_for
from rostersync.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor
    from datetime import datetime

    from rostersync.cancel import CancelScope

MAX_BYTES = 2 * 2**20
"""The most bytes of one response after decompression. A page of 200 students, v2p3's maximum, has about 250 kB.

The records of a response may take thirty times this memory while they are staged, and four responses may be in flight.
"""

MAX_ERROR_BYTES = 64 * 2**10
"""The most bytes that we read of an error response. The API's own errors are shorter."""

_CHUNK = 2**16

log = get_logger(__name__)

Auth = Literal["header", "parameter"]
"""How the token is sent: in the header `auth-token` ("header"), or in the query as `auth_token` ("parameter")."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": f"rostersync/{__version__}"}

ABSENT = frozenset({404, 410})
"""The statuses that may mean that something does not exist, or no longer exists."""

_READ = ABSENT | {200, 201, 400, 422}  # the bodies of other responses are not needed


@dataclass(frozen=True, slots=True)
class Call:
    """A request: the path from the root of the host, the parameters of the query in order, and the body of a write.

    Its `repr` shows neither the query nor the body, because they may name people.
    """

    path: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    method: str = "GET"
    body: bytes = field(default=b"", repr=False)
    content_type: str = ""

    @property
    def reads(self) -> bool:
        """Whether the request changes nothing. If so, it can always be sent again."""
        return self.method == "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to a call.

    `body` is decompressed. It is empty if the status alone is enough, and cut off if it is a long error. `sent_at` is
    the time (UTC) by our clock when the request was sent. `duration` is the seconds until the body was complete.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sent_at: datetime
    duration: float

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None. Upper and lower case do not matter."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


class Wire(Protocol):
    """The interface of what sends a call and returns the reply. Tests have their own implementation."""

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        """Send `call`, and return the reply with any status. The whole exchange may take `timeout` seconds.

        Raises `Unreachable`, `TimedOut`, `Malformed` (the body cannot be decompressed), `TooLarge` and `Stopped`. The
        attribute `sent` of an `ApiError` says whether any part of the request may have reached the server.
        """
        ...


class RequestsWire:
    """Sends calls to one host over HTTP, with the library `requests`. It keeps connections open.

    Any number of threads may use it at once. It does not follow redirects, keep cookies or read ~/.netrc, so it sends
    only this token, and only to `base_url`. `network.py` decides which environment variables matter. Between exchanges,
    only a `Secret` holds the token, so showing the attributes of this object does not reveal it.
    """

    def __init__(
        self,
        base_url: str,
        token: Secret,
        threads: Executor,
        *,
        auth: Auth = "header",
        max_bytes: int = MAX_BYTES,
        proxy_from_env: bool = False,
    ) -> None:
        """Prepare the wire. This sends nothing.

        Args:
            base_url: The scheme and host of the API.
            token: The API token.
            threads: The executor for the exchanges. Do not limit its threads, because an exchange may hang.
            auth: How to send the token. "header" is the default. With "parameter", no header contains it.
            max_bytes: The most bytes of a response after decompression. Default: `MAX_BYTES`.
            proxy_from_env: Whether to use the proxy that the environment names. Default: False.

        Raises:
            ConfigError: No HTTP header can contain the token, or the certificates cannot be read.

        """
        self._base = base_url.rstrip("/")
        self._host = urlsplit(self._base).netloc
        self._max_bytes = max_bytes
        _require_sendable(token)
        self._token = token
        self._in_header = auth == "header"
        self._parameter = None if self._in_header else Secret(urlencode({"auth_token": token.reveal()}))
        self._adapter = Adapter(tls_context() if self._base.startswith("https:") else None)
        self._proxies = proxies_for(self._base) if proxy_from_env else {}
        self._threads = threads

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        clock = scope.clock
        sent_at, started = clock.now(), clock.monotonic()
        exchange = Exchange(self._parameter)
        # We use another thread, because a DNS look-up cannot be interrupted. We can only stop waiting for it.
        future = self._threads.submit(self._exchange, exchange, call, timeout)
        try:
            wait_for([future], scope.child(seconds=timeout))
            status, headers, body = future.result()
        except OutOfTime:
            exchange.end()
            error = _too_late(self._host, timeout)
            error.sent = exchange.sent
            raise error from None
        except Stopped as stopped:
            exchange.end()
            stopped.in_doubt = exchange.sent and not call.reads
            raise
        except ApiError as error:
            error.sent = exchange.sent
            raise
        finally:
            exchange.end()
        return Reply(status, headers, body, sent_at, clock.monotonic() - started)

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def _exchange(self, exchange: Exchange, call: Call, timeout: float) -> tuple[int, Mapping[str, str], bytes]:
        """Carry out an exchange. Its errors do not refer to the library's error, or to frames with the request."""
        try:
            return self._carry_out(exchange, call, timeout)
        except TooLarge as error:
            failure: ApiError = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - the libraries let some errors pass that are not their own
            log.debug("exchange_failed", errors=[type(one).__name__ for one in _causes(error)])
            failure = _explained(error, self._host, timeout)
        raise failure  # outside of the `except` block, so that the library's error does not become its context

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
        """Return the headers with the token removed: a server may repeat it, and an error shows a redirect's host."""
        token = _token_pattern(self._token)
        return {name: token.sub("***", value) for name, value in response.headers.items()}

    def _body(self, response: requests.Response) -> bytes:
        """Return the decompressed body. For an error, return only its beginning, without the token.

        Raises `TooLarge` as soon as the body exceeds the limit, so that it does not fill the memory.
        """
        if response.status_code not in _READ:
            return b""
        is_error = response.status_code >= HTTPStatus.BAD_REQUEST
        body = bytearray()  # not a list of chunks, because a server may send a million small ones
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
    """Return a pattern that finds the token, even if its characters are escaped as in an address or in JSON."""
    characters = (rf"(?:\\?{re.escape(one)}|(?:%|\\u00){ord(one):02x})" for one in token.reveal())
    return re.compile("".join(characters), re.IGNORECASE)


def _require_sendable(token: Secret) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", token.reveal()):
        raise ConfigError(
            ["the API token is empty, or contains spaces or other characters that an HTTP header cannot carry"],
            "copy the token again from ManageBac: Settings > Develop > API Manager",
        )


def _explained(error: Exception, host: str, timeout: float) -> ApiError:
    """Return our error for a library's error. Its message does not require knowing the library."""
    failed = f"connection to {host} failed"
    if isinstance(error, NameResolutionError):
        return Unreachable(f"{failed} (DNS: no such name)", f"check base_url, and the DNS of this machine; {_PROXY}")
    timed_out = isinstance(error, (requests.Timeout, ReadTimeoutError, ConnectTimeoutError))
    if timed_out and not isinstance(error, NewConnectionError):  # a refused connection may be both
        return _too_late(host, timeout)
    if isinstance(error, (requests.exceptions.SSLError, SSLError)):
        hint = "check the date of this machine; behind an inspecting proxy set REQUESTS_CA_BUNDLE to its certificate"
        return Unreachable(f"{failed} (TLS)", hint)
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable(f"{failed} (proxy)", "check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, DecodeError):
        return Malformed(f"the answer of {host} cannot be decompressed")
    return Unreachable(
        f"{failed} ({_how_it_failed(error)})", f"check the network of this machine, and base_url; {_PROXY}"
    )


def _how_it_failed(error: Exception) -> str:
    """Return how a connection failed. The libraries wrap the system's error in their own errors."""
    for cause in _causes(error):
        if isinstance(cause, (IncompleteRead, RemoteDisconnected)):
            return "cut off"
        if isinstance(cause, OSError) and cause.errno:
            return _ENDINGS.get(cause.errno) or os.strerror(cause.errno).lower()
    return "cut off" if isinstance(error, ProtocolError) else "not valid HTTP"  # the body's errors are `ProtocolError`


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause or context, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_PROXY = "behind a proxy set network.proxy_from_env = true"

_ENDINGS = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EPIPE: "reset"}


def _too_late(host: str, timeout: float) -> TimedOut:
    return TimedOut(f"{host} did not answer in full within {timeout:.3g} s", "if it happens again, raise sync.timeout")
