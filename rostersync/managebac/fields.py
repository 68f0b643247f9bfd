"""What can be written of a student, and how it is sent.

The vendor's Students page (v2p1) names the fields in prose, its v2p3 document in a schema; neither says which of the
others are refused. So everything that is not known to be read-only may be sent, and the server has the last word.
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
"""Fields that a write cannot set, and what to do instead."""

UNWRITABLE: Mapping[str, str] = {
    **READ_ONLY,
    "extra": "rostersync does not know these fields",
    "deleted_at": _BY_THE_SERVER,
}
"""All of a `Student` that a write cannot set: also the fields that rostersync does not know, and a deletion."""

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
    return Invalid("; ".join(lines(messages)), fields=messages)


def lines(messages: Messages) -> list[str]:
    """Return a line for each message."""
    pairs = [(name, text) for name, texts in messages.items() for text in texts]
    return [text if name == "base" else f"{name} {text}" for name, text in pairs]


def check_id(student_id: int) -> None:
    """Raise `Invalid` for an id that no student has: ids count from 1, and fit 64 bits."""
    if not is_id(student_id):
        refuse({"id": ("must be a whole number from 1",)})


def archive_date(dates: Mapping[str, object]) -> dict[str, str]:
    """Return the one date of an archiving, `withdrawn_on` or `graduated_on`, as it is sent; None is no date.

    Raises `Invalid` for both, for none, and for what is not a date.
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
    """Tell whether a value can be an id: ids count from 1, and fit 64 bits."""
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
    """Return why a field cannot be written, and what to do instead if that is known."""
    if name in UNWRITABLE:
        return f"cannot be written: {UNWRITABLE[name]}"
    close = get_close_matches(name, WRITABLE, n=1)
    return "is not a field" + (f"; did you mean {close[0]}?" if close else "")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 - one kind of error for all that is wrong with a value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half a character") from None
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


# The way back ----------------------------------------------------------------------------------------------------


def typed(name: str, text: str) -> Any:
    """Return the value that `text`, as typed or in a cell of a CSV, means for a field.

    A list is `en,sl` or a JSON array; a number is written in digits. An unknown field's text stays as it is, for
    `payload` to refuse. Raises `Invalid` for a text that its field cannot be.
    """
    kind = WRITABLE.get(name)
    if kind in {Kind.TEXTS, Kind.INTEGERS}:
        elements = _json_list(name, text) if text.lstrip().startswith("[") else _split(text)
        return [_number(name, e) if kind is Kind.INTEGERS and isinstance(e, str) else e for e in elements]
    return _number(name, text) if kind is Kind.INTEGER else text


def not_taken(sent: Mapping[str, Any], student: Student) -> tuple[str, ...]:
    """Return the names of the fields of a payload that the student's record does not show as they were sent.

    What is missing counts as empty, or as false; the order of a list and spaces around a text do not matter, nor does
    the case of an e-mail address. A password is never shown.
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
