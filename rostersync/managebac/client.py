"""The client: one school's ManageBac, for scripts, for the command line and for the sync."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from rostersync.address import Wrong, api_url
from rostersync.clock import SystemClock
from rostersync.errors import ConfigError
from rostersync.managebac.endpoints import Endpoints
from rostersync.managebac.limits import HostLimiter
from rostersync.managebac.ordered_map import OrderedMap
from rostersync.managebac.students import Students
from rostersync.managebac.transport import Deadline, RetryPolicy, Transport
from rostersync.managebac.wire import RequestsWire
from rostersync.secret import Secret

if TYPE_CHECKING:
    import random
    from types import TracebackType

    from rostersync.clock import Clock
    from rostersync.managebac.wire import Auth, Wire


class ManageBac:
    """The API of one school. May be shared by threads; close it, or use it in a `with`, when it is done.

    ::

        with ManageBac("https://api.managebac.com", token=...) as api:
            for student in api.students.list(status="enrolled"):
                print(student.id, student.last_name)

    Every call retries what may pass by itself (429, 5xx and broken connections, with growing waits), keeps to the rate
    that a 429 asks for, and has an end. Writes are the exception: see `Students`. Nothing is printed, and nothing
    logged unless the application configures the logger `rostersync`; the token and personal data never are.
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
        clock: Clock | None = None,
        limiter: HostLimiter | None = None,
        wire: Wire | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare the client; nothing is sent yet.

        `base_url` is the API's host in the school's region, such as https://api.managebac.com, and not the address at
        which people log in; plain http is for loopback only, since the token is sent there. `token` is made in
        ManageBac under Settings > Develop > API Manager. `timeout` (seconds) is for one request with its answer,
        `retries` for one request after its first failure, `concurrency` for the pages of a list in flight at once, and
        `run_seconds` for everything from now on.
        The token is sent in a header, or with `auth="parameter"` as a parameter of the address.
        With `proxy_from_env` the proxy that the environment names is used, except for loopback.

        The rest is for programs that hold several clients: a `limiter` that all clients of a host share, a `clock`, a
        `wire` in place of the network.

        Raises `ConfigError` for an address, a token, or certificates of the environment that cannot be used.
        """
        if not isinstance(token, Secret):  # from here on no local variable holds it, which an error tracker may send
            token = Secret(token if isinstance(token, str) else "")
        address = _address(base_url)
        _check_settings(api_version, auth, timeout=timeout, retries=retries, concurrency=concurrency)
        if not token.reveal():
            raise ConfigError(["token: found none; expected a text"])
        self._address, self._token = address, token
        clock = clock or SystemClock()
        self._shares_limiter = limiter is not None
        self._limiter = limiter = limiter or HostLimiter(concurrency, clock)
        self.ordered_map = OrderedMap(concurrency, clock, limiter.pages)
        clock = self.ordered_map.clock
        self._wire = wire or RequestsWire(
            address, token, clock, limiter.exchanges, auth=auth, proxy_from_env=proxy_from_env
        )
        self._transport = Transport(
            self._wire,
            urlsplit(address).netloc,
            limiter,
            Deadline(clock, run_seconds),
            policy=RetryPolicy(timeout, retries),
            rng=rng,
        )
        self.endpoints = Endpoints(self._transport, api_version)
        self.students = Students(self.endpoints, self.ordered_map)
        """The students of the school: all that can be done with them."""

    @property
    def requests(self) -> int:
        """The requests sent so far, repeated ones included."""
        return self._transport.counter.requests

    @property
    def retries(self) -> int:
        """Those of them that repeated another."""
        return self._transport.counter.retries

    def fingerprint(self, salt: bytes) -> bytes:
        """Return 16 bytes that differ between two schools, that is two addresses or tokens, and reveal neither."""
        digest = hashlib.blake2b(digest_size=16, key=salt)
        digest.update(f"{self._address} {self._token.reveal()}".encode())
        return digest.digest()

    def close(self) -> None:
        """Close idle connections and let the threads end. May be called twice."""
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
        mistakes.append("timeout: expected seconds, more than 0")
    if type(retries) is not int or retries < 0:
        mistakes.append("retries: expected a whole number from 0")
    if type(concurrency) is not int or concurrency < 1:
        mistakes.append("concurrency: expected a whole number from 1")
    if mistakes:
        raise ConfigError(mistakes)
