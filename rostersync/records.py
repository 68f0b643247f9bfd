"""Define the types for the data from the API, such as students, rejected records and pages of a list.

The annotations of `Student` are the only place that lists a student's fields. The columns, the views, the content hash,
the CSV output and the data dictionary are generated from these annotations, in the order in which `Student` lists them.
"""

from __future__ import annotations

import enum
import hashlib
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard, get_args, get_type_hints

import msgspec
from msgspec.structs import replace

from rostersync.clock import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Text = str | None
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None
Boolean = bool | None
Date = date | None
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)] | None
Texts = tuple[str, ...] | None
Integers = tuple[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], ...] | None


# A `Student` can be decoded from both the API's records and our own JSON. In JSON, the field `extra` therefore needs a
# name that the API does not use as a key. Do not change the JSON name of `extra`, because stored details contain it,
# and content hashes depend on it. If the name changed, stored details could not be read, and the next full run would
# rewrite every student who has unknown keys.
_EXTRA_IN_JSON = "\ue000extra"


class Student(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One student as served by the API.

    `id` is always set. Every field other than `id` is None if the API served null or omitted the key. Timestamps have
    the time zone UTC and whole milliseconds. `status` is the status that the API served. If the API served no status,
    `with_status` derives one.
    """

    id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1), "ManageBac's key of the student: the only safe identity"]
    email: Annotated[Text, "Login address; it changes over time and may be missing"] = None
    first_name: Annotated[Text, "First name"] = None
    last_name: Annotated[Text, "Last name"] = None
    middle_name: Annotated[Text, "Middle name; may be an empty string"] = None
    nickname: Annotated[Text, "Nickname"] = None
    other_name: Annotated[Text, "Further name, or the name in another script"] = None
    preferred_name: Annotated[Text, "Preferred name"] = None
    archived: Annotated[Boolean, "Whether the student is archived"] = None
    ui_language: Annotated[Text, "Language of the user interface"] = None
    created_at: Annotated[Timestamp, "When ManageBac created the record"] = None
    updated_at: Annotated[Timestamp, "When ManageBac last modified the record; deletions do not count"] = None
    last_accessed_at: Annotated[Timestamp, "Last login"] = None
    student_id: Annotated[Text, "The school's own student number; neither unique nor always present"] = None
    identifier: Annotated[Text, "The school's own user id"] = None
    gender: Annotated[Text, "Gender, in the school's own words"] = None
    birthday: Annotated[Date, "Date of birth"] = None
    timezone: Annotated[Text, "The user's IANA time zone; the timestamps here are in UTC"] = None
    phone_number: Annotated[Text, "Phone number, free text"] = None
    mobile_phone_number: Annotated[Text, "Mobile phone number, free text"] = None
    street_address: Annotated[Text, "Street address, first line"] = None
    street_address_ii: Annotated[Text, "Street address, second line"] = None
    city: Annotated[Text, "City"] = None
    state: Annotated[Text, "State or province, free text"] = None
    zipcode: Annotated[Text, "Postal code"] = None
    country: Annotated[Text, "Country, a code or a name"] = None
    nationalities: Annotated[Texts, "Nationalities, usually country codes"] = None
    languages: Annotated[Texts, "Languages, usually language codes"] = None
    parent_ids: Annotated[Integers, "ManageBac ids of the parents and guardians"] = None
    role: Annotated[Text, "Role of the user"] = None
    year_group_id: Annotated[Integer, "ManageBac id of the current year group"] = None
    homeroom_advisor_id: Annotated[Integer, "ManageBac id of the homeroom advisor"] = None
    additional_homeroom_advisor_ids: Annotated[Integers, "ManageBac ids of further homeroom advisors"] = None
    ee_advisor_id: Annotated[Integer, "ManageBac id of the Extended Essay advisor"] = None
    graduating_year: Annotated[Integer, "Four-digit year of graduation"] = None
    graduated_on: Annotated[Date, "Day of graduation"] = None
    withdrawn_on: Annotated[Date, "Day of withdrawal"] = None
    attendance_start_date: Annotated[Date, "First day of classes"] = None
    oa_id: Annotated[Text, "OpenApply id"] = None
    sb_id: Annotated[Text, "SchoolsBuddy id"] = None
    account_uid: Annotated[Text, "Portal account id"] = None
    class_grade: Annotated[Text, "Grade as a label"] = None
    class_grade_number: Annotated[Integer, "Grade as a number; it need not agree with the label"] = None
    program: Annotated[Text, "Programme as a label"] = None
    program_code: Annotated[Text, "Programme as a code"] = None
    ib_group_id: Annotated[Integer, "ManageBac id of the IB group, the old name of the year group"] = None
    national_id: Annotated[Text, "National id"] = None
    uniq_student_id: Annotated[Text, "Unique student id"] = None
    photo_url: Annotated[Text, "Address of the avatar; it may be signed and expire"] = None
    status: Annotated[Text, "enrolled, withdrawn, graduated or archived (archived for a reason unknown)"] = None
    extra: Annotated[dict[str, Any], "Keys that rostersync does not know, and values that a field cannot hold"] = (
        msgspec.field(name=_EXTRA_IN_JSON, default_factory=dict)
    )
    deleted_at: Timestamp = None  # not a field of the roster; set only if the student is deleted


class Kind(enum.Enum):
    """The type of a field's values."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TEXTS = "texts"
    INTEGERS = "integers"


_KINDS: dict[Any, Kind] = {
    Text: Kind.TEXT,
    Integer: Kind.INTEGER,
    Boolean: Kind.BOOLEAN,
    Date: Kind.DATE,
    Timestamp: Kind.TIMESTAMP,
    Texts: Kind.TEXTS,
    Integers: Kind.INTEGERS,
}
"""A dictionary that maps each annotation in `Student` to the kind of the field."""


class Field(msgspec.Struct, frozen=True):
    """The name, kind and description of a field of `Student`.

    The fields `id`, `extra` and `deleted_at` are not described by a `Field`.
    """

    name: str
    kind: Kind
    description: str


def _fields() -> Iterator[Field]:
    for name, hint in get_type_hints(Student, include_extras=True).items():
        if name not in {"id", "extra", "deleted_at"}:
            annotation, description = get_args(hint)
            yield Field(name, _KINDS[annotation], description)


FIELDS = tuple(_fields())
FIELD_NAMES = tuple(field.name for field in FIELDS)

# Volatile fields can change even if nothing else about the student changes. If only volatile fields differ, the sync
# updates the student's row but adds no version to the history.
VOLATILE = frozenset({"updated_at", "last_accessed_at", "photo_url"})
_LASTING = tuple(name for name in FIELD_NAMES if name not in VOLATILE)

LARGEST_ID = 2**63 - 1


class Rejected(msgspec.Struct, frozen=True):
    """A record that could not be decoded.

    `id` is None if the record has no readable id. `digest` identifies the record's content. `reason` explains why the
    record could not be decoded, but contains no value from the record.
    """

    id: int | None
    digest: bytes
    reason: str


Row = Student | Rejected


def row_key(row: Row) -> int:
    """Return the id of a row. If the row has no id, return a negative number that is computed from the row's digest."""
    if row.id is not None:
        return row.id
    assert isinstance(row, Rejected)
    return -1 - int.from_bytes(row.digest[:8], "big") // 2


class Moment(msgspec.Struct, frozen=True):
    """The earliest time at which the server could have produced a response, by both our clock and the server's.

    `local` is the time on our clock when the request was sent. `server` is the response's `Date` header, minus the
    duration of the request and minus one more second, because the header has only whole seconds. `server` is None if
    the response has no usable `Date`.
    """

    local: datetime
    server: datetime | None

    @property
    def start(self) -> datetime | None:
        """The earlier of `local` and `server`, because either clock may be wrong. None if `server` is None."""
        return self.server and min(self.local, self.server)


class ListedRow(msgspec.Struct, frozen=True):
    """A row of a page. The row is not decoded yet.

    `key` identifies the row (see `row_key`). `updated_at` is None if the value is missing or unreadable. `updated_at`
    is also None for a row with a `deleted_at`, because deleting a student does not change the student's `updated_at`.
    `decode` returns the decoded record.
    """

    key: int
    updated_at: datetime | None
    decode: Callable[[], Row]


class Page(msgspec.Struct, frozen=True):
    """One page of a list, with the counts from the page's `meta` object.

    On pages other than the first, `total_pages` and `per_page` are None if the page's `meta` object does not contain
    them. `moment` is the time of the response. `assumes_utc` is true if a row has an `updated_at` without an offset,
    which we read as UTC. `asked` is the number of rows that the client requested. The client must request the same
    number of rows for each other page of the list. Two pages have the same `digest` if they list the same students in
    the same order, each with the same `updated_at`. `digest` is None for a list of deleted students, or if any row
    lacks an id or an `updated_at`.
    """

    number: int
    listed: Sequence[ListedRow]
    total_count: int
    total_pages: int | None
    per_page: int | None
    moment: Moment
    assumes_utc: bool = False
    asked: int = 0
    digest: bytes | None = None

    @property
    def others(self) -> range:
        """The numbers of the list's pages after the first. Use this property only on the first page."""
        return range(2, (self.total_pages or 0) + 1)

    def contradicts(self, other: Page) -> bool:
        """Return whether the two pages differ in `total_count` or `per_page`.

        A missing `per_page` is considered equal to any value.
        """
        sizes = {self.per_page, other.per_page} - {None}
        return self.total_count != other.total_count or len(sizes) > 1

    @property
    def whole(self) -> bool:
        """Whether the page contains the whole list, that is, exactly `total_count` rows without duplicates."""
        return len({row.key for row in self.listed}) == len(self.listed) == self.total_count

    @property
    def rows(self) -> tuple[Row, ...]:
        """The decoded rows of the page."""
        return tuple(row.decode() for row in self.listed)


class Query(msgspec.Struct, frozen=True):
    """The filters of a list request. A filter that is None or empty is not sent."""

    ids: tuple[int, ...] = ()
    archived: bool | None = None
    status: str | None = None
    modified_since: datetime | None = None
    deleted_since: datetime | None = None
    year_group_ids: tuple[int, ...] = ()
    homeroom_advisor_ids: tuple[int, ...] = ()
    q: str | None = None


class Gone(msgspec.Struct, frozen=True):
    """The API responded with 404 or 410 to the request for one student, so the student does not exist."""


class Unclear(msgspec.Struct, frozen=True):
    """The request for one student failed, so we do not know whether the student exists.

    `reason` is the error's message.
    """

    reason: str


Answer = Student | Rejected | Gone | Unclear


def is_alive(answer: Answer) -> TypeGuard[Student | Rejected]:
    """Return whether an answer contains a student who is not deleted, even if the record is undecodable."""
    return isinstance(answer, Rejected) or (isinstance(answer, Student) and answer.deleted_at is None)


def derive_status(status: Any, archived: Any, graduated_on: Any, withdrawn_on: Any) -> str:
    """Return the status that the API served, or else a status derived from `archived` and the dates.

    A student who is not archived is enrolled, even if the record has a date from an earlier withdrawal. If `archived`
    is None, the status depends only on the dates.

    Args:
        status: The status that the API served, or an empty string or None if the API served no status.
        archived: Whether the student is archived, or None if the API did not serve this field.
        graduated_on: The day of graduation, in any format, or None.
        withdrawn_on: The day of withdrawal, in any format, or None.

    Returns:
        The status that the API served, or else "enrolled", "graduated", "withdrawn" or "archived". A student is
            "archived" if `archived` is true and there is neither a day of graduation nor a day of withdrawal.

    """
    if status:
        return str(status)
    if archived is False:
        return "enrolled"
    if graduated_on is not None:
        return "graduated"
    if withdrawn_on is not None:
        return "withdrawn"
    return "archived" if archived else "enrolled"


def with_status(student: Student) -> Student:
    """Return the student with a status. If the API served no status, derive the status as in `derive_status`."""
    return student if student.status else replace(student, status=status_of(student))


def status_of(student: Student) -> str:
    """Return the status of a student, which is either served by the API or derived (see `derive_status`)."""
    graduated_on, withdrawn_on = student.graduated_on, student.withdrawn_on
    if student.extra:
        graduated_on, withdrawn_on = (_date_or_text(student, name) for name in ("graduated_on", "withdrawn_on"))
    return derive_status(student.status, student.archived, graduated_on, withdrawn_on)


def _date_or_text(student: Student, name: str) -> Any:
    """Return the value of a date field, or the value in `extra` if the API served an unreadable date.

    The unreadable value is returned because even an unreadable date of graduation means that the student has graduated.
    Return None if the value is empty or missing.
    """
    unreadable = student.extra.get(name)
    return getattr(student, name) or (None if isinstance(unreadable, str) and not unreadable.strip() else unreadable)


def encode(student: Student) -> bytes:
    """Return the canonical JSON of a student. `decode` reads this JSON."""
    return _ENCODER.encode(student)


def decode(encoded: bytes) -> Student:
    """Decode a student from a JSON record, which comes either from `encode` or from the API.

    Raises `ValueError` if a key is not a field of `Student`, or if a value does not have the type of its field.
    """
    return _DECODER.decode(encoded)


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(Student)


def content_hash(encoded: bytes) -> bytes:
    """Return a 16-byte hash of an encoded student.

    Two students have different hashes if any field or extra key differs.
    """
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value.

    In canonical JSON, true and 1 are different, although they are equal in Python.
    """
    return msgspec.json.encode(value, order="deterministic")


def changed_fields(old: Student, new: Student) -> tuple[str, ...]:
    """Return the names of the fields that differ, in the order of `Student`.

    The names of volatile fields are never returned.
    """
    names = tuple(name for name in _LASTING if getattr(old, name) != getattr(new, name))
    return (*names, "extra") if _canonical(old.extra) != _canonical(new.extra) else names


def json_value(value: Any) -> Any:
    """Convert `value` for JSON.

    A time becomes a string in the format of `to_text`, and a date becomes a string in the format `YYYY-MM-DD`. A tuple
    becomes a list.
    """
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
