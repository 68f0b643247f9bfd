"""Send one HTTP request to the API's host and return the reply, within limits on time and size.

This module has no knowledge of students, and never repeats a request. No other module passes the token to an HTTP
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
"""The maximum size of a response after decompression, in bytes. A page of 200 students has about 250 kB.

The maximum of v2p3 is 200 students on a page. The records of a response may take thirty times as much memory while they
are staged, and four responses may be in flight at once.
"""

MAX_ERROR_BYTES = 64 * 2**10
"""The maximum number of bytes that we read from an error response. The API's own error responses are shorter."""

_CHUNK = 2**16

log = get_logger(__name__)

Auth = Literal["header", "parameter"]
"""The ways to send the token: "header" means in the header `auth-token`, "parameter" in the query as `auth_token`."""

JSON_TYPE = "application/json"

_HEADERS = {"Accept": JSON_TYPE, "Accept-Encoding": "gzip", "User-Agent": f"rostersync/{__version__}"}

ABSENT = frozenset({404, 410})
"""The statuses that may mean that something does not exist, or no longer exists."""

_READ = ABSENT | {200, 201, 400, 422}  # we do not need the bodies of other responses


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the API.

    `path` is the path from the root of the host. `query` contains the parameters of the query in order. `body` is the
    body of a write. The `repr` of a call contains neither the query nor the body, because both may contain names of
    people.
    """

    path: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    method: str = "GET"
    body: bytes = field(default=b"", repr=False)
    content_type: str = ""

    @property
    def reads(self) -> bool:
        """Whether the request only reads data, which means that the request can always be repeated."""
        return self.method == "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to a call.

    `body` is decompressed. It is empty if only the status matters, and is cut off if it is a long error message.
    `sent_at` is the time in UTC, by our clock, when the request was sent. `duration` is the number of seconds from then
    until the body was complete.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sent_at: datetime
    duration: float

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None if the header is missing. The name may be in upper or lower case."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


class Wire(Protocol):
    """The interface of a class that sends a call and returns the reply. Tests use their own implementation."""

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        """Send `call`, and return the reply, which may have any status.

        The whole exchange may take at most `timeout` seconds. Raises `Unreachable`, `TimedOut`, `TooLarge`, `Stopped`,
        and `Malformed` if the body cannot be decompressed. If an `ApiError` is raised, its attribute `sent` says
        whether any part of the request may have reached the server.
        """
        ...


class RequestsWire:
    """Sends calls to one host over HTTP with the library `requests`, and keeps connections open for later calls.

    Any number of threads may use this object at once. It does not follow redirects, keep cookies or read ~/.netrc. So
    it sends no other credentials than the token, and sends the token only to `base_url`. The module `network` decides
    which environment variables matter. Between exchanges, only a `Secret` contains the token, so printing the
    attributes of this object does not reveal the token.
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
        """Create the object. No request is sent yet.

        Args:
            base_url: The scheme and the host of the API, such as "https://api.managebac.com".
            token: The API token.
            threads: The executor that runs the exchanges. It must not limit the number of its threads, because an
                exchange may hang.
            auth: How to send the token, in the header or as a parameter of the query. Default: "header".
            max_bytes: The maximum size of a response after decompression, in bytes. Default: `MAX_BYTES`.
            proxy_from_env: Whether to use the proxy that environment variables define. Default: False.

        Raises:
            ConfigError: The token cannot be sent in an HTTP header, or the certificates cannot be read.

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
        # The exchange runs in another thread, because a DNS look-up cannot be interrupted. We can only stop waiting.
        future = self._threads.submit(self._exchange, exchange, call, timeout)
        try:
            wait_for([future], scope.child(seconds=timeout))
            status, headers, body = future.result()
        except OutOfTime:
            exchange.end()  # before we read `sent`, because nothing is sent after that
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
        """Carry out an exchange. If it fails, raise one of our own errors.

        Our error has no reference to the library's error or to its stack frames, because they may contain the request.
        """
        try:
            return self._carry_out(exchange, call, timeout)
        except TooLarge as error:
            failure: ApiError = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - the libraries also raise errors of other classes
            log.debug("exchange_failed", errors=[type(one).__name__ for one in _causes(error)])
            failure = _explained(error, self._host, timeout)
        raise failure  # outside of the `except` block, so that the context of our error is not the library's error

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
        """Return the headers with the token replaced by `***`.

        A server may repeat the token in a header, and one of our error messages contains the host from such a header.
        """
        token = _token_pattern(self._token)
        return {name: token.sub("***", value) for name, value in response.headers.items()}

    def _body(self, response: requests.Response) -> bytes:
        """Return the decompressed body. For an error, return only the beginning of the body, without the token.

        Raises `TooLarge` as soon as the body exceeds the limit, so that a large body cannot fill the memory.
        """
        if response.status_code not in _READ:
            return b""
        is_error = response.status_code >= HTTPStatus.BAD_REQUEST
        body = bytearray()  # we do not keep a list of chunks, because a server may send a million small chunks
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
    """Return a pattern that finds the token, even if characters are escaped as in an address or in JSON."""
    characters = (rf"(?:\\?{re.escape(one)}|(?:%|\\u00){ord(one):02x})" for one in token.reveal())
    return re.compile("".join(characters), re.IGNORECASE)


def _require_sendable(token: Secret) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", token.reveal()):
        raise ConfigError(
            ["the API token is empty, or contains spaces or other characters that are not allowed in an HTTP header"],
            "copy the token again from ManageBac: Settings > Develop > API Manager",
        )


def _explained(error: Exception, host: str, timeout: float) -> ApiError:
    """Return our error for an error from a library. The message can be understood without knowing the library."""
    failed = f"connection to {host} failed"
    if isinstance(error, NameResolutionError):
        return Unreachable(f"{failed} (DNS: no such name)", f"check base_url, and the DNS of this machine; {_PROXY}")
    timed_out = isinstance(error, (requests.Timeout, ReadTimeoutError, ConnectTimeoutError))
    if timed_out and not isinstance(error, NewConnectionError):  # if a connection is refused, the error may be both
        return _too_late(host, timeout)
    if isinstance(error, (requests.exceptions.SSLError, SSLError)):
        hint = "check the date of this machine; if a proxy inspects TLS, set REQUESTS_CA_BUNDLE to its certificate"
        return Unreachable(f"{failed} (TLS)", hint)
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable(f"{failed} (proxy)", "check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, DecodeError):
        return Malformed(f"the answer of {host} cannot be decompressed")
    return Unreachable(
        f"{failed} ({_how_it_failed(error)})", f"check the network of this machine, and base_url; {_PROXY}"
    )


def _how_it_failed(error: Exception) -> str:
    """Return a short description of how a connection failed.

    The libraries wrap the system's error in their own errors, so we look for the system's error among the causes.
    """
    for cause in _causes(error):
        if isinstance(cause, (IncompleteRead, RemoteDisconnected)):
            return "cut off"
        if isinstance(cause, OSError) and cause.errno:
            return _ENDINGS.get(cause.errno) or os.strerror(cause.errno).lower()
    return "cut off" if isinstance(error, ProtocolError) else "not valid HTTP"  # `ProtocolError` concerns the body


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then the cause or context of this error, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_PROXY = "if this machine needs a proxy, set network.proxy_from_env = true"

_ENDINGS = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EPIPE: "reset"}


def _too_late(host: str, timeout: float) -> TimedOut:
    return TimedOut(f"{host} did not answer in full within {timeout:.3g} s", "if it happens again, raise sync.timeout")
