"""Define `ManageBac`, the client for one school. Scripts, the command line and the sync all use this client."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from rostersync.address import Wrong, api_url
from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import ConfigError
from rostersync.managebac.endpoints import Endpoints
from rostersync.managebac.students import Students
from rostersync.managebac.wire.http import RequestsWire
from rostersync.managebac.wire.limits import HostLimiter
from rostersync.managebac.wire.ordered_map import OrderedMap
from rostersync.managebac.wire.transport import RetryPolicy, Transport
from rostersync.secret import Secret

if TYPE_CHECKING:
    import random
    from types import TracebackType

    from rostersync.managebac.wire.http import Auth, Wire


class ManageBac:
    """A client for the API of one school.

    Several threads may share a client. Close it after use, or use it in a `with` statement.

    ::

        with ManageBac("https://api.managebac.com", token=...) as api:
            for student in api.students.list(status="enrolled"):
                print(student.id, student.last_name)

    If a request fails for a reason that may be temporary, the client waits and repeats the request. Such reasons are a
    429, a 5xx, a broken connection, a timeout, and a response that is not in the API's format. Each further wait is
    longer on average. Writes are repeated only if that is safe, as `Students` explains. For an hour after a 429, the
    client sends requests at no more than 80 % of the rate limit in that response.

    The client prints nothing. It logs nothing unless the application configures the logger `rostersync`, and it never
    logs the token or personal data.
    """

    def __init__(
        self,
        base_url: str,
        token: str | Secret,
        *,
        api_version: str = "v2p1",
        auth: Auth = "header",
        timeout: float = 30.0,
        retries: int = 5,
        concurrency: int = 4,
        run_seconds: float = float("inf"),
        proxy_from_env: bool = False,
        scope: CancelScope | None = None,
        limiter: HostLimiter | None = None,
        wire: Wire | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Create a client. No request is sent yet.

        The last four parameters are for tests, and for programs that use several clients.

        Args:
            base_url: The address of the API in the school's region, such as "https://api.managebac.com". This is not
                the address at which users log in. An address with plain http is allowed only for this machine, because
                the token would be sent without encryption.
            token: The API token. An administrator creates it in ManageBac under Settings > Develop > API Manager.
            api_version: The version of the API, such as "v2p1" (the default) or "v2p3".
            auth: If this is "header", the token is sent in the header `auth-token`. If this is "parameter", the token
                is sent as the query parameter `auth_token`. Default: "header".
            timeout: The number of seconds that one request and its response may take, more than 0. Default: 30.
            retries: How many times a failed request may be repeated, at least 0. Default: 5.
            concurrency: How many requests may be in flight at once, at least 1. If you pass a `limiter`, this number
                applies only to the pages of one list, and the limiter applies to all requests together. Default: 4.
            run_seconds: All calls raise `OutOfTime` when this number of seconds has passed since the client was
                created. Default: no limit.
            proxy_from_env: Whether to use the proxy that environment variables define. The proxy is never used for
                loopback addresses. Default: False.
            scope: A scope that ends all calls of the client when the scope is cancelled. The client also uses the clock
                of this scope. Default: a scope that is never cancelled, with the clock of the machine.
            limiter: The rate limiter for the host. Clients of the same host should share one limiter. Default: a new
                limiter for this client.
            wire: An object that sends the requests, such as a replacement for the network in a test. `close` does not
                close this object. Default: an object that sends the requests over HTTP.
            rng: The random number generator that varies the waits between retries. Default: a new `random.Random`.

        Raises:
            ConfigError: One of the parameters is not valid, or the certificates to trust cannot be read.

        """
        if not isinstance(token, Secret):  # error trackers send local variables, so none may contain the token
            token = Secret(token if isinstance(token, str) else "")
        address = _address(base_url)
        _check_settings(api_version, auth, timeout=timeout, retries=retries, concurrency=concurrency)
        if not token.reveal():
            raise ConfigError(["token: found none; expected a string"])
        self._address, self._token = address, token
        scope = scope or CancelScope(SystemClock())
        self.scope = scope.child(seconds=run_seconds)
        """The scope of all calls. The deadline of this scope is `run_seconds` seconds after the client was created."""
        self._shares_limiter = limiter is not None
        self._limiter = limiter = limiter or HostLimiter(concurrency, scope.clock)
        self.ordered_map = OrderedMap(concurrency, limiter.pages)
        self._wire = wire or RequestsWire(address, token, limiter.exchanges, auth=auth, proxy_from_env=proxy_from_env)
        self._transport = Transport(
            self._wire,
            urlsplit(address).netloc,
            limiter,
            policy=RetryPolicy(timeout, retries),
            rng=rng,
        )
        self.endpoints = Endpoints(self._transport, api_version)
        self.students = Students(self.endpoints, self.ordered_map, self.scope)
        """The students of the school. This object has a method for each endpoint."""

    @property
    def requests(self) -> int:
        """The number of requests sent so far, including repeated requests."""
        return self._transport.counter.requests

    @property
    def retries(self) -> int:
        """The number of requests sent so far that repeated a failed request."""
        return self._transport.counter.retries

    def fingerprint(self, salt: bytes) -> bytes:
        """Return a digest of the client's address and token, which reveals neither of them.

        Two clients that have the same address and token also have the same digest.

        Args:
            salt: The key of the digest, at most 64 bytes. Digests can be compared only if they were made with the same
                salt.

        Returns:
            The digest, which has 16 bytes.

        """
        digest = hashlib.blake2b(digest_size=16, key=salt)
        digest.update(f"{self._address} {self._token.reveal()}".encode())
        return digest.digest()

    def close(self) -> None:
        """Close idle connections, and let the client's threads end. You may call this method twice.

        If a limiter was passed to the client, this does not close the limiter or end its threads.
        """
        if isinstance(self._wire, RequestsWire):
            self._wire.close()
        if not self._shares_limiter:
            self._limiter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _address(base_url: str) -> str:
    try:
        return api_url(base_url)
    except Wrong as wrong:
        raise ConfigError([f"base_url: {wrong}"]) from None


def _check_settings(api_version: str, auth: str, *, timeout: float, retries: int, concurrency: int) -> None:
    mistakes = []
    if not re.fullmatch(r"v\d+(p\d+)?", api_version):
        mistakes.append('api_version: expected a version such as "v2p1"')
    if auth not in {"header", "parameter"}:
        mistakes.append('auth: expected "header" or "parameter"')
    if not (isinstance(timeout, (int, float)) and timeout > 0):
        mistakes.append("timeout: expected a number of seconds above 0")
    if type(retries) is not int or retries < 0:
        mistakes.append("retries: expected a whole number from 0")
    if type(concurrency) is not int or concurrency < 1:
        mistakes.append("concurrency: expected a whole number from 1")
    if mistakes:
        raise ConfigError(mistakes)
