"""What can go wrong between a client and the API, ready to be played.

A fault is a function from an `Exchange` to a `Response`: it may answer by itself, or spoil the true answer, which
`exchange.proceed()` gives. A `Match` says which requests it befalls.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

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


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request on which a fault falls, the time that the response's `Date` will tell, and the true answer."""

    request: Request
    now: datetime
    proceed: Callable[[], Response]


Fault = Callable[[Exchange], Response]
Match = Callable[[Request], bool]


@dataclass(slots=True)
class _Planned:
    fault: Fault
    match: Match
    skip: int
    times: int | None


class Faults:
    """The faults that are still to come, the oldest first; at most one falls on a request. Safe between threads."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()
        self.fired = 0

    def add(self, fault: Fault, match: Match | None = None, *, times: int | None = 1, skip: int = 0) -> None:
        """Plan a fault for the next `times` matching requests (None: all), the first `skip` of them spared."""
        with self._lock:
            self._planned.append(_Planned(fault, match or (lambda _: True), skip, times))

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._planned.clear()

    @property
    def pending(self) -> int:
        """How many planned faults have not run out."""
        return len(self._planned)

    def take(self, request: Request) -> Fault | None:
        """Return the fault that falls on this request, and count it; None: it is answered truly."""
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
    """Match every request for a list."""
    return request.method == "GET" and request.path.rstrip("/").endswith("/students")


def on_roster(request: Request) -> bool:
    """Match the list without a since filter and without ids."""
    return on_list(request) and not any(_has(request, name) for name in ("modified_since", "deleted_since", "ids[]"))


def on_modified_feed(request: Request) -> bool:
    return on_list(request) and _has(request, "modified_since")


def on_deleted_feed(request: Request) -> bool:
    return on_list(request) and _has(request, "deleted_since")


def on_ids(request: Request) -> bool:
    """Match the list of named students."""
    return on_list(request) and _has(request, "ids[]")


def on_page(number: int) -> Match:
    """Match this page of any list."""
    return lambda request: on_list(request) and (request.first("page") or "1") == str(number)


def on_student(student_id: int | None = None) -> Match:
    """Match GET of this student; None: of any."""
    wanted = re.compile(rf".*/students/{'[^/]+' if student_id is None else student_id}")
    return lambda request: request.method == "GET" and wanted.fullmatch(request.path) is not None


def on_method(*methods: str, path_end: str = "") -> Match:
    """Match requests by one of these methods, and only where their path ends like this: `/archive`, `/students`."""
    return lambda request: request.method in methods and request.path.endswith(path_end)


def on_write(request: Request) -> bool:
    """Match every request that may change a student."""
    return request.method in {"POST", "PUT", "PATCH", "DELETE"}


def sometimes(rng: Random, share: float, match: Match | None = None) -> Match:
    """Match this share (0 to 1) of the requests that `match` matches."""
    return lambda request: (match is None or match(request)) and rng.random() < share


def _has(request: Request, name: str) -> bool:
    return request.first(name) is not None


# Answers of another status -----------------------------------------------------------------------------------------


def http_status(status: int, *, html: bool = True) -> Fault:
    """Answer with a gateway's page in HTML, or with an error in JSON."""
    if html:
        return lambda _: text_response(status, f"<html><body>Failure {status}</body></html>", _HTML)
    return lambda _: json_response(status, {"error": f"Failure {status}"})


def unauthorized() -> Fault:
    return lambda _: access_denied(401)


def forbidden() -> Fault:
    return lambda _: access_denied(403)


def not_found(*, html: bool = False) -> Fault:
    """Answer 404 as the API does, or as some proxy that knows no such path does."""
    if html:
        return http_status(404)
    return lambda _: no_record()


def redirect(to: str, status: int = 302) -> Fault:
    """Send the client to the address `to`."""
    return lambda _: text_response(status, "", _HTML, {"Location": to})


def rate_limited(style: ResetStyle = "text-utc", *, seconds: int = 2, limit: int = 50, period: int = 1) -> Fault:
    """Answer 429; the way tells how the time of the reset, `seconds` from now (or ago, below 0), is spelled."""

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


# Answers that are no answer, with status 200 -----------------------------------------------------------------------


def html_200() -> Fault:
    """Answer like a captive portal: 200 and HTML."""
    return lambda _: text_response(200, "<html><body>Please sign in</body></html>", _HTML)


def truncated_json() -> Fault:
    """Give half of the true answer, and call it whole."""

    def fault(exchange: Exchange) -> Response:
        true = exchange.proceed()
        return replace(true, body=true.body[: len(true.body) // 2])

    return fault


def deep_json(depth: int = 100_000) -> Fault:
    """Answer with arrays inside arrays, `depth` of them."""
    return lambda _: Response(200, {"Content-Type": JSON_TYPE}, b'{"students":' + b"[" * depth + b"]" * depth + b"}")


def oversize(size: int = 64 * _MEBIBYTE) -> Fault:
    """Answer with a page of `size` bytes: one student with a very long name."""
    return lambda _: Response(200, {"Content-Type": JSON_TYPE}, b'{"students":[{"nickname":"' + b"x" * size + b'"}]}')


def gzip_bomb(size: int = 256 * _MEBIBYTE) -> Fault:
    """Answer with a small body that unpacks to `size` bytes."""
    bomb = _packed_spaces(size)
    return lambda _: Response(200, {"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}, bomb)


def _packed_spaces(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * _MEBIBYTE
    parts = [packer.compress(block) for _ in range(size // _MEBIBYTE)]
    return b"".join([*parts, packer.compress(b" " * (size % _MEBIBYTE)), packer.flush()])


def empty_list() -> Fault:
    """Answer that there are no students."""
    meta = {"current_page": 1, "total_pages": 1, "total_count": 0, "per_page": 100}
    return lambda _: json_response(200, {"students": [], "meta": meta})


def not_all_counts() -> Fault:
    """Give the true `meta`, and no students beside it."""
    return _spoiled(lambda document: {**document, "students": []})


def malformed_meta(**values: Any) -> Fault:
    """Give the true answer with these values in `meta`: a text, null, a negative number."""
    return _spoiled(lambda document: {**document, "meta": {**document["meta"], **values}})


def without_meta(*keys: str) -> Fault:
    """Give the true answer without these keys of `meta`; without `meta` where none is named."""

    def spoil(document: dict[str, Any]) -> dict[str, Any]:
        if not keys:
            return {"students": document["students"]}
        return {**document, "meta": {key: value for key, value in document["meta"].items() if key not in keys}}

    return _spoiled(spoil)


def _spoiled(spoil: Callable[[dict[str, Any]], Any]) -> Fault:
    """Return the fault that spoils the true list; an answer that is no list stays as it is."""

    def fault(exchange: Exchange) -> Response:
        true = exchange.proceed()
        document = msgspec.json.decode(true.body) if true.status == 200 else {}  # noqa: PLR2004 - OK
        if "meta" not in document:
            return true
        return replace(true, body=msgspec.json.encode(spoil(document)))

    return fault


# True answers that do not arrive -----------------------------------------------------------------------------------


def cut_off(after: int = 10) -> Fault:
    """End the connection after so many bytes of the body, fewer than Content-Length promised."""
    return _delivered(Delivery(Manner.TRUNCATED, after=after))


def reset(after: int = 0) -> Fault:
    """Reset the connection after so many bytes of the body; 0: before the status line. A write has been carried out."""
    return _delivered(Delivery(Manner.RESET, after=after))


def unheard() -> Fault:
    """Reset the connection as `reset` does, but without carrying the request out."""
    return lambda _: Response(503, {}, b"", Delivery(Manner.RESET))


def slow_drip(seconds: float = 0.1, chunk: int = 1, *, with_headers: bool = False) -> Fault:
    """Deliver `chunk` bytes at a time with pauses of `seconds`: the body, or the whole answer."""
    return _delivered(Delivery(Manner.DRIP, chunk=chunk, seconds=seconds, with_headers=with_headers))


def delayed(seconds: float) -> Fault:
    """Deliver the whole answer after a pause."""
    return slow_drip(seconds, chunk=1 << 40, with_headers=True)


def never_answers() -> Fault:
    """Take the request, and say nothing until the client leaves."""
    return _delivered(Delivery(Manner.NEVER))


def _delivered(delivery: Delivery) -> Fault:
    return lambda exchange: replace(exchange.proceed(), delivery=delivery)
