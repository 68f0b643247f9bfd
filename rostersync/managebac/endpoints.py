"""Call the API's eight student endpoints. Each call sends a request and reads the response.

This module follows the vendor's Students page, which describes v2p1. If that page does not answer a question, this
module follows the newer OpenAPI document of v2p3. docs/managebac-api.md lists what is documented and what is not.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.clock import to_text
from rostersync.errors import Malformed, NotFound, Refused, TooLarge
from rostersync.logger import get_logger
from rostersync.managebac.decoding.answers import MOST_ROWS, decode_page, decode_single, is_error, says_done
from rostersync.managebac.wire.http import ABSENT, JSON_TYPE, MAX_BYTES, Call
from rostersync.managebac.wire.limits import server_time
from rostersync.records import Gone, Moment, Rejected, Student

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from rostersync.cancel import CancelScope
    from rostersync.managebac.wire.http import Reply
    from rostersync.managebac.wire.transport import Transport
    from rostersync.records import Page, Query, Row

SPARE_ROWS = 20
"""How many rows a page may have in addition to the number that was requested or that its meta contains.

We accept these additional rows because some servers repeat rows on a page.
"""

_MAY_BE_TOO_MANY = {400, 422, None}
"""The statuses of errors that may mean that we requested too many rows.

None is the status of the error that is raised if a response is too large.
"""

log = get_logger(__name__)


class Endpoints:
    """Calls the endpoints of one version of the API. All requests are sent through one transport.

    Every method that sends a request may raise `ApiError` or `Stopped`, as `Transport.request` explains. In all
    methods, `key` is the id of a student, and the request ends when `scope` ends.
    """

    safe_per_page = 100
    """The number of rows to request if the server does not accept more rows. This is the default of v2p3."""

    def __init__(self, transport: Transport, api_version: str) -> None:
        self._transport = transport
        self._path = f"/{api_version}/students"
        self.most_per_page = MOST_ROWS
        """The maximum number of rows to request. It is lowered if a request has succeeded only with fewer rows."""

    def page(self, query: Query, number: int, per_page: int, scope: CancelScope) -> Page | None:
        """Request a page of a list. Return None if `number` is above 1 and the page is empty or does not exist.

        A page does not exist if the response is a 404 or 410. If the server refuses page 1, or if page 1 is too large,
        this method requests page 1 once more with `safe_per_page` rows. If that request succeeds, all lists are
        requested with at most `safe_per_page` rows from then on. To request the other pages of a list, the caller must
        pass the attribute `asked` of page 1 as `per_page`.

        Args:
            query: The filters of the list.
            number: The number of the page, counted from 1.
            per_page: The number of rows to request, at least 1.
            scope: A scope that ends the request when the scope ends.

        """
        if number > 1:
            return self._page(query, number, per_page, scope)
        per_page = min(per_page, self.most_per_page)
        try:
            return self._page(query, number, per_page, scope)
        except (Refused, TooLarge) as error:
            if per_page <= self.safe_per_page or error.status not in _MAY_BE_TOO_MANY:
                raise
        page = self._page(query, number, self.safe_per_page, scope)
        if self.most_per_page > self.safe_per_page:
            self.most_per_page = self.safe_per_page
            log.info("per_page_lowered", asked=per_page, per_page=self.safe_per_page)
        return page

    def _page(self, query: Query, number: int, per_page: int, scope: CancelScope) -> Page | None:
        call = Call(self._path, _parameters(query, number, per_page))
        of_deleted = query.deleted_since is not None
        read = partial(_read_page, number=number, per_page=per_page, of_deleted=of_deleted, scope=scope)
        return self._transport.request(call, read, scope, absent_ok=number > 1)

    def get(self, key: int, scope: CancelScope) -> Row | Gone:
        """Request one student by id. Return `Gone` if the API itself responds with 404 or 410."""
        return self._transport.request(Call(self._one(key)), partial(_read_student, key=key), scope, absent_ok=True)

    def no_such_student(self, key: int) -> NotFound:
        """Return the error to raise if `get` returned `Gone`."""
        error = _no_such_student(key, 404)
        error.request = f"GET {self._one(key)}"
        return error

    def create(self, student: Mapping[str, Any], options: Mapping[str, Any], scope: CancelScope) -> Student:
        """Create a student with POST. Return the student from the response, which may lack some fields."""
        document = {"student": student, **({"options": options} if options else {})}
        return self._transport.request(_write("POST", self._path, document), _read_written, scope)

    def update(self, key: int, student: Mapping[str, Any], scope: CancelScope) -> Student:
        """Change some fields of a student with PATCH. Return the student from the response, which may lack fields."""
        call = _write("PATCH", self._one(key), {"student": student})
        return self._transport.request(call, partial(_read_written, key=key), scope, absent_ok=True)

    def archive(self, key: int, date: Mapping[str, str], scope: CancelScope) -> None:
        """Archive a student with PUT.

        `date` contains either `withdrawn_on` or `graduated_on`, and is sent as the whole body.
        """
        self._do(_write("PUT", f"{self._one(key)}/archive", date), key, scope)

    def unarchive(self, key: int, scope: CancelScope) -> None:
        """Take a student out of the archive with PUT."""
        self._do(Call(f"{self._one(key)}/unarchive", method="PUT"), key, scope)

    def set_avatar(self, key: int, body: bytes, content_type: str, scope: CancelScope) -> None:
        """Set a student's avatar with PUT."""
        self._do(Call(f"{self._one(key)}/avatar", method="PUT", body=body, content_type=content_type), key, scope)

    def delete_avatar(self, key: int, scope: CancelScope) -> None:
        """Delete a student's avatar with DELETE."""
        self._do(Call(f"{self._one(key)}/avatar", method="DELETE"), key, scope)

    def _one(self, key: int) -> str:
        return f"{self._path}/{key}"

    def _do(self, call: Call, key: int, scope: CancelScope) -> None:
        self._transport.request(call, partial(_read_done, key=key), scope, absent_ok=True)


def _write(method: str, path: str, document: Mapping[str, Any]) -> Call:
    return Call(path, method=method, body=msgspec.json.encode(document), content_type=JSON_TYPE)


def _parameters(query: Query, number: int, per_page: int) -> tuple[tuple[str, str], ...]:
    """Return the query parameters of a request, with the names that the vendor's Students page documents.

    The name of a parameter ends in `[]` if the parameter is a list.
    """
    pairs: list[tuple[str, str | None]] = [
        *(("ids[]", str(key)) for key in query.ids),
        ("archived", None if query.archived is None else str(int(query.archived))),
        ("status", query.status),
        ("modified_since", _time(query.modified_since)),
        ("deleted_since", _time(query.deleted_since)),
        *(("year_group_ids[]", str(key)) for key in query.year_group_ids),
        *(("homeroom_advisor_ids[]", str(key)) for key in query.homeroom_advisor_ids),
        ("q", query.q),
        ("page", str(number)),
        ("per_page", str(per_page)),
    ]
    return tuple((name, value) for name, value in pairs if value is not None)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


# Reading responses -----------------------------------------------------------------------------------------------


def _read_page(reply: Reply, number: int, per_page: int, *, of_deleted: bool, scope: CancelScope) -> Page | None:
    if reply.status in ABSENT:
        return None
    page = decode_page(reply.body, number, moment_of(reply), scope.check, asked=per_page, of_deleted=of_deleted)
    most = max(per_page, page.per_page or MOST_ROWS)
    if len(page.listed) > most + SPARE_ROWS:
        raise Malformed(f"{len(page.listed):,} records on a page of {most:,}")
    if number == 1 and page.others and per_page > Endpoints.safe_per_page and len(reply.body) > MAX_BYTES / 2:
        raise TooLarge("the first page is so large that a later page may exceed the limit on the size of a response")
    return page if page.listed or number == 1 else None


def _read_student(reply: Reply, key: int) -> Row | Gone:
    if reply.status in ABSENT:
        if is_error(reply.body):
            return Gone()
        raise NotFound(f"a {reply.status} without the API's error message does not prove that the student is gone")
    row = decode_single(reply.body, unwrapped=True)
    if row.id != key:
        raise Malformed("the answer is about a different student from the one who was requested")
    return row


def _read_written(reply: Reply, key: int | None = None) -> Student:
    _require_found(reply, key)
    row = decode_single(reply.body)
    if isinstance(row, Rejected):
        raise Malformed(f"the student in the answer cannot be read: {row.reason}")
    if key is not None and row.id != key:
        raise Malformed("the answer is about a different student from the one who was requested")
    return row


def _read_done(reply: Reply, key: int) -> None:
    _require_found(reply, key)
    if not says_done(reply.body):
        raise Malformed("the answer is not in the format of the API")


def _require_found(reply: Reply, key: int | None) -> None:
    if reply.status in ABSENT:
        raise _no_such_student(key, reply.status)


def _no_such_student(key: int | None, status: int | None) -> NotFound:
    hint = "the student may have been deleted or may belong to another school; also check base_url and api_version"
    return NotFound(f"there is no student {key}", hint, status=status)


def moment_of(reply: Reply) -> Moment:
    """Return the earliest time at which the server can have made the reply.

    The result contains this time according to our clock, and according to the server's clock.
    """
    stamped = server_time(reply)
    try:
        server = stamped and stamped - timedelta(seconds=reply.duration + 1)
    except OverflowError:
        server = None
    return Moment(reply.sent_at, server)
