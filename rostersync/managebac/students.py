"""Define `Students`, which has a typed method for each of the eight student endpoints, and `StudentList`.

This module checks arguments before anything is sent. `endpoints` makes the calls.
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
"""If a list has more unreadable records, iterating raises `Malformed`, because the API itself must have changed."""

MOST_PER_PAGE = 200  # the maximum of v2p3; the vendor's page about v2p1 names none


class StudentList(Iterator[Student]):
    """An iterator over the students that match a query, in the API's order, which is not documented.

    You can iterate over it once, and in one thread at a time. It requests pages when they are needed, and a few pages
    ahead. It skips records that cannot be read: it logs their ids, and keeps them in `unreadable`. If there are more
    than 1,000 of them, it raises `Malformed`. Iterating and the properties also raise the errors of `Students`.

    If students change during the iteration, they can move to another page. Then the list may miss a student or show one
    twice. A sync guards against this, but a list does not.
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
        """The records so far that could not be read, each with its id (None if that is unreadable) and the reason."""

    def __next__(self) -> Student:
        return next(self._students)

    @property
    def total_count(self) -> int:
        """The number of students on all pages. If no page has been read yet, this requests one."""
        return self._first().total_count

    @property
    def total_pages(self) -> int:
        """The number of pages. This may request a page."""
        return self._counted("total_pages")

    @property
    def per_page(self) -> int:
        """The number of students on a page, which may be fewer than requested. This may request a page."""
        return self._counted("per_page")

    def _counted(self, name: Literal["total_pages", "per_page"]) -> int:
        """Return a count from the page that was read, or from the first page if that page lacks the count."""
        counted: int | None = getattr(self._first(), name)
        if counted is None:
            counted = getattr(self._first_of_all(), name)
        assert counted is not None, "a first page has every count"
        return counted

    def _first(self) -> Page:
        if self._read is None:
            number = self._page or 1
            self._asked = min(self._asked, self._endpoints.most_per_page)
            page = self._endpoints.page(self._query, number, self._asked, self._scope)
            # A page beyond the end is None, because its format is not documented. The first page has the counts.
            self._read = page or self._first_of_all()
            self._asked = self._read.asked
        return self._read

    def _first_of_all(self) -> Page:
        page = self._endpoints.page(self._query, 1, self._asked, self._scope)
        assert page is not None, "a first page is there, or an error"
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
    """The students of one school. `ManageBac.students` is the instance to use.

    All methods raise subclasses of `ApiError` (see `rostersync.errors`), which never contain the token:

    * `Invalid`: an argument is wrong. If rostersync finds this, it sends nothing.
    * `AccessDenied`: the token is not valid, or lacks the permission.
    * `NotFound`: the API does not know the student, who may have been deleted.
    * `RateLimited`, `Unreachable`, `TimedOut`, `ServerFailed`, `Malformed`: the last retry failed in this way.
    * `TooLarge`, `Refused`, `Redirected`: the response is too large, another 4xx, or a 3xx.
    * `OutOfTime`: the client's `run_seconds` are over.
    * `OutcomeUnknown`: a write may or may not have been carried out.

    **A write is repeated only if it was certainly not carried out:** nothing of it was sent, or the response was a 429.
    If the response is lost, is a 5xx, is too large, or is not in the API's format, the method raises `OutcomeUnknown`.
    Then look at the student before you write again.

    The token needs an administrator's permissions for writes (Students page). Users who are administrators themselves
    cannot be changed through the API (developer notes).
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
        """Return an iterator over the students that match all filters.

        Without filters, it returns all students, including archived ones but not deleted ones. The vendor's Students
        page documents the filters. It does not say what v2p1 does with a filter that it does not support. Public
        clients suggest that it ignores the filter and returns all students.

        ::

            graduates = api.students.list(status="graduated", year_group_ids=[10209272])
            print(graduates.total_count, [student.email for student in graduates])

        Args:
            ids: Only students with these ids. They are sent in the address, so pass a few hundred at most.
            archived: True for archived students only, False for the others only. None: both.
            status: "enrolled", "withdrawn" or "graduated". None: any status.
            modified_since: Only students modified since this time, which must have a time zone. v2p3 includes the time
                itself; v2p1 does not document this. A deletion is not a modification.
            deleted_since: Only students deleted since this time, which must have a time zone. The fields
                of these records are not documented: rely on `id` only.
            year_group_ids: Only students of these year groups.
            homeroom_advisor_ids: Only students of these homeroom advisors.
            q: Only students whose name, e-mail address or student_id matches. None or "": no search.
            page: Only the students on this page, from 1. None: all pages.
            per_page: How many students to request at a time, from 1 to 200, which is the default and v2p3's maximum.
                The server may put fewer on a page. If it refuses page 1 with more than 100, or page 1 is too large,
                the client requests it with 100, and uses 100 from then on if that helps.

        Returns:
            The iterator. The first request is sent when you iterate over it or read one of its counts.

        Raises:
            Invalid: A filter is wrong. An empty list of ids is wrong, too, because it would not filter anything.

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

        For the id of a deleted student the API probably responds with 404, which raises `NotFound`. If it responds
        with a record instead, `deleted_at` is set in the record. ::

            api.students.get(2054).homeroom_advisor_id

        Args:
            key: The student's id in ManageBac, from 1. This is not the school's own `student_id`.

        Returns:
            The student, with a status: the served one, or one that is derived from `archived` and the dates.

        Raises:
            Malformed: The record cannot be read.
            NotFound: The API knows no student with this id.

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

        **ManageBac may send a welcome mail to the student.** v2p3's schema says that it does so unless a `password` is
        given. The endpoint's description says that it does so only if `send_welcome_email` asks for it. ::

            api.students.create(email="fizz.marrowgate@example.invalid", last_name="Marrowgate", first_name="Fizz")

        Args:
            send_welcome_email: Whether ManageBac should send the welcome mail. Only v2p3 documents this option. None,
                the default, does not send the option.
            fields: The fields of the student: see `StudentFields`. `email` and `last_name` are required. Fields that
                are None are not sent.

        Returns:
            The student in the response. Its `id` is set, but other fields may be missing.

        Raises:
            Invalid: A field is missing, unknown, read-only or of the wrong type, or the API refused it.
            OutcomeUnknown: The student may or may not exist now. Search for the e-mail address with `list(q=...)`
                before you try again.

        """
        if not _is_flag(send_welcome_email):
            raise invalid({"send_welcome_email": ("must be True or False",)})
        options = {} if send_welcome_email is None else {"send_welcome_email": send_welcome_email}
        return with_status(self._endpoints.create(payload(fields, new=True), options, self._scope))

    def update(self, key: int, /, **fields: Unpack[StudentFields]) -> Student:
        """Change some fields of a student.

        The server may silently ignore a field that it does not let you change. Use `get` afterwards to check. A new
        `year_group_id` moves the student; the API responds with 404 to the id of a legacy PYP year group (v2p3). If
        `parent_ids` contains an unknown user, the whole call fails (developer notes). ::

            api.students.update(2054, city="Ljubljana", nickname=None)

        Args:
            key: The student's id in ManageBac, from 1.
            fields: The fields to change: see `StudentFields`. None clears a field. Other fields are not changed.

        Returns:
            The student in the response. Its `id` is set, but other fields may be missing.

        Raises:
            Invalid: No field is given, a field is unknown, read-only or of the wrong type, or the API refused a field.
            OutcomeUnknown: The change may or may not have been carried out.

        """
        check_id(key)
        return with_status(self._endpoints.update(key, payload(fields), self._scope))

    def archive(
        self, key: int, /, *, withdrawn_on: date | str | None = None, graduated_on: date | str | None = None
    ) -> None:
        """Archive a student who has withdrawn or graduated.

        Archiving takes the student out of classes, groups and the year group (Students page). In the web interface, it
        also archives parents who have no other child at the school (help centre). ::

            api.students.archive(2054, graduated_on="2026-06-19")

        Args:
            key: The student's id in ManageBac, from 1.
            withdrawn_on: The day of withdrawal, as a date or as a string such as "2026-06-19".
            graduated_on: The day of graduation, in the same form. Pass exactly one of the two dates.

        Raises:
            Invalid: There is not exactly one date, or it is not a date, or the API refused it.
            OutcomeUnknown: The student may or may not be archived now.

        """
        check_id(key)
        date_sent = archive_date({"withdrawn_on": withdrawn_on, "graduated_on": graduated_on})
        self._endpoints.archive(key, date_sent, self._scope)

    def unarchive(self, key: int, /) -> None:
        """Take a student out of the archive.

        The vendor's documents contradict each other about the effect, so look at the student afterwards. The Students
        page of v2p1 says that classes and groups are restored. v2p3 says that they are not, that both dates are
        cleared, and that the student can be enrolled again. The help centre says that you must set the year group by
        hand. ::

            api.students.unarchive(2054)

        Args:
            key: The student's id in ManageBac, from 1.

        Raises:
            OutcomeUnknown: The student may or may not be unarchived now.

        """
        check_id(key)
        self._endpoints.unarchive(key, self._scope)

    def set_avatar(
        self, key: int, /, *, url: str | None = None, file: str | PathLike[str] | bytes | None = None
    ) -> None:
        """Set a student's picture.

        Metadata of a file, such as the place where a photo was taken, is not sent. Only a JPEG's orientation stays. ::

            api.students.set_avatar(2054, file="portrait.jpg")

        Args:
            key: The student's id in ManageBac, from 1.
            url: The http or https address of the picture, which ManageBac must be able to reach.
            file: The path or the content of a PNG, JPEG, GIF or WebP image of at most 10 MiB. This is our own limit,
                because the vendor documents none. Pass either `url` or `file`.

        Raises:
            Invalid: There is not exactly one of `url` and `file`, or it cannot be used, or the API refused it.
            OutcomeUnknown: The picture may or may not be set now.

        """
        check_id(key)
        self._endpoints.set_avatar(key, *avatar.encode(url, file), self._scope)

    def delete_avatar(self, key: int, /) -> None:
        """Delete a student's picture.

        ::

            api.students.delete_avatar(2054)

        Args:
            key: The student's id in ManageBac, from 1.

        Raises:
            OutcomeUnknown: The picture may or may not be deleted now.

        """
        check_id(key)
        self._endpoints.delete_avatar(key, self._scope)


def _ids(name: str, ids: Iterable[int] | None) -> builtins.tuple[int, ...]:
    """Return the ids of a filter, or () for None.

    Raises `Invalid` if `ids` is empty, because the API would then list all students, or if any value is not an id.
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
