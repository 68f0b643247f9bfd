"""Call the eight student endpoints: make each request, and read its response.

This follows the vendor's Students page about v2p1. If that page says nothing, it follows the OpenAPI document of v2p3,
which is newer. docs/managebac-api.md lists what is documented and what is not.
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
from rostersync.managebac.wire.http import ABSENT, MAX_BYTES, Call
from rostersync.managebac.wire.limits import server_time
from rostersync.records import Gone, Moment, Rejected, Student

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from rostersync.cancel import CancelScope
    from rostersync.managebac.wire.http import Reply
    from rostersync.managebac.wire.transport import Transport
    from rostersync.records import Page, Query, Row

JSON = "application/json"

SPARE_ROWS = 20
"""How many rows a page may have beyond the number that was requested or that its meta says.

Some serializers repeat rows.
"""

_MAY_BE_TOO_MANY = {400, 422, None}
"""The statuses that may mean that we requested too many rows. None means that the response was too large."""

log = get_logger(__name__)


class Endpoints:
    """The endpoints of one API version, over one transport.

    Each method raises `ApiError` and `Stopped`, as `Transport.request` does. `key` is always a student's id, and
    `scope` ends the request.
    """

    safe_per_page = 100
    """The number of rows to request if the server does not accept more. It is v2p3's default."""

    def __init__(self, transport: Transport, api_version: str) -> None:
        self._transport = transport
        self._path = f"/{api_version}/students"
        self.most_per_page = MOST_ROWS
        """The most rows to request. It becomes `safe_per_page` when a request for fewer rows has helped."""

    def page(self, query: Query, number: int, per_page: int, scope: CancelScope) -> Page | None:
        """GET a page of a list. Return None if `number` is above 1 and the page is empty or missing (404 or 410).

        If page 1 is refused or too large, this requests it once more with `safe_per_page`. If that helps, all lists are
        requested in this way from then on. The caller must request a list's other pages with the `asked` of page 1.

        Args:
            query: The filters of the list.
            number: The number of the page, from 1.
            per_page: The number of rows to request, from 1.
            scope: Ends the request.

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
        """GET a student. Return `Gone` for the API's own 404 or 410."""
        return self._transport.request(Call(self._one(key)), partial(_read_student, key=key), scope, absent_ok=True)

    def no_such_student(self, key: int) -> NotFound:
        """Return the error to raise if `get` returned `Gone`."""
        error = _no_such_student(key, 404)
        error.request = f"GET {self._one(key)}"
        return error

    def create(self, student: Mapping[str, Any], options: Mapping[str, Any], scope: CancelScope) -> Student:
        """POST a new student. Return the student in the response, in which fields may be missing."""
        document = {"student": student, **({"options": options} if options else {})}
        return self._transport.request(_write("POST", self._path, document), _read_written, scope)

    def update(self, key: int, student: Mapping[str, Any], scope: CancelScope) -> Student:
        """PATCH some fields of a student. Return the student in the response, in which fields may be missing."""
        call = _write("PATCH", self._one(key), {"student": student})
        return self._transport.request(call, partial(_read_written, key=key), scope, absent_ok=True)

    def archive(self, key: int, date: Mapping[str, str], scope: CancelScope) -> None:
        """PUT a student into the archive. `date` has either `withdrawn_on` or `graduated_on`, and is the whole body."""
        self._do(_write("PUT", f"{self._one(key)}/archive", date), key, scope)

    def unarchive(self, key: int, scope: CancelScope) -> None:
        """PUT a student out of the archive."""
        self._do(Call(f"{self._one(key)}/unarchive", method="PUT"), key, scope)

    def set_avatar(self, key: int, body: bytes, content_type: str, scope: CancelScope) -> None:
        """PUT a student's avatar."""
        self._do(Call(f"{self._one(key)}/avatar", method="PUT", body=body, content_type=content_type), key, scope)

    def delete_avatar(self, key: int, scope: CancelScope) -> None:
        """DELETE a student's avatar."""
        self._do(Call(f"{self._one(key)}/avatar", method="DELETE"), key, scope)

    def _one(self, key: int) -> str:
        return f"{self._path}/{key}"

    def _do(self, call: Call, key: int, scope: CancelScope) -> None:
        self._transport.request(call, partial(_read_done, key=key), scope, absent_ok=True)


def _write(method: str, path: str, document: Mapping[str, Any]) -> Call:
    return Call(path, method=method, body=msgspec.json.encode(document), content_type=JSON)


def _parameters(query: Query, number: int, per_page: int) -> tuple[tuple[str, str], ...]:
    """Return the parameters of the query, with the names on the vendor's Students page. Names of lists end in `[]`."""
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
        raise TooLarge("the first page is so large that a later page may exceed the limit")
    return page if page.listed or number == 1 else None


def _read_student(reply: Reply, key: int) -> Row | Gone:
    if reply.status in ABSENT:
        if is_error(reply.body):
            return Gone()
        raise NotFound(f"a {reply.status} without the API's error message does not prove that the student is gone")
    row = decode_single(reply.body, unwrapped=True)
    if row.id != key:
        raise Malformed("the answer for one student is about another")
    return row


def _read_written(reply: Reply, key: int | None = None) -> Student:
    _require_found(reply, key)
    row = decode_single(reply.body)
    if isinstance(row, Rejected):
        raise Malformed(f"the student in the answer cannot be read: {row.reason}")
    if key is not None and row.id != key:
        raise Malformed("the answer for one student is about another")
    return row


def _read_done(reply: Reply, key: int) -> None:
    _require_found(reply, key)
    if not says_done(reply.body):
        raise Malformed("the answer is not in the format of the API")


def _require_found(reply: Reply, key: int | None) -> None:
    if reply.status in ABSENT:
        raise _no_such_student(key, reply.status)


def _no_such_student(key: int | None, status: int | None) -> NotFound:
    hint = "the student may have been deleted, or belong to another school; or base_url or api_version is wrong"
    return NotFound(f"there is no student {key}", hint, status=status)


def moment_of(reply: Reply) -> Moment:
    """Return the earliest times at which the server can have made the reply, on our clock and on the server's."""
    stamped = server_time(reply)
    try:
        server = stamped and stamped - timedelta(seconds=reply.duration + 1)
    except OverflowError:
        server = None
    return Moment(reply.sent_at, server)
