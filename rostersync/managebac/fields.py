"""What can be written of a student, and how it is sent.

The vendor's Students page (v2p1) names the fields in prose, its v2p3 document in a schema; neither says which of the
others are refused. So everything that is not known to be read-only may be sent, and the server has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, TypedDict

from rostersync.errors import Invalid
from rostersync.records import FIELDS, LARGEST_ID, Kind

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
"""Fields that a write cannot set, and what to do instead."""

WRITABLE: Mapping[str, Kind] = {
    **{field.name: field.kind for field in FIELDS if field.name not in READ_ONLY},
    "password": Kind.TEXT,
}
"""Fields that a write can set. `password` is never returned."""

REQUIRED = ("email", "last_name")
"""What a student cannot be without: the endpoint's text asks for the first only, v2p3's schema for both."""

_SHORTEST_PASSWORD = 6  # v2p3's schema


Messages = Mapping[str, tuple[str, ...]]


class StudentFields(TypedDict, total=False):
    """The fields of a student that can be written. None clears a field; one that is not named stays as it is.

    Dates are `datetime.date`, or text such as "2026-08-24".
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
    """Return what is sent for `fields`, as JSON knows it; for a `new` student without those that are None.

    None is sent as "" for a text, as [] for a list, and as null otherwise: the developer notes say that an empty text
    overwrites, and that null is ignored when a student is created.

    Raises `Invalid` with a message for each field that is unknown, read-only, of the wrong kind, or missing.
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
    """Raise `Invalid` for what must not be sent, if there is anything."""
    if messages:
        raise invalid(messages)


def invalid(messages: Messages) -> Invalid:
    """Return the error for what must not be sent: the messages by field, those about no single field under `base`."""
    pairs = [(name, text) for name, texts in messages.items() for text in texts]
    return Invalid("; ".join(text if name == "base" else f"{name} {text}" for name, text in pairs), fields=messages)


def check_id(student_id: int) -> None:
    """Raise `Invalid` for an id that no student has: ids count from 1, and fit 64 bits."""
    if not _is_id(student_id):
        refuse({"id": ("must be a whole number from 1",)})


def _is_id(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_ID


def to_date(value: object) -> str:
    """Return a date as `YYYY-MM-DD`. Raises `ValueError` for anything but a date, or a text that is one."""
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
        raise ValueError(_not_writable(name))
    if name in REQUIRED and (value is None or (isinstance(value, str) and not value.strip())):
        raise ValueError("cannot be empty")
    kind = WRITABLE[name]
    if value is None and name != "password":
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
    if not all(map(_is_id, value if isinstance(value, list) else [value])):
        raise ValueError("must be an id: a whole number from 1")


def _check_email(value: str) -> None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
        raise ValueError("must be an address with an @")


def _check_password(value: str) -> None:
    if len(value) < _SHORTEST_PASSWORD:
        raise ValueError(f"must have at least {_SHORTEST_PASSWORD} characters")


def _not_writable(name: str) -> str:
    if name in READ_ONLY:
        return f"cannot be written: {READ_ONLY[name]}"
    close = get_close_matches(name, WRITABLE, n=1)
    return "is not a field" + (f"; did you mean {close[0]}?" if close else "")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 - one kind of error for all that is wrong with a value
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half a character") from None
    return value


def _integer(value: object) -> int:
    if type(value) is not int or not -LARGEST_ID <= value <= LARGEST_ID:
        raise ValueError("must be a whole number")
    return value


def _list_of(encode: Callable[[object], Any]) -> Callable[[object], list[Any]]:
    def encode_all(value: object) -> list[Any]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError("must be a list")  # noqa: TRY004 - the same
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
