"""Define `Students`, which has a typed method for each of the eight student endpoints, and `StudentList`.

This module checks the arguments before a request is sent. The module `endpoints` sends the requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Unpack

from rostersync.errors import Malformed
from rostersync.logger import get_logger
from rostersync.managebac import avatar
from rostersync.managebac.fields import StudentFields, archive_date, check_id, invalid, is_id, payload, refuse
from rostersync.records import Gone, Query, Rejected, Student, with_status

if TYPE_CHECKING:
    import builtins
    from datetime import date
    from os import PathLike

    from rostersync.cancel import CancelScope
    from rostersync.managebac.endpoints import Endpoints
    from rostersync.managebac.wire.ordered_map import OrderedMap
    from rostersync.records import Page

log = get_logger(__name__)

Status = Literal["enrolled", "withdrawn", "graduated"]

STATUSES: tuple[Status, ...] = ("enrolled", "withdrawn", "graduated")
MOST_UNREADABLE = 1_000
"""The maximum number of unreadable records in a list. If a list has more, iterating over the list raises `Malformed`,
because the format of the API has probably changed."""

MOST_PER_PAGE = 200  # the maximum of v2p3; the documents of v2p1 do not mention a maximum


class StudentList(Iterator[Student]):
    """An iterator over the students who match a query. The students are in the API's order, which is not documented.

    You can iterate over a list only once, and only one thread may use the list at a time. The list requests pages when
    they are needed, and also requests a few pages in advance. If a record cannot be read, the list skips the record,
    logs its id, and adds the record to `unreadable`. If more than 1,000 records cannot be read, the iteration raises
    `Malformed`. Both the iteration and the properties may raise the errors that `Students` describes.

    If students are changed during the iteration, a student may move to another page. The iteration may then miss a
    student, or return a student twice. A sync guards against this problem, but a `StudentList` does not.

    An error ends the iteration. If you catch the error, do not continue with the same list, because the list then
    appears to be complete although it is not.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        ordered_map: OrderedMap,
        scope: CancelScope,
        query: Query,
        *,
        per_page: int,
        page: int | None,
    ) -> None:
        self._endpoints = endpoints
        self._ordered_map = ordered_map
        self._scope = scope
        self._query = query
        self._asked = per_page
        self._page = page
        self._read: Page | None = None
        self._students = self._all()
        self.unreadable: list[Rejected] = []
        """The records that could not be read so far. Each has the reason, and the id of the record if the id is
        readable."""

    def __next__(self) -> Student:
        return next(self._students)

    @property
    def total_count(self) -> int:
        """The number of students on all pages. If no page has been read yet, a page is requested."""
        return self._first().total_count

    @property
    def total_pages(self) -> int:
        """The number of pages. A page may be requested to find this number."""
        return self._counted("total_pages")

    @property
    def per_page(self) -> int:
        """The number of students on a page, which may be smaller than you requested. A page may be requested."""
        return self._counted("per_page")

    def _counted(self, name: Literal["total_pages", "per_page"]) -> int:
        """Return a count from the page that was read. If that page lacks the count, return the count from page 1."""
        counted: int | None = getattr(self._first(), name)
        if counted is None:
            counted = getattr(self._first_of_all(), name)
        assert counted is not None, "page 1 has every count"
        return counted

    def _first(self) -> Page:
        if self._read is None:
            number = self._page or 1
            self._asked = min(self._asked, self._endpoints.most_per_page)
            page = self._endpoints.page(self._query, number, self._asked, self._scope)
            # `page` is None if the number is beyond the end of the list. We then read the counts from page 1.
            self._read = page or self._first_of_all()
            self._asked = self._read.asked
        return self._read

    def _first_of_all(self) -> Page:
        page = self._endpoints.page(self._query, 1, self._asked, self._scope)
        assert page is not None, "page 1 exists, because an error would have been raised otherwise"
        return page

    def _all(self) -> Iterator[Student]:
        first = self._first()
        if self._page is None or first.number == self._page:
            yield from self._students_of(first)
        if self._page is None:
            for page in self._ordered_map.each(self._one_page, first.others, self._scope):
                yield from self._students_of(page) if page else ()

    def _one_page(self, number: int, scope: CancelScope) -> Page | None:
        return self._endpoints.page(self._query, number, self._asked, scope)

    def _students_of(self, page: Page) -> Iterator[Student]:
        for row in page.rows:
            if isinstance(row, Student):
                yield with_status(row)
            else:
                if len(self.unreadable) == MOST_UNREADABLE:
                    hint = "the API seems to have changed; look for a new version of rostersync"
                    raise Malformed(f"more than {MOST_UNREADABLE:,} records cannot be read", hint)
                self.unreadable.append(row)
                log.info("record_unreadable", id=row.id, reason=row.reason)


class Students:
    """The students of one school. Use the instance `ManageBac.students` instead of creating your own.

    All methods may raise the following subclasses of `ApiError`, which `rostersync.errors` defines. The errors never
    contain the token.

    * `Invalid`: an argument is not valid. If rostersync finds the mistake itself, no request is sent.
    * `AccessDenied`: the token is not valid, or does not have the necessary permission.
    * `NotFound`: the API does not find the student. The student may have been deleted.
    * `RateLimited`, `Unreachable`, `TimedOut`, `ServerFailed`, `Malformed`: the last retry failed for this reason.
    * `TooLarge`, `Refused`, `Redirected`: the response is too large, has another 4xx status, or is a redirect (3xx).
    * `OutOfTime`: the time limit that was passed to the client as `run_seconds` is over.
    * `OutcomeUnknown`: the server may or may not have carried out a write.

    If the scope that was passed to the client is cancelled, all methods raise `Stopped`, which is not an `ApiError`.

    **A write is repeated only if the server has certainly not carried it out.** This is the case if no part of the
    request was sent, or if the response was a 429. If the response to a write is lost, is a 5xx, is too large, or is
    not in the API's format, the method raises `OutcomeUnknown`. In this case, look at the student before you repeat the
    write.

    According to the vendor's Students page, the token needs the permissions of an administrator for writes. According
    to the developer notes, users who are administrators cannot be changed through the API.
    """

    def __init__(self, endpoints: Endpoints, ordered_map: OrderedMap, scope: CancelScope) -> None:
        self._endpoints = endpoints
        self._ordered_map = ordered_map
        self._scope = scope

    def list(
        self,
        *,
        ids: Iterable[int] | None = None,
        archived: bool | None = None,
        status: Status | None = None,
        modified_since: datetime | None = None,
        deleted_since: datetime | None = None,
        year_group_ids: Iterable[int] | None = None,
        homeroom_advisor_ids: Iterable[int] | None = None,
        q: str | None = None,
        page: int | None = None,
        per_page: int = MOST_PER_PAGE,
    ) -> StudentList:
        """Return an iterator over the students who match all filters.

        If no filter is set, the iterator returns all students, including archived students, but no deleted students.
        The vendor's Students page documents the filters, but does not say what v2p1 does with a filter that it does not
        support. Other public clients suggest that v2p1 ignores such a filter, and returns all students.

        ::

            graduates = api.students.list(status="graduated", year_group_ids=[10209272])
            print(graduates.total_count, [student.email for student in graduates])

        Args:
            ids: Return only students with these ids. The ids become part of the request's address, so pass at most a
                few hundred.
            archived: If True, return only archived students. If False, return only students who are not archived. If
                None, return both.
            status: Return only students with this status, which is "enrolled", "withdrawn" or "graduated". If None,
                return students with any status.
            modified_since: Return only students who were modified since this time, which must have a time zone. In
                v2p3, the result includes students who were modified exactly at this time. For v2p1, this is not
                documented. A deletion does not count as a modification.
            deleted_since: Return only students who were deleted since this time, which must have a time zone. The
                fields of these records are not documented, so rely only on `id`.
            year_group_ids: Return only students in these year groups.
            homeroom_advisor_ids: Return only students who have one of these homeroom advisors.
            q: Return only students with a name, an e-mail address or a student_id that matches this text. None and ""
                mean no search.
            page: Return only the students on this page, counted from 1. If None, return the students on all pages.
            per_page: How many students to request at a time, from 1 to 200. The default is 200, which is the maximum of
                v2p3. The server may return fewer students on each page. If you request more than 100 students and the
                server refuses page 1, or page 1 is too large, the client requests page 1 again with 100 students. If
                that works, the client requests at most 100 students at a time from then on.

        Returns:
            The iterator. It sends the first request when you iterate over it, or when you read one of its counts.

        Raises:
            Invalid: A filter is not valid. An empty list of ids is not valid either, because it would not filter
                anything.

        """
        query = Query(
            _ids("ids", ids),
            archived,
            status,
            modified_since,
            deleted_since,
            _ids("year_group_ids", year_group_ids),
            _ids("homeroom_advisor_ids", homeroom_advisor_ids),
            q or None,
        )
        _check_filters(query, page, per_page)
        return StudentList(self._endpoints, self._ordered_map, self._scope, query, per_page=per_page, page=page)

    def get(self, key: int, /) -> Student:
        """Return one student, who may be archived.

        If the student has been deleted, the API probably responds with 404, and this method raises `NotFound`. If the
        API returns a record instead, `deleted_at` is set in this record. ::

            api.students.get(2054).homeroom_advisor_id

        Args:
            key: The student's id in ManageBac, which is a positive integer. This is not the school's own `student_id`.

        Returns:
            The student. If the API does not return a status, the status is derived from `archived` and the dates.

        Raises:
            Malformed: The student's record cannot be read.
            NotFound: The API does not find a student with this id.

        """
        check_id(key)
        answer = self._endpoints.get(key, self._scope)
        if isinstance(answer, Gone):
            raise self._endpoints.no_such_student(key)
        if isinstance(answer, Rejected):
            raise Malformed(f"student {key} cannot be read: {answer.reason}", "correct the record in ManageBac")
        return with_status(answer)

    def create(self, *, send_welcome_email: bool | None = None, **fields: Unpack[StudentFields]) -> Student:
        """Create a student.

        **ManageBac may send a welcome e-mail to the student.** According to the schema of v2p3, ManageBac sends the
        e-mail unless a `password` is given. According to the description of the endpoint, ManageBac sends the e-mail
        only if `send_welcome_email` is true. ::

            api.students.create(email="fizz.marrowgate@example.invalid", last_name="Marrowgate", first_name="Fizz")

        Args:
            send_welcome_email: Whether ManageBac should send the welcome e-mail. Only v2p3 documents this option. If
                None, which is the default, the option is not sent.
            fields: The fields of the student, which `StudentFields` lists. `email` and `last_name` are required. Fields
                with the value None are not sent.

        Returns:
            The student from the response. The `id` is set, but other fields may be missing.

        Raises:
            Invalid: A field is missing, unknown, read-only or of the wrong type, or the API refused a field.
            OutcomeUnknown: The student may or may not have been created. Search for the e-mail address with
                `list(q=...)` before you try again.

        """
        if not _is_flag(send_welcome_email):
            raise invalid({"send_welcome_email": ("must be True or False",)})
        options = {} if send_welcome_email is None else {"send_welcome_email": send_welcome_email}
        return with_status(self._endpoints.create(payload(fields, new=True), options, self._scope))

    def update(self, key: int, /, **fields: Unpack[StudentFields]) -> Student:
        """Change some fields of a student.

        The server may silently ignore a change to a field that you are not allowed to change, so use `get` afterwards
        to check the result. A new `year_group_id` moves the student to another year group. According to the documents
        of v2p3, the API responds with 404 if this is a legacy PYP year group. According to the developer notes, the
        whole call fails if `parent_ids` contains an unknown user. ::

            api.students.update(2054, city="Ljubljana", nickname=None)

        Args:
            key: The student's id in ManageBac, which is a positive integer.
            fields: The fields to change, which `StudentFields` lists. None clears a field. Fields that you do not pass
                are not changed.

        Returns:
            The student from the response. The `id` is set, but other fields may be missing.

        Raises:
            Invalid: No field is given, or a field is unknown, read-only or of the wrong type, or the API refused a
                field.
            OutcomeUnknown: The student may or may not have been changed.

        """
        check_id(key)
        return with_status(self._endpoints.update(key, payload(fields), self._scope))

    def archive(
        self, key: int, /, *, withdrawn_on: date | str | None = None, graduated_on: date | str | None = None
    ) -> None:
        """Archive a student who has withdrawn or graduated.

        According to the vendor's Students page, archiving removes the student from classes, groups and the year group.
        According to the help centre, archiving a student in the web interface also archives parents who have no other
        child at the school. ::

            api.students.archive(2054, graduated_on="2026-06-19")

        Args:
            key: The student's id in ManageBac, which is a positive integer.
            withdrawn_on: The day of withdrawal, as a date or as a string such as "2026-06-19".
            graduated_on: The day of graduation, as a date or as a string such as "2026-06-19". Pass exactly one of the
                two dates.

        Raises:
            Invalid: Both dates or neither are given, the given date is not valid, or the API refused the date.
            OutcomeUnknown: The student may or may not have been archived.

        """
        check_id(key)
        date_sent = archive_date({"withdrawn_on": withdrawn_on, "graduated_on": graduated_on})
        self._endpoints.archive(key, date_sent, self._scope)

    def unarchive(self, key: int, /) -> None:
        """Take a student out of the archive.

        The vendor's documents contradict each other about the effect, so look at the student afterwards. The Students
        page of v2p1 says that classes and groups are restored. The document of v2p3 says that classes and groups are
        not restored, that both dates are cleared, and that the student can be enrolled again. The help centre says that
        you must set the year group yourself. ::

            api.students.unarchive(2054)

        Args:
            key: The student's id in ManageBac, which is a positive integer.

        Raises:
            OutcomeUnknown: The student may or may not have been taken out of the archive.

        """
        check_id(key)
        self._endpoints.unarchive(key, self._scope)

    def set_avatar(
        self, key: int, /, *, url: str | None = None, file: str | PathLike[str] | bytes | None = None
    ) -> None:
        """Set a student's picture.

        The metadata of an image file, such as the place where a photo was taken, is not sent. Only the orientation of a
        JPEG image is sent. ::

            api.students.set_avatar(2054, file="portrait.jpg")

        Args:
            key: The student's id in ManageBac, which is a positive integer.
            url: The http or https address of the picture, which ManageBac must be able to reach.
            file: The path or the content of a PNG, JPEG, GIF or WebP image of at most 10 MiB. This limit is our own,
                because the vendor does not document a limit. Pass either `url` or `file`, but not both.

        Raises:
            Invalid: Both or neither of `url` and `file` are given, the picture cannot be used, or the API refused the
                picture.
            OutcomeUnknown: The picture may or may not have been set.

        """
        check_id(key)
        self._endpoints.set_avatar(key, *avatar.encode(url, file), self._scope)

    def delete_avatar(self, key: int, /) -> None:
        """Delete a student's picture.

        ::

            api.students.delete_avatar(2054)

        Args:
            key: The student's id in ManageBac, which is a positive integer.

        Raises:
            OutcomeUnknown: The picture may or may not have been deleted.

        """
        check_id(key)
        self._endpoints.delete_avatar(key, self._scope)


def _ids(name: str, ids: Iterable[int] | None) -> builtins.tuple[int, ...]:
    """Return the ids of a filter as a tuple, which is empty if `ids` is None.

    Raises `Invalid` if `ids` is not None but contains no ids, because the API would then list all students. Also raises
    `Invalid` if a value cannot be an id.
    """
    if ids is None:
        return ()
    try:
        given = tuple(ids)
    except TypeError:
        given = ()
    if not given or not all(map(is_id, given)):
        raise invalid({name: ("must be one or more ids: whole numbers from 1",)})
    return given


def _check_filters(query: Query, page: object, per_page: object) -> None:
    messages: dict[str, builtins.tuple[str, ...]] = {}
    if query.status is not None and query.status not in STATUSES:
        messages["status"] = (f"must be one of {', '.join(STATUSES)}",)
    if not _is_flag(query.archived):
        messages["archived"] = ("must be True or False",)
    for name, moment in (("modified_since", query.modified_since), ("deleted_since", query.deleted_since)):
        if moment is not None and not _is_aware(moment):
            messages[name] = ("must be a datetime with a time zone",)
    if page is not None and not is_id(page):
        messages["page"] = ("must be a whole number from 1",)
    if type(per_page) is not int or not 1 <= per_page <= MOST_PER_PAGE:
        messages["per_page"] = (f"must be from 1 to {MOST_PER_PAGE}",)
    if query.q is not None and not _is_text(query.q):
        messages["q"] = ("must be a valid string",)
    refuse(messages)


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_aware(moment: object) -> bool:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        return False
    try:
        moment.astimezone(UTC)
    except OverflowError:  # in UTC, the time is outside the years 1 to 9999
        return False
    return True


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character (a lone surrogate)
        return False
    return True
