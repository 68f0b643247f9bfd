"""All that can be done with students: the eight endpoints, with typed arguments and results."""

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

    from rostersync.managebac.endpoints import Endpoints
    from rostersync.managebac.ordered_map import OrderedMap
    from rostersync.records import Page

log = get_logger(__name__)

Status = Literal["enrolled", "withdrawn", "graduated"]

STATUSES: tuple[Status, ...] = ("enrolled", "withdrawn", "graduated")
MOST_UNREADABLE = 1_000
"""If a list has more records that cannot be read, it is the API that has changed."""

MOST_PER_PAGE = 200  # v2p3; the Students page of v2p1 names no limit


class StudentList(Iterator[Student]):
    """The students that a query finds, in the API's order, which is not documented: iterate over it, once.

    Pages are asked for as they are needed, a few ahead; one thread at a time may iterate. Records that cannot be read
    are passed over, logged by id and kept in `unreadable`; `Malformed` is raised for more than 1,000 of them. While the
    school changes, pages move: a student may be missed or come twice (a sync guards against that, a list does not).
    """

    def __init__(
        self, endpoints: Endpoints, ordered_map: OrderedMap, query: Query, per_page: int, page: int | None
    ) -> None:
        self._endpoints = endpoints
        self._ordered_map = ordered_map
        self._query = query
        self._asked = per_page
        self._page = page
        self._read: Page | None = None
        self._students = self._all()
        self.unreadable: list[Rejected] = []
        """The records that could not be read so far, each with its id (where there is one) and the reason."""

    def __next__(self) -> Student:
        return next(self._students)

    @property
    def total_count(self) -> int:
        """How many students the query finds, on all pages: asks for the first page where that has not been read yet."""
        return self._first().total_count

    @property
    def total_pages(self) -> int:
        """How many pages there are."""
        return self._counted("total_pages")

    @property
    def per_page(self) -> int:
        """How many students the server puts on a page: it may be fewer than were asked for."""
        return self._counted("per_page")

    def _counted(self, name: Literal["total_pages", "per_page"]) -> int:
        """Return a count of the list, from the first page if the one that was read does not have it."""
        counted: int | None = getattr(self._first(), name)
        if counted is None:
            counted = getattr(self._first_of_all(), name)
        assert counted is not None, "a first page has every count"
        return counted

    def _first(self) -> Page:
        if self._read is None:
            number = self._page or 1
            self._asked = min(self._asked, self._endpoints.most_per_page)
            page = self._endpoints.page(self._query, number, self._asked)
            # of a page beyond the end it is not documented what it looks like; the first one has the totals
            self._read = page or self._first_of_all()
            self._asked = self._read.asked
        return self._read

    def _first_of_all(self) -> Page:
        page = self._endpoints.page(self._query, 1, self._asked)
        assert page is not None, "a first page is there, or an error"
        return page

    def _all(self) -> Iterator[Student]:
        first = self._first()
        if self._page is None or first.number == self._page:
            yield from self._students_of(first)
        if self._page is None:
            for page in self._ordered_map.each(
                lambda n: self._endpoints.page(self._query, n, self._asked), first.others
            ):
                yield from self._students_of(page) if page else ()

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
    """The students of one school. All methods raise `ApiError`s (see `rostersync.errors`), which never hold the token.

    What cannot be right is refused before anything is sent, as `Invalid`; `AccessDenied` is raised for a token that is
    not valid or lacks a permission, `NotFound` for a student whom the API does not know (deleted ones included),
    `RateLimited` when every retry was answered by a 429, `Unreachable`, `TimedOut` and `ServerFailed` when every retry
    failed. Each method takes the student's id (ManageBac's, not the school's `student_id`) as its first argument.

    **Writes are repeated only where it is certain that they were not carried out** (the connection was refused, or the
    answer was a 429). Where the answer is lost or a 5xx, they raise `OutcomeUnknown`: look at the student first.
    The token needs an administrator's permissions for them (Students page), and users who are administrators
    themselves cannot be changed through the API (developer notes).
    """

    def __init__(self, endpoints: Endpoints, ordered_map: OrderedMap) -> None:
        self._endpoints = endpoints
        self._ordered_map = ordered_map

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
        """Return the students that match all filters: an iterator over all pages, or over `page` (from 1) alone.

        Without filters these are all students, archived ones too, deleted ones not; a filter that is an empty list is
        refused, since it would not be one. `q` searches names, e-mail and student_id. `modified_since` and
        `deleted_since` need a time zone; whether they include the very moment is not documented for v2p1 (v2p3 includes
        it), and a deletion counts as no modification, so ask for the two separately.
        What a deleted student's record holds is not documented: rely on `id` alone. `per_page` is from 1 to 200 (v2p3's
        maximum); the server may put fewer on a page. If it refuses more than 100 (400 or 422), or 200 are too large for
        an answer, this client asks for 100 from then on. Filters are those of the Students page; v2p1 does not say what
        becomes of one that it does not know, and public clients suggest that it returns everybody.

        ::

            graduates = api.students.list(status="graduated", year_group_ids=[10209272])
            print(graduates.total_count, [student.email for student in graduates])

        Raises `Invalid` at once for filters that cannot be right; whatever goes wrong later is raised by the iterator.
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
        return StudentList(self._endpoints, self._ordered_map, query, per_page, page)

    def get(self, key: int, /) -> Student:
        """Return one student, archived or not.

        Of a deleted student the API is believed to answer 404, which is `NotFound`; should it answer with a record,
        that bears `deleted_at`. ::

            api.students.get(2054).homeroom_advisor_id

        Raises `Malformed` for a record that cannot be read.
        """
        check_id(key)
        answer = self._endpoints.get(key)
        if isinstance(answer, Gone):
            raise self._endpoints.no_such_student(key)
        if isinstance(answer, Rejected):
            raise Malformed(f"student {key} cannot be read: {answer.reason}", "correct the record in ManageBac")
        return with_status(answer)

    def create(self, *, send_welcome_email: bool | None = None, **fields: Unpack[StudentFields]) -> Student:
        """Create a student, and return what the answer tells of them: the id at least, perhaps not every field.

        `email` and `last_name` are needed: the endpoint's text asks for the first, v2p3's schema for both. **It may
        send a welcome mail**: the schema says that one goes out where `password` is left away, the endpoint's text that
        it does only where asked for. `send_welcome_email` is known to v2p3; None leaves it away. Where the outcome is
        unknown, look for the e-mail address with `list(q=...)` before you try again. ::

            api.students.create(email="fizz.marrowgate@example.invalid", last_name="Marrowgate", first_name="Fizz")
        """
        if not _is_flag(send_welcome_email):
            raise invalid({"send_welcome_email": ("must be True or False",)})
        options = {} if send_welcome_email is None else {"send_welcome_email": send_welcome_email}
        return with_status(self._endpoints.create(payload(fields, new=True), options))

    def update(self, key: int, /, **fields: Unpack[StudentFields]) -> Student:
        """Change the fields that are named, and no others; return what the answer tells of the student.

        None clears a field. A year_group_id moves the student; one of a legacy PYP year group is answered by 404
        (v2p3). parent_ids with an unknown user fail the whole call (developer notes). Whether everything was taken is
        for `get` to tell: what a server does not permit it may pass over in silence. ::

            api.students.update(2054, city="Ljubljana", nickname=None)
        """
        check_id(key)
        return with_status(self._endpoints.update(key, payload(fields)))

    def archive(
        self, key: int, /, *, withdrawn_on: date | str | None = None, graduated_on: date | str | None = None
    ) -> None:
        """Archive a student who has withdrawn or graduated: exactly one of the two dates must be given.

        It takes the student out of classes, groups and the year group, and in the web interface archives parents, too,
        who have no other child at the school (Students page and help centre). ::

            api.students.archive(2054, graduated_on="2026-06-19")
        """
        check_id(key)
        date_sent = archive_date({"withdrawn_on": withdrawn_on, "graduated_on": graduated_on})
        self._endpoints.archive(key, date_sent)

    def unarchive(self, key: int, /) -> None:
        """Take a student out of the archive.

        The vendor's documents contradict each other on what that restores: classes and groups (Students page v2p1),
        nothing but the possibility to enrol again, both dates being cleared (v2p3), the year group to be set by hand
        (help centre). Look at the student afterwards. ::

            api.students.unarchive(2054)
        """
        check_id(key)
        self._endpoints.unarchive(key)

    def set_avatar(
        self, key: int, /, *, url: str | None = None, file: str | PathLike[str] | bytes | None = None
    ) -> None:
        """Set a student's picture, from an address that ManageBac can reach, or from a file (a path, or its bytes).

        A file must be a PNG, JPEG, GIF or WebP image of at most 10 MiB (a limit of ours; the vendor names none). ::

            api.students.set_avatar(2054, file="portrait.jpg")
        """
        check_id(key)
        self._endpoints.set_avatar(key, *avatar.encode(url, file))

    def delete_avatar(self, key: int, /) -> None:
        """Take a student's picture away.

        ::

            api.students.delete_avatar(2054)
        """
        check_id(key)
        self._endpoints.delete_avatar(key)


def _ids(name: str, ids: Iterable[int] | None) -> builtins.tuple[int, ...]:
    """Return the ids of a filter. Raises `Invalid` for none, and for what is no id: else everybody would be listed."""
    if ids is None:
        return ()
    try:
        given = tuple(ids)
    except TypeError:
        given = ()
    if not given or not all(map(is_id, given)):
        raise invalid({name: ("must be ids, at least one: whole numbers from 1",)})
    return given


def _check_filters(query: Query, page: object, per_page: object) -> None:
    messages: dict[str, builtins.tuple[str, ...]] = {}
    if query.status is not None and query.status not in STATUSES:
        messages["status"] = (f"must be one of {', '.join(STATUSES)}",)
    if query.archived not in {None, True, False} or isinstance(query.archived, int) is not isinstance(
        query.archived, bool
    ):
        messages["archived"] = ("must be True or False",)
    for name, moment in (("modified_since", query.modified_since), ("deleted_since", query.deleted_since)):
        if moment is not None and not _is_aware(moment):
            messages[name] = ("must be a datetime with a time zone",)
    if page is not None and not is_id(page):
        messages["page"] = ("must be a whole number from 1",)
    if type(per_page) is not int or not 1 <= per_page <= MOST_PER_PAGE:
        messages["per_page"] = (f"must be from 1 to {MOST_PER_PAGE}",)
    if query.q is not None and not _is_text(query.q):
        messages["q"] = ("must be a text",)
    refuse(messages)


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_aware(moment: object) -> bool:
    try:
        return isinstance(moment, datetime) and moment.utcoffset() is not None and bool(moment.astimezone(UTC))
    except OverflowError:  # in UTC it lies outside the calendar
        return False


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False
