"""The API itself: a request goes in, a response comes out. No socket is needed."""

from __future__ import annotations

import gzip
import hmac
import re
from collections import deque
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.simulator.faults import Exchange, Faults
from rostersync.simulator.listing import BadTimestamp, Filters, cut, read_filters, select, shows_deleted
from rostersync.simulator.messages import JSON_TYPE, Request, Response, json_response
from rostersync.simulator.versions import Version, render, render_deleted, render_stub, spell

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rostersync.simulator.listing import Cut
    from rostersync.simulator.state import School

_PATH = re.compile(r"/(?P<version>v\w+)/students(?:/(?P<id>[^/]+))?/?")
_REMEMBERED_REQUESTS = 100_000
_REMEMBERED_LISTS = 16
_WORTH_COMPRESSING = 256


class App:
    """The reading half of the students' API over a school, for one token.

    `on_request` is called before each request is answered, outside every lock, in the thread that serves it: there a
    test changes the school between any two requests. `log` holds method, path and query of the latest requests.
    """

    def __init__(
        self,
        school: School,
        token: str,
        faults: Faults | None = None,
        on_request: Callable[[Request], None] | None = None,
    ) -> None:
        self.school = school
        self.faults = faults if faults is not None else Faults()
        self.on_request = on_request
        self.log: deque[tuple[str, str, list[tuple[str, str]]]] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._token = token.encode()
        self._lists: dict[Filters, list[Version]] = {}
        self._generation = -1

    def handle(self, request: Request) -> Response:
        """Answer one request; a fault that matches decides what becomes of the answer. Raises nothing of its own."""
        if self.on_request is not None:
            self.on_request(request)
        self.log.append((request.method, request.path, request.query))
        fault = self.faults.take(request)
        if fault is None:
            return self._dated(self._answer(request))
        exchange = Exchange(request, self._date(), lambda: self._answer(request))
        return self._dated(fault(exchange))

    def _answer(self, request: Request) -> Response:
        with self.school.lock:
            response = self._route(request)
        accepts = "gzip" in request.headers.get("accept-encoding", "")
        if self.school.switches.gzip and accepts and len(response.body) >= _WORTH_COMPRESSING:
            headers = {**response.headers, "Content-Encoding": "gzip"}
            return Response(response.status, headers, gzip.compress(response.body, 1, mtime=0))
        return response

    def _route(self, request: Request) -> Response:
        match = _PATH.fullmatch(request.path)
        if match is None or match["version"] not in self.school.switches.versions:
            return json_response(404, {"error": "Not Found"})
        if request.method != "GET":
            return json_response(405, {"error": "Method Not Allowed"}, {"Allow": "GET"})
        if not self._admits(request):
            return json_response(401, {"error": "Access Denied"})
        return self._list(request, match["version"]) if match["id"] is None else self._get(match["id"])

    def _admits(self, request: Request) -> bool:
        bearer = request.headers.get("authorization", "")
        shown = (
            request.headers.get("auth-token"),
            request.first("auth_token"),
            bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else None,
        )
        return any(token is not None and hmac.compare_digest(token.encode(), self._token) for token in shown)

    # GET /students/{id} ------------------------------------------------------------------------------------------

    def _get(self, text: str) -> Response:
        school = self.school
        known = text.isascii() and text.isdecimal()
        version = school.version(int(text), school.moment_of_reading()) if known else None
        if version is None or version.traceless:
            return _no_record()
        if version.living:
            return _student(render(version, school.switches))
        if school.switches.deleted_get == "record":
            return _student(render_deleted(version, school.switches))
        return _no_record()

    # GET /students -----------------------------------------------------------------------------------------------

    def _list(self, request: Request, version: str) -> Response:
        switches = self.school.switches
        try:
            filters = read_filters(request, version, switches)
        except BadTimestamp as error:
            return json_response(400, {"error": str(error)})
        page = cut(self._rows(filters), request, switches)
        if page.missing:
            return _no_record()
        records = b",".join([self._spelling(row, filters) for row in page.rows])
        meta = msgspec.json.encode(self._meta(page, filters))
        return Response(200, {"Content-Type": JSON_TYPE}, b'{"students":[' + records + b'],"meta":' + meta + b"}")

    def _rows(self, filters: Filters) -> list[Version]:
        school = self.school
        moment = school.moment_of_reading()
        if moment is not None:  # what is seen changes with time: nothing to remember
            rows = select(school.versions(moment), filters, school.switches)
        else:
            rows = self._remembered(filters)
        if school.switches.order == "random":
            return school.rng.sample(rows, len(rows))
        return rows

    def _remembered(self, filters: Filters) -> list[Version]:
        """Return the rows for these filters, chosen once for as long as the school stays as it is."""
        school = self.school
        if self._generation != school.generation or len(self._lists) >= _REMEMBERED_LISTS:
            self._lists.clear()
            self._generation = school.generation
        if filters not in self._lists:
            self._lists[filters] = select(school.versions(), filters, school.switches)
        return self._lists[filters]

    def _spelling(self, version: Version, filters: Filters) -> bytes:
        switches = self.school.switches
        if version.living:
            return render(version, switches)
        if not shows_deleted(filters, switches) or switches.deleted_feed == "full_deleted_at":
            return render_deleted(version, switches)
        return render_stub(version, switches) if switches.deleted_feed == "stub" else render(version, switches)

    def _meta(self, page: Cut, filters: Filters) -> dict[str, Any]:
        switches = self.school.switches
        meta: dict[str, Any] = {
            "current_page": page.number,
            "total_pages": page.total_pages,
            "total_count": page.total_count,
            "per_page": page.per_page,
        }
        if switches.meta_extra:
            meta["next_page"] = page.number + 1 if page.number < page.total_pages else None
            meta["prev_page"] = page.number - 1 if page.number > 1 else None
            since = {"modified_since": filters.modified_since, "deleted_since": filters.deleted_since}
            meta |= {name: spell(stamp) for name, stamp in since.items() if stamp is not None}
        return {name: value for name, value in meta.items() if name not in switches.meta_without}

    # The header that tells the server's time ---------------------------------------------------------------------

    def _date(self) -> datetime:
        return self.school.now() + timedelta(seconds=self.school.switches.date_skew)

    def _dated(self, response: Response) -> Response:
        if self.school.switches.date_header and "Date" not in response.headers:
            response.headers["Date"] = format_datetime(self._date(), usegmt=True)
        return response


def _student(record: bytes) -> Response:
    return Response(200, {"Content-Type": JSON_TYPE}, b'{"student":' + record + b"}")


def _no_record() -> Response:
    return json_response(404, {"error": "Record was not found"})
