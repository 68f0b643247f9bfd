"""Faults between a client and the API, which tests can simulate.

A fault is a function from an `Exchange` to a `Response`. A fault may return its own response, or call
`exchange.proceed()` and change the response that this returns. A `Match` is a function that returns whether a fault
affects a request.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from rostersync.simulator.messages import (
    JSON_TYPE,
    Delivery,
    Manner,
    Request,
    Response,
    json_response,
    text_response,
)
from rostersync.simulator.refusals import access_denied, no_record, spell_reset, too_many_requests

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

ResetStyle = Literal["text-utc", "iso", "epoch", "seconds", "retry-after", "retry-after-date", "missing", "garbage"]

_HTML = "text/html; charset=utf-8"
_MEBIBYTE = 1 << 20


class Exchange(msgspec.Struct, frozen=True):
    """A request that a fault affects, the time for the `Date` header, and a function for the normal response."""

    request: Request
    now: datetime
    proceed: Callable[[], Response]


Fault = Callable[[Exchange], Response]
Match = Callable[[Request], bool]


class _Planned(msgspec.Struct):
    fault: Fault
    match: Match
    skip: int
    times: int | None


class Faults:
    """The planned faults, oldest first. At most one fault affects a request.

    Several threads may use the object at once.
    """

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()
        self.fired = 0

    def add(self, fault: Fault, match: Match | None = None, *, times: int | None = 1, skip: int = 0) -> None:
        """Plan a fault.

        Args:
            fault: The fault to cause.
            match: A function that returns whether the fault affects a request. By default, the fault affects every
                request.
            times: How many matching requests the fault affects, 1 or more. None means all.
            skip: How many matching requests to answer normally before the first fault. The default is 0.

        """
        with self._lock:
            self._planned.append(_Planned(fault, match or (lambda _: True), skip, times))

    def clear(self) -> None:
        """Remove all planned faults."""
        with self._lock:
            self._planned.clear()

    @property
    def pending(self) -> int:
        """The number of planned faults that still affect requests."""
        return len(self._planned)

    def take(self, request: Request) -> Fault | None:
        """Return the fault that affects this request, and count it. Return None if no fault affects the request."""
        if not self._planned:
            return None
        with self._lock:
            for planned in self._planned:
                if planned.match(request):
                    if planned.skip:
                        planned.skip -= 1
                        continue
                    self._count(planned)
                    return planned.fault
        return None

    def _count(self, planned: _Planned) -> None:
        self.fired += 1
        if planned.times is not None:
            planned.times -= 1
            if not planned.times:
                self._planned.remove(planned)


# Which requests ----------------------------------------------------------------------------------------------------


def on_list(request: Request) -> bool:
    """Match every request for a list of students."""
    return request.method == "GET" and request.path.rstrip("/").endswith("/students")


def on_roster(request: Request) -> bool:
    """Match requests for a list without a since filter and without ids."""
    return on_list(request) and not any(_has(request, name) for name in ("modified_since", "deleted_since", "ids[]"))


def on_modified_feed(request: Request) -> bool:
    return on_list(request) and _has(request, "modified_since")


def on_deleted_feed(request: Request) -> bool:
    return on_list(request) and _has(request, "deleted_since")


def on_ids(request: Request) -> bool:
    """Match requests for a list of students by ids."""
    return on_list(request) and _has(request, "ids[]")


def on_page(number: int) -> Match:
    """Match requests for the page with this number (from 1) of any list."""
    return lambda request: on_list(request) and (request.first("page") or "1") == str(number)


def on_student(student_id: int | None = None) -> Match:
    """Match GET requests for this student, or for any single student if `student_id` is None."""
    wanted = re.compile(rf".*/students/{'[^/]+' if student_id is None else student_id}")
    return lambda request: request.method == "GET" and wanted.fullmatch(request.path) is not None


def on_method(*methods: str, path_end: str = "") -> Match:
    """Match requests that have one of these methods and a path that ends with `path_end`, for example `/archive`."""
    return lambda request: request.method in methods and request.path.endswith(path_end)


def on_write(request: Request) -> bool:
    """Match every request that may change a student."""
    return request.method in {"POST", "PUT", "PATCH", "DELETE"}


def sometimes(rng: Random, share: float, match: Match | None = None) -> Match:
    """Match a random share (0 to 1) of the requests that `match` matches, or of all requests."""
    return lambda request: (match is None or match(request)) and rng.random() < share


def _has(request: Request, name: str) -> bool:
    return request.first(name) is not None


# Responses with an error status ------------------------------------------------------------------------------------


def http_status(status: int, *, html: bool = True) -> Fault:
    """Respond with this status, and with an HTML page (as from a gateway) or a JSON error."""
    if html:
        return lambda _: text_response(status, f"<html><body>Failure {status}</body></html>", _HTML)
    return lambda _: json_response(status, {"error": f"Failure {status}"})


def unauthorized() -> Fault:
    return lambda _: access_denied(401)


def forbidden() -> Fault:
    return lambda _: access_denied(403)


def not_found(*, html: bool = False) -> Fault:
    """Respond with 404, and with the API's JSON error or an HTML page, as from a proxy that does not know the path."""
    if html:
        return http_status(404)
    return lambda _: no_record()


def redirect(to: str, status: int = 302) -> Fault:
    """Redirect the client to the address `to`."""
    return lambda _: text_response(status, "", _HTML, {"Location": to})


def rate_limited(style: ResetStyle = "text-utc", *, seconds: int = 2, limit: int = 50, period: int = 1) -> Fault:
    """Respond with 429, and with headers that contain the time when the limit is reset.

    Args:
        style: The format of the reset time in the headers. `missing` leaves the time out, and `garbage` is not a time.
        seconds: The time until the reset, in seconds. A negative number means that the reset has passed.
        limit: The number of requests that are allowed in a period.
        period: The length of a period, in seconds.

    """

    def fault(exchange: Exchange) -> Response:
        headers = _reset_headers(style, exchange.now, seconds)
        if style != "missing":
            headers |= {"X-RateLimit-Limit": str(limit), "X-RateLimit-Period": str(period)}
        return too_many_requests(headers)

    return fault


def _reset_headers(style: ResetStyle, now: datetime, seconds: int) -> dict[str, str]:
    reset = now.replace(microsecond=0) + timedelta(seconds=seconds)
    spellings = {
        "text-utc": spell_reset(reset),
        "iso": reset.isoformat().replace("+00:00", "Z"),
        "epoch": str(int(reset.timestamp())),
        "seconds": str(seconds),
        "garbage": "soon",
    }
    if style in spellings:
        return {"X-RateLimit-Reset": spellings[style]}
    if style == "retry-after":
        return {"Retry-After": str(seconds)}
    return {"Retry-After": format_datetime(reset, usegmt=True)} if style == "retry-after-date" else {}


# Wrong responses with status 200 -----------------------------------------------------------------------------------


def html_200() -> Fault:
    """Respond like a captive portal, with status 200 and HTML."""
    return lambda _: text_response(200, "<html><body>Please sign in</body></html>", _HTML)


def truncated_json() -> Fault:
    """Send the first half of the normal response, with a Content-Length that matches the half."""

    def fault(exchange: Exchange) -> Response:
        true = exchange.proceed()
        return replace(true, body=true.body[: len(true.body) // 2])

    return fault


def deep_json(depth: int = 100_000) -> Fault:
    """Respond with `depth` arrays, one inside the other."""
    return lambda _: Response(200, {"Content-Type": JSON_TYPE}, b'{"students":' + b"[" * depth + b"]" * depth + b"}")


def oversize(size: int = 64 * _MEBIBYTE) -> Fault:
    """Respond with a page of at least `size` bytes, which contains one student with a very long name."""
    return lambda _: Response(200, {"Content-Type": JSON_TYPE}, b'{"students":[{"nickname":"' + b"x" * size + b'"}]}')


def gzip_bomb(size: int = 256 * _MEBIBYTE) -> Fault:
    """Respond with a small compressed body that unpacks to `size` bytes."""
    bomb = _packed_spaces(size)
    return lambda _: Response(200, {"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}, bomb)


def _packed_spaces(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * _MEBIBYTE
    parts = [packer.compress(block) for _ in range(size // _MEBIBYTE)]
    return b"".join([*parts, packer.compress(b" " * (size % _MEBIBYTE)), packer.flush()])


def empty_list() -> Fault:
    """Respond with an empty list of students."""
    meta = {"current_page": 1, "total_pages": 1, "total_count": 0, "per_page": 100}
    return lambda _: json_response(200, {"students": [], "meta": meta})


def not_all_counts() -> Fault:
    """Send the normal `meta` with an empty list of students."""
    return _spoiled(lambda document: {**document, "students": []})


def malformed_meta(**values: Any) -> Fault:
    """Send the normal response, but with these values in `meta`, such as a string, null or a negative number."""
    return _spoiled(lambda document: {**document, "meta": {**document["meta"], **values}})


def without_meta(*keys: str) -> Fault:
    """Send the normal response without these keys of `meta`. If no key is given, leave out the whole `meta`."""

    def spoil(document: dict[str, Any]) -> dict[str, Any]:
        if not keys:
            return {"students": document["students"]}
        return {**document, "meta": {key: value for key, value in document["meta"].items() if key not in keys}}

    return _spoiled(spoil)


def _spoiled(spoil: Callable[[dict[str, Any]], Any]) -> Fault:
    """Return a fault that calls `spoil` to change the list in the normal response.

    A response without a list is not changed.
    """

    def fault(exchange: Exchange) -> Response:
        true = exchange.proceed()
        document = msgspec.json.decode(true.body) if true.status == 200 else {}  # noqa: PLR2004 - OK
        if "meta" not in document:
            return true
        return replace(true, body=msgspec.json.encode(spoil(document)))

    return fault


# Normal responses that arrive late, in part or not at all ----------------------------------------------------------


def cut_off(after: int = 10) -> Fault:
    """Close the connection after this many bytes of the body, although Content-Length announces more."""
    return _delivered(Delivery(Manner.TRUNCATED, after=after))


def reset(after: int = 0) -> Fault:
    """Reset the connection after this many bytes of the body. If `after` is 0, reset it before the status line.

    Before the reset, the server carries the request out, even if the request is a write.
    """
    return _delivered(Delivery(Manner.RESET, after=after))


def unheard() -> Fault:
    """Reset the connection, but do not carry the request out."""
    return lambda _: Response(503, {}, b"", Delivery(Manner.RESET))


def slow_drip(seconds: float = 0.1, chunk: int = 1, *, with_headers: bool = False) -> Fault:
    """Send `chunk` bytes at a time, with a pause of `seconds` before each chunk.

    Unless `with_headers` is true, send the headers at once.
    """
    return _delivered(Delivery(Manner.DRIP, chunk=chunk, seconds=seconds, with_headers=with_headers))


def delayed(seconds: float) -> Fault:
    """Send the whole response after a pause, in seconds."""
    return slow_drip(seconds, chunk=1 << 40, with_headers=True)


def never_answers() -> Fault:
    """Carry the request out, but send nothing until the client closes the connection."""
    return _delivered(Delivery(Manner.NEVER))


def _delivered(delivery: Delivery) -> Fault:
    return lambda exchange: replace(exchange.proceed(), delivery=delivery)
