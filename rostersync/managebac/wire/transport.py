"""Send a call, repeat it if that is safe and may help, and turn failed responses into errors.

The module `http` sends a single request, and the module `limits` decides when a request may start.
"""

from __future__ import annotations

import random
import re
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec

from rostersync.errors import (
    TRY_AGAIN_LATER,
    ApiError,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Redirected,
    Refused,
    ServerFailed,
    TooLarge,
    Unauthorized,
)
from rostersync.logger import get_logger
from rostersync.managebac.decoding.answers import field_messages
from rostersync.managebac.wire.http import ABSENT
from rostersync.managebac.wire.limits import advised_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.cancel import CancelScope
    from rostersync.managebac.wire.http import Call, Reply, Wire
    from rostersync.managebac.wire.limits import HostLimiter

T = TypeVar("T")

_LONGEST_BACKOFF = 60.0  # seconds

# Only these parameters of a query are logged. Other parameters may contain the name of a person, or may be long.
_LOGGED = ("page", "per_page", "modified_since", "deleted_since")

_DONE = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT})
_INVALID = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})

log = get_logger(__name__)


class RetryPolicy(msgspec.Struct, frozen=True):
    """Defines how long to wait for a response, and how many times to repeat a request.

    `timeout` is the number of seconds that one request may take, including the body of its response. `retries` is the
    maximum number of times that one request may be repeated.
    """

    timeout: float = 30.0
    retries: int = 5


class RequestCounter:
    """Counts the requests and retries of a client. Several threads may use a counter at once."""

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self._lock = threading.Lock()

    def count_request(self, *, repeated: bool) -> None:
        with self._lock:
            self.requests += 1
            self.retries += repeated


class Transport:
    """Sends calls to one host within its limits, and repeats failed calls.

    Several threads may use a transport at once.
    """

    def __init__(
        self,
        wire: Wire,
        host: str,
        limiter: HostLimiter,
        *,
        policy: RetryPolicy,
        rng: random.Random | None = None,
    ) -> None:
        self.counter = RequestCounter()
        self._wire = wire
        self._host = host
        self._limiter = limiter
        self._policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - used only to vary the waits, not for secrets

    def request(self, call: Call, read: Callable[[Reply], T], scope: CancelScope, *, absent_ok: bool = False) -> T:
        """Send `call`, pass the response to `read`, and return the result of `read`.

        The call is repeated if it fails for a reason that may be temporary. If `read` raises `Malformed`, this also
        counts as such a reason. A write is repeated only if the server has certainly not carried it out, because no
        part of the write was sent or the response was a 429.

        The attribute `worth_retrying` of an error's class says whether the reason may be temporary (see `errors`). A
        429 does not wait here: the limiter lets all callers of the host wait.

        Args:
            call: The request to send.
            read: A function that reads a successful response (200, 201 or 204).
            scope: A scope that ends the attempts and the waits between them.
            absent_ok: Whether `read` also accepts a 404 or 410. Default: False, which means that a 404 or 410 is an
                error.

        Raises:
            OutcomeUnknown: A write failed, but the server may have carried it out.
            OutOfTime: The scope's deadline has passed, or would pass during the wait before a retry.
            ApiError: The last attempt failed with this error.
            Stopped: The scope was cancelled.

        """
        attempt = 0
        while True:
            try:
                return self._try(call, read, scope, attempt, absent_ok=absent_ok)
            except ApiError as error:
                error.request = str(call)
                if _leaves_doubt(call, error):
                    raise _outcome_unknown(call, error, self._host) from error
                if not error.worth_retrying or attempt >= self._policy.retries:
                    raise
                if not isinstance(error, RateLimited):  # after a 429, the limiter makes all callers wait
                    scope.sleep(self._backoff(attempt))
            attempt += 1

    def _try(self, call: Call, read: Callable[[Reply], T], scope: CancelScope, attempt: int, *, absent_ok: bool) -> T:
        with self._limiter.slot(scope):
            timeout = min(self._policy.timeout, scope.remaining())
            self.counter.count_request(repeated=attempt > 0)
            reply = self._wire.send(call, timeout, scope)
        _log(call, reply)
        if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._ease_off(reply, attempt)
        if reply.status in _DONE or (reply.status in ABSENT and absent_ok):
            return self._read(call, reply, read)
        raise refusal(reply, self._host, call)

    def _read(self, call: Call, reply: Reply, read: Callable[[Reply], T]) -> T:
        try:
            return read(reply)
        except Malformed as error:
            page = dict(call.query).get("page")
            where = f"{self._host}{call.path}" + (f", page {page}" if page else "")
            if reply.body.lstrip()[:1] == b"<":
                hint = "check base_url; a proxy or a maintenance page may have answered instead"
                raise Malformed(f"{where}: a web page instead of data", hint) from error
            raise Malformed(f"{where}: {error.message}", error.hint or TRY_AGAIN_LATER) from error

    def _ease_off(self, reply: Reply, attempt: int) -> None:
        """Make all callers of this host wait as long as the 429 response asks, and then limit their rate."""
        self._limiter.slow_down(reply.header("X-RateLimit-Limit"), reply.header("X-RateLimit-Period"))
        advice = advised_wait(reply)
        self._limiter.pause(self._backoff(attempt) if advice is None else advice + self._rng.uniform(0.1, 1.0))

    def _backoff(self, attempt: int) -> float:
        """Return a random number of seconds to wait, so that clients do not retry at the same time.

        The maximum is 1 second for the first retry, then 2, 4, and so on, up to `_LONGEST_BACKOFF`.
        """
        return self._rng.uniform(0, min(_LONGEST_BACKOFF, 2.0**attempt))


def refusal(reply: Reply, host: str, call: Call) -> ApiError:
    """Return the error for a reply with a failure status.

    The message of the error does not repeat the API's own message, which may contain names of people.
    """
    error = _refusal(reply, host, call)
    error.status = reply.status
    return error


def _refusal(reply: Reply, host: str, call: Call) -> ApiError:
    status, path = reply.status, call.path
    if status in _REFUSALS:
        kind, message, hint = _REFUSALS[status]
        return kind(f"{host} {message.format(verb='read' if call.reads else 'change')} ({status} for {path})", hint)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerFailed(f"{host} is unavailable ({status} for {path})", TRY_AGAIN_LATER)
    if status in _INVALID and not call.reads:
        fields = field_messages(reply.body)
        which = ", ".join(name for name in fields if name != "base") or "the request"
        return Invalid(f"{host} does not accept {which} ({status} for {path})", fields=fields)
    if status >= HTTPStatus.BAD_REQUEST:
        return Refused(f"{host} does not accept the request ({status} for {path})", "check api_version and the filters")
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        return Redirected(
            f"{host} redirects to {_target(reply, host)} ({status}), which must not get the token",
            "if that is the API host of your region, set base_url to it",
        )
    return Malformed(f"{host} answered with an unexpected status ({status} for {path})")


def _leaves_doubt(call: Call, error: ApiError) -> bool:
    """Return whether the server may have carried out a write although this error was raised."""
    if call.reads or not error.sent or isinstance(error, RateLimited):
        return False
    return error.worth_retrying or isinstance(error, TooLarge)


def _outcome_unknown(call: Call, error: ApiError, host: str) -> OutcomeUnknown:
    message = f"{host} may or may not have carried out {call}: {error.message}"
    unknown = OutcomeUnknown(message, "look at the student before you try again", status=error.status)
    unknown.request = str(call)
    return unknown


def _target(reply: Reply, host: str) -> str:
    """Return the host of a redirect's target, or "another address" if the host is missing or is not safe to show."""
    try:
        target = urlsplit(urljoin(f"https://{host}/", reply.header("Location") or "")).hostname or ""
    except ValueError:
        target = ""
    return target if re.fullmatch(r"[a-z0-9.:-]{1,253}", target) else "another address"


def _log(call: Call, reply: Reply) -> None:
    asked = {key: value for key, value in call.query if key in _LOGGED}
    ms = round(reply.duration * 1000)
    log.debug("request", method=call.method, path=call.path, **asked, status=reply.status, bytes=len(reply.body), ms=ms)


_REFUSALS: dict[int, tuple[type[ApiError], str, str]] = {
    401: (
        Unauthorized,
        "rejected the token",
        (
            "create a new token in ManageBac (Settings > Develop > API Manager), and store it where the configuration "
            "expects it; if rostersync runs as a service, then run: systemctl reload rostersync"
        ),
    ),
    403: (
        Forbidden,
        "does not let this token {verb} students",
        "give the token the permission in ManageBac (Settings > Develop > API Manager)",
    ),
    404: (NotFound, "has nothing at this address", "check base_url (each region has its own) and api_version"),
    429: (
        RateLimited,
        "keeps rate-limiting us",
        "choose a longer schedule.incremental, or find out which other programs at this IP address use the API",
    ),
}
