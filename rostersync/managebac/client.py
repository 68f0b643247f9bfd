"""Define `ManageBac`, the client of one school. Scripts, the command line and the sync all use it."""

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
    """The API of one school.

    Several threads may share a client. Close it after use, or use it in a `with` statement.

    ::

        with ManageBac("https://api.managebac.com", token=...) as api:
            for student in api.students.list(status="enrolled"):
                print(student.id, student.last_name)

    A request is repeated, after growing waits, if it fails in a way that may be temporary: with a 429, a 5xx, a broken
    connection, a timeout, or a response that is not the API's. Writes are repeated only if that is safe: see
    `Students`. After a 429, the client slows down to 80 % of the rate that the response named.

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
        """Create a client. This sends nothing.

        The last four parameters are for programs that have several clients, and for tests.

        Args:
            base_url: The API's host in the school's region, such as "https://api.managebac.com". This is not the
                address at which people log in. Plain http is allowed for this machine only, because the token is sent.
            token: The API token. An administrator creates it in ManageBac under Settings > Develop > API Manager.
            api_version: The version of the API, such as "v2p1" (the default) or "v2p3".
            auth: How the token is sent: in the header `auth-token` ("header", the default), or in the query as
                `auth_token` ("parameter").
            timeout: The seconds that one request may take, including its response; more than 0. Default: 30.
            retries: How often one request may be repeated after it fails, from 0. Default: 5.
            concurrency: How many requests may be in flight at once, from 1. With a `limiter`, this is the number for
                one list, and the limiter limits all requests. Default: 4.
            run_seconds: The seconds from now after which all calls raise `OutOfTime`. Default: no limit.
            proxy_from_env: Whether to use the proxy that the environment names. It is never used for loopback
                addresses. Default: False.
            scope: Ends all calls when it is cancelled, and has the client's clock. Default: a scope that nothing
                cancels, with the machine's clocks.
            limiter: The limiter of the host. Clients of the same host should share one. Default: one for this client.
            wire: What sends requests in place of the network. `close` does not close it. Default: HTTP.
            rng: The source of randomness for the waits between retries. Default: a new `random.Random`.

        Raises:
            ConfigError: The address, the token or another parameter cannot be used, or the certificates that the
                environment names cannot be read.

        """
        if not isinstance(token, Secret):  # from here on, no local variable has the token: error trackers send them
            token = Secret(token if isinstance(token, str) else "")
        address = _address(base_url)
        _check_settings(api_version, auth, timeout=timeout, retries=retries, concurrency=concurrency)
        if not token.reveal():
            raise ConfigError(["token: found none; expected a string"])
        self._address, self._token = address, token
        scope = scope or CancelScope(SystemClock())
        self.scope = scope.child(seconds=run_seconds)
        """Ends the calls. Its deadline is `run_seconds` after the client was made."""
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
        """The students of the school, with a method for each endpoint."""

    @property
    def requests(self) -> int:
        """The number of requests sent so far, including repeated ones."""
        return self._transport.counter.requests

    @property
    def retries(self) -> int:
        """The number of requests sent so far that repeated another request."""
        return self._transport.counter.retries

    def fingerprint(self, salt: bytes) -> bytes:
        """Return a digest that shows whether two clients have the same address and token. It reveals neither.

        Args:
            salt: The key of the digest, at most 64 bytes. Only digests with the same salt can be compared.

        Returns:
            16 bytes.

        """
        digest = hashlib.blake2b(digest_size=16, key=salt)
        digest.update(f"{self._address} {self._token.reveal()}".encode())
        return digest.digest()

    def close(self) -> None:
        """Close idle connections and let the client's threads end. May be called twice.

        A limiter that was passed in, and its threads, are not closed.
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
