"""The values that flow through the program: what the API says of students, after decoding and before storing.

`Student` is the one list of fields. Columns, views, the hash, CSV and the data dictionary are made from its
annotations, in the order in which they stand here.
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
    from collections.abc import Callable, Sequence

Text = str | None
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None
Boolean = bool | None
Date = date | None
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)] | None
Texts = tuple[str, ...] | None
Integers = tuple[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], ...] | None


EXTRA = "\ue000extra"
"""The name of `extra` in JSON: of private use, so that no key that the API serves is taken for it."""


class Student(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={"extra": EXTRA},
):
    """One student as the API served it: absent (or null) is None, and only `id` is certain.

    Timestamps are aware, UTC, whole milliseconds. `status` is the served one; `with_status` derives it if none was.
    """

    id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1), "ManageBac's key of the student: the only safe identity"]
    email: Annotated[Text, "Login address; it changes over time and may be missing"] = None
    first_name: Annotated[Text, "First name"] = None
    last_name: Annotated[Text, "Last name"] = None
    middle_name: Annotated[Text, "Middle name; may be the empty text"] = None
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
    timezone: Annotated[Text, "The user's IANA time zone; not that of the timestamps"] = None
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
    extra: Annotated[dict[str, Any], "Keys that rostersync does not know, and values that a field cannot hold"] = {}
    deleted_at: Timestamp = None  # no field of the roster: a row that bears it says of itself that it is gone


class Kind(enum.Enum):
    """What a field holds. The value is the annotation in `Student`."""

    TEXT = Text
    INTEGER = Integer
    BOOLEAN = Boolean
    DATE = Date
    TIMESTAMP = Timestamp
    TEXTS = Texts
    INTEGERS = Integers


class Field(msgspec.Struct, frozen=True):
    """A typed field of a student, `id` and `extra` aside."""

    name: str
    kind: Kind
    description: str


def _fields() -> tuple[Field, ...]:
    hints = get_type_hints(Student, include_extras=True)
    annotated = {name: get_args(hint) for name, hint in hints.items() if name not in {"id", "extra", "deleted_at"}}
    return tuple(Field(name, Kind(kind), description) for name, (kind, description) in annotated.items())


FIELDS = _fields()
FIELD_NAMES = tuple(field.name for field in FIELDS)

# They change without a change of the roster: a row is rewritten for them, history gets no version.
VOLATILE = frozenset({"updated_at", "last_accessed_at", "photo_url"})
_LASTING = tuple(name for name in FIELD_NAMES if name not in VOLATILE)

LARGEST_ID = 2**63 - 1


class Rejected(msgspec.Struct, frozen=True):
    """A record that could not be decoded: its id where that was readable, and why, without any value of it."""

    id: int | None
    digest: bytes
    reason: str


Row = Student | Rejected


def row_key(row: Row) -> int:
    """Return what a row is counted by: its id, or a negative number made of the bytes of one without an id."""
    if row.id is not None:
        return row.id
    assert isinstance(row, Rejected)
    return -1 - int.from_bytes(row.digest[:8], "big") // 2


class Moment(msgspec.Struct, frozen=True):
    """When a response was made, by both clocks; `server` is None where the response bore no `Date`.

    `local` is our clock when the request was sent. `server` is the `Date` less the request's duration, less one second
    for the header's grain. By either clock the server had surely not answered yet.
    """

    local: datetime
    server: datetime | None

    @property
    def start(self) -> datetime | None:
        """The earlier of both clocks, for either may be wrong; None without a `Date`."""
        return self.server and min(self.local, self.server)


class ListedRow(msgspec.Struct, frozen=True):
    """A row of a page, not decoded yet.

    `key` is what the row is counted by (see `row_key`). `updated_at` is None where it is missing or cannot be read,
    and for a row that bears `deleted_at`, because a deletion changes no `updated_at`. `decode` returns the record.
    """

    key: int
    updated_at: datetime | None
    decode: Callable[[], Row]


class Page(msgspec.Struct, frozen=True):
    """One page of a list, with what its meta says the server really did.

    `total_pages` and `per_page` are None on a later page if its meta leaves them out. `assumes_utc` says that a row has
    an `updated_at` without an offset from UTC, which was read as UTC. `asked` is the number of rows that was asked for:
    the list's other pages are numbered by it. `digest` is equal for two pages if they list the same students in the
    same order, each with the same `updated_at`; None if a row has no id or no `updated_at`.
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
        """The numbers of the list's other pages, if this is the first one."""
        return range(2, (self.total_pages or 0) + 1)

    def contradicts(self, other: Page) -> bool:
        """Return whether the two pages disagree about the list; a page that names no `per_page` agrees with any."""
        sizes = {self.per_page, other.per_page} - {None}
        return self.total_count != other.total_count or len(sizes) > 1

    @property
    def whole(self) -> bool:
        """Whether the page holds the whole list: as many different records as the list has."""
        return len({row.key for row in self.listed}) == len(self.listed) == self.total_count

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, decoded."""
        return tuple(row.decode() for row in self.listed)


class Query(msgspec.Struct, frozen=True):
    """What a list request asks for; None or empty means that the parameter is not sent."""

    ids: tuple[int, ...] = ()
    archived: bool | None = None
    status: str | None = None
    modified_since: datetime | None = None
    deleted_since: datetime | None = None
    year_group_ids: tuple[int, ...] = ()
    homeroom_advisor_ids: tuple[int, ...] = ()
    q: str | None = None


class Gone(msgspec.Struct, frozen=True):
    """The answer to a request for one student: 404."""


class Unclear(msgspec.Struct, frozen=True):
    """The answer to a request for one student was neither the student nor a 404."""

    reason: str


Answer = Student | Rejected | Gone | Unclear


def is_alive(answer: Answer) -> TypeGuard[Student | Rejected]:
    """Tell whether an answer shows a student who was not deleted, whether the record could be decoded or not."""
    return isinstance(answer, Rejected) or (isinstance(answer, Student) and answer.deleted_at is None)


def derive_status(status: Any, archived: Any, graduated_on: Any, withdrawn_on: Any) -> str:
    """Return a student's status: the served one, or the one that `archived` and the dates imply.

    A student who is not archived is enrolled, even if an old date remains from an earlier withdrawal. Without
    `archived` the dates decide alone.

    Args:
        status: The served status; empty or None if the API served none.
        archived: True, False, or None if the API did not serve it.
        graduated_on: The day of graduation, in any form; None if there is none.
        withdrawn_on: The day of withdrawal, in any form; None if there is none.

    Returns:
        The served status; otherwise enrolled, graduated, withdrawn, or archived (archived without a date).

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
    """Return the student with a status: the served one, or one that is derived by `derive_status`."""
    return student if student.status else replace(student, status=status_of(student))


def status_of(student: Student) -> str:
    """Return a student's status: see `derive_status`."""
    graduated_on, withdrawn_on = student.graduated_on, student.withdrawn_on
    if student.extra:
        graduated_on, withdrawn_on = (_date_or_text(student, name) for name in ("graduated_on", "withdrawn_on"))
    return derive_status(student.status, student.archived, graduated_on, withdrawn_on)


def _date_or_text(student: Student, name: str) -> Any:
    """Return a date; or its text in `extra` if it could not be read, because a graduation on such a day is one too."""
    unreadable = student.extra.get(name)
    return getattr(student, name) or (None if isinstance(unreadable, str) and not unreadable.strip() else unreadable)


def encode(student: Student) -> bytes:
    """Return the one JSON text of all that is known of a student; `decode` reads it."""
    return _ENCODER.encode(student)


def decode(encoded: bytes) -> Student:
    """Return the student whose text `encode` has made."""
    return _DECODER.decode(encoded)


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(Student)


def content_hash(encoded: bytes) -> bytes:
    """Return 16 bytes that differ when anything known of an encoded student differs."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _canonical(value: Any) -> bytes:
    """Return the one JSON text of a value: unlike Python's equality it tells true from 1."""
    return msgspec.json.encode(value, order="deterministic")


def changed_fields(old: Student, new: Student) -> tuple[str, ...]:
    """Return the names of the fields that differ, volatile ones aside, in the order of `Student`, `extra` last."""
    names = tuple(name for name in _LASTING if getattr(old, name) != getattr(new, name))
    return (*names, "extra") if _canonical(old.extra) != _canonical(new.extra) else names


def json_value(value: Any) -> Any:
    """Return `value` as JSON knows it: times in their one spelling, dates as `YYYY-MM-DD`, arrays as lists."""
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
