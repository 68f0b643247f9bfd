"""The API as a function that receives a request and returns a response, without a socket."""

from __future__ import annotations

import gzip
import re
from collections import deque
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

from rostersync.simulator.faults import Exchange, Faults
from rostersync.simulator.messages import Call, Request, Response, json_response
from rostersync.simulator.rate_limit import RateCounter
from rostersync.simulator.reading import Reading
from rostersync.simulator.refusals import Refusal, access_denied, no_record, no_such_method, no_such_path
from rostersync.simulator.tokens import Permissions, Tokens, may
from rostersync.simulator.writing import Writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rostersync.simulator.rate_limit import RateLimit
    from rostersync.simulator.state import School

    Handler = Callable[[Call], Response]

_STUDENTS = r"/(?P<version>v\w+)/students"
_STUDENT = _STUDENTS + r"/(?P<student>[^/]+)"
_PERMISSIONS = r"/(?P<version>v\w+)/auth/permissions"
_BY_AN_ADMINISTRATOR = re.compile(r"/simulator/students/(?P<student>[^/]+)")
_REMEMBERED_REQUESTS = 100_000
_WORTH_COMPRESSING = 256


class App:
    """The API of a school: the eight endpoints for students, and the one that returns a token's permissions.

    A further endpoint, `DELETE /simulator/students/{id}`, deletes a student, as an administrator does in ManageBac's
    web interface. This endpoint needs no token, and neither faults nor the rate limit affect it.

    `log` has the method, path and query of the latest 100,000 requests.
    """

    def __init__(
        self,
        school: School,
        token: str,
        faults: Faults | None = None,
        on_request: Callable[[Request], None] | None = None,
        *,
        read_only_token: str | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        """Serve a school.

        Args:
            school: The school to serve.
            token: The token with the admin role, which may read and write.
            faults: The faults to cause. None means a server without faults.
            on_request: A function that is called before each request is answered, in the thread that serves the
                request, while no lock is held. A test can use it to change the school between two requests.
            read_only_token: A token without the admin role, which may only read. None means that only `token` is valid.
            rate_limit: The rate limit. None means an unlimited rate.

        """
        self.school = school
        self.faults = faults if faults is not None else Faults()
        self.on_request = on_request
        self.log: deque[tuple[str, str, list[tuple[str, str]]]] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._tokens = Tokens(token, read_only_token)
        self._rate = RateCounter(rate_limit) if rate_limit is not None else None
        self._routes = _routes(Reading(school), Writing(school))

    def handle(self, request: Request) -> Response:
        """Answer one request. If a fault matches the request, the fault returns the response.

        Raises only exceptions from `on_request` or from a fault.
        """
        if request.method == "DELETE" and (match := _BY_AN_ADMINISTRATOR.fullmatch(request.path)):
            return self._delete(Call(request, (), "", match["student"]))
        if self.on_request is not None:
            self.on_request(request)
        self.log.append((request.method, request.path, request.query))
        fault = self.faults.take(request)
        if fault is None:
            return self._dated(self._answer(request))
        exchange = Exchange(request, self._date(), lambda: self._answer(request))
        return self._dated(fault(exchange))

    def _delete(self, call: Call) -> Response:
        try:
            self.school.delete(call.student_id or 0)
        except LookupError:
            return no_record()
        return json_response(200, {"status": "ok"})

    def _answer(self, request: Request) -> Response:
        with self.school.lock:
            try:
                response = self._admit(request)
            except Refusal as refusal:
                response = refusal.response
        accepts = "gzip" in request.headers.get("accept-encoding", "")
        if self.school.switches.gzip and accepts and len(response.body) >= _WORTH_COMPRESSING:
            headers = {**response.headers, "Content-Encoding": "gzip"}
            return Response(response.status, headers, gzip.compress(response.body, 1, mtime=0))
        return response

    def _admit(self, request: Request) -> Response:
        """Check the rate limit, the token and its permissions, in this order, and then answer the request."""
        if self._rate is not None and (refusal := self._rate.count(self.school.elapsed() / 1000, self._date())):
            return refusal
        permissions = self._tokens.permissions(request)
        if permissions is None:
            return access_denied(401)
        if not may(permissions, request.method):
            return access_denied(self.school.switches.write_denied)
        return self._route(request, permissions)

    def _route(self, request: Request, permissions: Permissions) -> Response:
        for pattern, handlers in self._routes:
            match = pattern.fullmatch(request.path.removesuffix("/"))
            if match is None or match["version"] not in self.school.switches.versions:
                continue
            if request.method not in handlers:
                return no_such_method(handlers)
            student = match.groupdict().get("student", "")
            return handlers[request.method](Call(request, permissions, match["version"], student))
        return no_such_path()

    # The Date header --------------------------------------------------------------------------------------------

    def _date(self) -> datetime:
        return self.school.now() + timedelta(seconds=self.school.switches.date_skew)

    def _dated(self, response: Response) -> Response:
        if self.school.switches.date_header and "Date" not in response.headers:
            response.headers["Date"] = format_datetime(self._date(), usegmt=True)
        return response


def _routes(reading: Reading, writing: Writing) -> list[tuple[re.Pattern[str], dict[str, Handler]]]:
    table: dict[str, dict[str, Handler]] = {
        _STUDENTS: {"GET": reading.list_students, "POST": writing.create},
        _STUDENT: {"GET": reading.get_student, "PATCH": writing.update},
        _STUDENT + "/archive": {"PUT": writing.archive},
        _STUDENT + "/unarchive": {"PUT": writing.unarchive},
        _STUDENT + "/avatar": {"PUT": writing.set_avatar, "DELETE": writing.delete_avatar},
        _PERMISSIONS: {"GET": _permissions},
    }
    return [(re.compile(path), handlers) for path, handlers in table.items()]


def _permissions(call: Call) -> Response:
    return json_response(200, {"permissions": call.permissions})
