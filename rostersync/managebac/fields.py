"""Define which fields of a student can be written, check their values, and convert them for a request.

The vendor's page about students (v2p1) lists the writable fields in prose, and the v2p3 document lists them in a
schema. Neither document says which other fields the API refuses. So we send every field that is not known to be
read-only, and let the server decide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, TypedDict

from rostersync.errors import Invalid
from rostersync.records import FIELDS, LARGEST_ID, Kind, Student, json_value
from rostersync.words import HARMFUL

_BY_THE_SERVER = "set by ManageBac itself"
_BY_ARCHIVE = "use archive or unarchive"

READ_ONLY: Mapping[str, str] = {
    "id": _BY_THE_SERVER,
    "archived": _BY_ARCHIVE,
    "graduated_on": _BY_ARCHIVE,
    "withdrawn_on": _BY_ARCHIVE,
    "status": _BY_ARCHIVE,
    "created_at": _BY_THE_SERVER,
    "updated_at": _BY_THE_SERVER,
    "last_accessed_at": _BY_THE_SERVER,
    "account_uid": _BY_THE_SERVER,
    "role": _BY_THE_SERVER,
    "photo_url": "use set_avatar or delete_avatar",
}
"""The API's fields that a write cannot set, with the reason or an alternative."""

UNWRITABLE: Mapping[str, str] = {
    **READ_ONLY,
    "extra": "rostersync does not know these fields",
    "deleted_at": _BY_THE_SERVER,
}
"""All attributes of `Student` that a write cannot set: the fields in `READ_ONLY`, `extra` and `deleted_at`."""

WRITABLE: Mapping[str, Kind] = {
    **{field.name: field.kind for field in FIELDS if field.name not in READ_ONLY},
    "password": Kind.TEXT,
}
"""The fields that a write can set, with the kind of value of each field. The API never returns `password`."""

REQUIRED = ("email", "last_name")
"""The fields that a new student must have.

The endpoint's description requires only `email`, the v2p3 schema requires both.
"""

_SHORTEST_PASSWORD = 6  # characters, according to the v2p3 schema


Messages = Mapping[str, tuple[str, ...]]
"""Error messages by the name of the field. Messages that do not concern a single field have the key `base`."""


class StudentFields(TypedDict, total=False):
    """The fields of a student that can be written. The value None clears a field, and a missing field does not change.

    A date is a `datetime.date`, or a string such as "2026-08-24". An id is a positive integer. A `password` has at
    least 6 characters. `email`, `last_name` and `password` cannot be cleared.
    """

    email: str
    password: str
    first_name: str | None
    last_name: str
    middle_name: str | None
    nickname: str | None
    other_name: str | None
    preferred_name: str | None
    ui_language: str | None
    student_id: str | None
    identifier: str | None
    gender: str | None
    birthday: date | str | None
    timezone: str | None
    phone_number: str | None
    mobile_phone_number: str | None
    street_address: str | None
    street_address_ii: str | None
    city: str | None
    state: str | None
    zipcode: str | None
    country: str | None
    nationalities: Sequence[str] | None
    languages: Sequence[str] | None
    parent_ids: Sequence[int] | None
    year_group_id: int | None
    homeroom_advisor_id: int | None
    additional_homeroom_advisor_ids: Sequence[int] | None
    ee_advisor_id: int | None
    graduating_year: int | None
    attendance_start_date: date | str | None
    oa_id: str | None
    sb_id: str | None
    class_grade: str | None
    class_grade_number: int | None
    program: str | None
    program_code: str | None
    ib_group_id: int | None
    national_id: str | None
    uniq_student_id: str | None


def payload(fields: Mapping[str, Any], *, new: bool = False) -> dict[str, Any]:
    """Return the JSON values to send for `fields`. If `new` is True, leave out the fields that are None.

    To clear a field, we send "" for a string, [] for a list, and null for any other kind. The developer notes say that
    the API stores an empty string, and that it ignores null when a student is created.

    Raises `Invalid` with a message for each field that is unknown, read-only, of the wrong kind, or missing. Also
    raises `Invalid` if the result would be empty.
    """
    messages: dict[str, tuple[str, ...]] = {}
    values: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            values[name] = _value(name, value)
        except ValueError as error:
            messages[name] = (str(error),)
    if new:
        values = {name: value for name, value in values.items() if fields[name] is not None}
        messages |= {name: ("is required",) for name in REQUIRED if name not in fields}
    if not (messages or values):
        messages["base"] = ("there is nothing to change",)
    refuse(messages)
    return values


def refuse(messages: Messages) -> None:
    """Raise `Invalid` if `messages` is not empty."""
    if messages:
        raise invalid(messages)


def invalid(messages: Messages) -> Invalid:
    """Return the error to raise instead of sending a request with these mistakes."""
    return Invalid("; ".join(lines(messages)), fields=messages)


def lines(messages: Messages) -> list[str]:
    """Return one line for each message, beginning with the name of the field."""
    pairs = [(name, text) for name, texts in messages.items() for text in texts]
    return [text if name == "base" else f"{name} {text}" for name, text in pairs]


def check_id(student_id: int) -> None:
    """Raise `Invalid` if `student_id` cannot be the id of a student."""
    if not is_id(student_id):
        refuse({"id": ("must be a whole number from 1",)})


def archive_date(dates: Mapping[str, object]) -> dict[str, str]:
    """Return the date to send when a student is archived, as `{name: "YYYY-MM-DD"}`.

    `dates` contains the values of `withdrawn_on` and `graduated_on`. Raises `Invalid` if none or both of the values are
    set, or if the value is not a valid date.
    """
    given = {name: value for name, value in dates.items() if value is not None}
    if len(given) != 1:
        raise invalid({"base": ("archive needs exactly one of withdrawn_on and graduated_on",)})
    [(name, value)] = given.items()
    try:
        return {name: to_date(value)}
    except ValueError as error:
        raise invalid({name: (str(error),)}) from None


def is_id(value: object) -> bool:
    """Return whether a value can be an id, which is a positive integer of at most 64 bits."""
    return type(value) is int and 1 <= value <= LARGEST_ID


def to_date(value: object) -> str:
    """Return a date in the form `YYYY-MM-DD`.

    Raises `ValueError` if `value` is neither a date nor a string of this form.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            pass
    raise ValueError("must be a date such as 2026-08-24")


def _value(name: str, value: object) -> Any:
    if name not in WRITABLE:
        raise ValueError(why_not_writable(name))
    if name in REQUIRED and (value is None or (isinstance(value, str) and not value.strip())):
        raise ValueError("cannot be empty")
    kind = WRITABLE[name]
    if value is None:
        if name == "password":
            raise ValueError("cannot be cleared")
        return _CLEARED.get(kind)
    encoded = _ENCODERS[kind](value)
    if (check := _check_of(name, kind)) is not None:
        check(encoded)
    return encoded


def _check_of(name: str, kind: Kind) -> Callable[[Any], None] | None:
    if name.endswith(("_id", "_ids")) and kind in {Kind.INTEGER, Kind.INTEGERS}:
        return _check_ids
    return {"email": _check_email, "password": _check_password}.get(name)


def _check_ids(value: int | list[int]) -> None:
    if not all(map(is_id, value if isinstance(value, list) else [value])):
        raise ValueError("must be an id: a whole number from 1")


def _check_email(value: str) -> None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
        raise ValueError("must be an address with an @")


def _check_password(value: str) -> None:
    if len(value) < _SHORTEST_PASSWORD:
        raise ValueError(f"must have at least {_SHORTEST_PASSWORD} characters")


def why_not_writable(name: str) -> str:
    """Return the error message for a field that cannot be written, with the reason or an alternative."""
    if name in UNWRITABLE:
        return f"cannot be written: {UNWRITABLE[name]}"
    close = get_close_matches(name, WRITABLE, n=1)
    return "is not a field" + (f"; did you mean {close[0]}?" if close else "")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - callers catch the same error class for all wrong values
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half a character (a lone surrogate)") from None
    if found := _HARMFUL.search(value):
        what = f"U+{ord(found[0]):04X}: a control character, or one that changes the direction of the text"
        raise ValueError(f"must not contain {what}")
    return value


_HARMFUL = re.compile(f"[{HARMFUL}]")


def _integer(value: object) -> int:
    if type(value) is not int or not -LARGEST_ID <= value <= LARGEST_ID:
        raise ValueError("must be a whole number")
    return value


def _list_of(encode: Callable[[object], Any]) -> Callable[[object], list[Any]]:
    def encode_all(value: object) -> list[Any]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise ValueError("must be a list")  # noqa: TRY004 - as above
        return [encode(element) for element in value]

    return encode_all


_CLEARED: Mapping[Kind, Any] = {Kind.TEXT: "", Kind.TEXTS: [], Kind.INTEGERS: []}

_ENCODERS: Mapping[Kind, Callable[[object], Any]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.DATE: to_date,
    Kind.TEXTS: _list_of(_text),
    Kind.INTEGERS: _list_of(_integer),
}


# Values from text, and values in a record ------------------------------------------------------------------------


def typed(name: str, text: str) -> Any:
    """Convert text from the command line or from a cell of a CSV file to the value of a field.

    A list has the form `en,sl` or is a JSON array. The text for an unknown field is returned unchanged, because
    `payload` reports unknown fields later. Raises `Invalid` if the text is not valid for a field whose kind is a list
    or a number.
    """
    kind = WRITABLE.get(name)
    if kind in {Kind.TEXTS, Kind.INTEGERS}:
        elements = _json_list(name, text) if text.lstrip().startswith("[") else _split(text)
        return [_number(name, e) if kind is Kind.INTEGERS and isinstance(e, str) else e for e in elements]
    return _number(name, text) if kind is Kind.INTEGER else text


def not_taken(sent: Mapping[str, Any], student: Student) -> tuple[str, ...]:
    """Return the names of the fields that have different values in the request and in the student's record.

    A missing value, an empty value, 0 and false count as equal. The comparison ignores the order of a list, spaces
    around a string, and the case of an e-mail address. Passwords are not compared, because a record never contains a
    password.
    """
    names = [name for name in sent if name != "password"]
    return tuple(name for name in names if _normal(name, sent[name]) != _normal(name, getattr(student, name)))


def _normal(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return sorted(value) or None
    if isinstance(value, str):
        text = value.strip()
        return (text.casefold() if name == "email" else text) or None
    return json_value(value) or None


def _json_list(name: str, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise invalid({name: ("must be a list, such as en,sl",)})
    return value


def _split(text: str) -> list[str]:
    return [element.strip() for element in text.split(",") if element.strip()]


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\s*-?\d{1,19}\s*", text, re.ASCII):
        raise invalid({name: ("must be a whole number",)})
    return int(text)
