"""Decode single JSON values from a record, depending on the kind of the field. Decoding is lenient.

If a value cannot be read or cannot be stored, an error is raised. The error message contains the kind of the value, but
never the value itself.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from rostersync import clock
from rostersync.managebac.decoding.parts import LONGEST_INTEGER, Numeral
from rostersync.records import FIELDS, LARGEST_ID, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEPEST = 64  # the maximum levels of nesting in a value of an unknown key; some programs cannot read deeper nesting

_WITHOUT_OFFSET = re.compile(r"[0-9W-]{7,10}[Tt ][0-9:.,]+")

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class WrongShapeError(ValueError):
    """Raised if a value has the wrong type for its field, or if no database can store the value."""


class UnreadableError(ValueError):
    """Raised if the value of a date or timestamp field is a string or number that is not a date or timestamp."""


def read_id(value: Any) -> int:
    if value is None:
        raise WrongShapeError("missing")
    number = _integer(value)
    if number <= 0:
        raise WrongShapeError("expected a positive integer")
    return number


def read_text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise WrongShapeError("a NUL character, which no database can store")
        if not value.isascii():
            _check_characters(value)
        return str(value)
    if kind is int:
        return str(value)
    if kind is Numeral:
        return str(value.text)
    raise _wrong("a string", value)


def _check_characters(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongShapeError("half a character (a lone surrogate), which no database can store") from None


def _integer(value: Any) -> int:
    if type(value) is str:
        digits = value.strip()
        if not (digits.isascii() and digits.removeprefix("-").isdigit()):
            raise _wrong("an integer", value)
        value = int(digits) if len(digits) <= LONGEST_INTEGER else LARGEST_ID + 1
    elif type(value) is not int:
        raise _wrong("an integer", value)
    if not -LARGEST_ID - 1 <= value <= LARGEST_ID:
        raise WrongShapeError("expected an integer of 64 bits, found a larger one")
    return int(value)


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    meaning = _BOOLEANS.get(str(value).strip().lower()) if type(value) in {str, int} else None
    if meaning is None:
        raise _wrong("true or false", value)
    return meaning


def read_timestamp(value: Any) -> datetime:
    """Return the time in a string.

    The time is in UTC if the string has no offset, or if it ends in ` UTC`, which is Ruby's format.

    Raises `UnreadableError` if the value is a string or number that is not a time, and `WrongShapeError` if the value
    has any other type.
    """
    if type(value) is not str:
        raise _unreadable("a timestamp", value)
    text = value.removesuffix(" UTC")
    try:
        return clock.from_text(f"{text}Z" if lacks_offset(text) else text)
    except ValueError:
        raise UnreadableError from None


def lacks_offset(served: Any) -> bool:
    """Return whether a value is a string with a date and a time, but without an offset from UTC."""
    return type(served) is str and _WITHOUT_OFFSET.fullmatch(served) is not None


def _date(value: Any) -> date:
    if type(value) is not str or value[4:5] != "-" or value[7:8] != "-":
        raise _unreadable("a date", value)
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UnreadableError from None


def _deleted_at(value: Any) -> datetime | None:
    """Return the time of a deletion, or None for an empty string, which some servers send instead of null."""
    return None if isinstance(value, str) and not value.strip() else read_timestamp(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(read_text(element) for element in _list(value) if element is not None)


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(_integer(element) for element in _list(value) if element is not None)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _wrong("a list", value)
    return value


def read_unknown(value: Any, depth: int) -> Any:
    """Return the value of an unknown key for `extra`. Raises `WrongShapeError` if a database cannot store the value."""
    kind = type(value)
    if kind is str:
        return read_text(value)
    if kind is bool or value is None:
        return value
    if kind is dict or kind is list:
        if depth >= _DEEPEST:
            raise WrongShapeError("nested too deeply to be stored")
        if kind is list:
            return [read_unknown(element, depth + 1) for element in value]
        return {read_text(name): read_unknown(element, depth + 1) for name, element in value.items()}
    return _number(value)


def _number(value: Any) -> int | float:
    """Return an integer or a finite float.

    Raises `WrongShapeError` if the number is too large for a float, because some databases could not store the number.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WrongShapeError("a number that is too large to be stored")
    return int(value) if type(value) is int else number


def count(served: Any) -> int:
    """Return a count from the meta of a list. Raises `ValueError` if the value is not an integer or is less than 0."""
    number = _integer(served)
    if number < 0:
        raise WrongShapeError("expected an integer of at least 0")
    return number


def _wrong(expected: str, value: Any) -> WrongShapeError:
    return WrongShapeError(f"expected {expected}, found {kind_of(value)}")


def _unreadable(expected: str, value: Any) -> ValueError:
    """Return the error to raise if `value` is not a date or timestamp.

    For a string or number, the error is `UnreadableError`, which means that the record keeps the value as it is. For a
    value of any other type, the error is `WrongShapeError`.
    """
    return UnreadableError() if type(value) in {str, int, float, Numeral} else _wrong(expected, value)


def kind_of(value: Any) -> str:
    return _KINDS.get(type(value), "something else")


_KINDS: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    Numeral: "a number with a fraction or an exponent",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}

_BY_KIND: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: read_text,
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: read_timestamp,
    Kind.TEXTS: _texts,
    Kind.INTEGERS: _integers,
}

DECODERS: dict[str, Callable[[Any], Any]] = {field.name: _BY_KIND[field.kind] for field in FIELDS}
DECODERS["deleted_at"] = _deleted_at
