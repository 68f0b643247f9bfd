"""Decode single JSON values of a record, leniently, by the kind of their field.

A value that cannot be understood or stored raises an error. The message names the kind of the value, but never contains
the value itself.
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

_DEEPEST = 64  # levels of nesting in the value of an unknown key, so that every program can read it from the database

_WITHOUT_OFFSET = re.compile(r"[0-9W-]{7,10}[Tt ][0-9:.,]+")

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class WrongShapeError(ValueError):
    """A value that its field cannot hold, or that no database can store. The message says what is wrong with it."""


class UnreadableError(ValueError):
    """A string or number that cannot be read as the date or timestamp that its field needs."""


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
    """Return a time. It is in UTC if it ends in ` UTC`, as Ruby prints it, or if it has no offset.

    Raises `UnreadableError` if a string or number is not a time, and `WrongShapeError` for a value of any other kind.
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
    """Return the time of a deletion, or None for an empty string, which some serializers write instead of null."""
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
    """Return the value of an unknown key as it was served. Raises `WrongShapeError` if a database cannot store it."""
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
    """Return an integer or a finite float. A number that is too large for a float is too large for some database."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WrongShapeError("a number that is too large to be stored")
    return int(value) if type(value) is int else number


def count(served: Any) -> int:
    """Return a count from the meta of a list. Raises `ValueError` if the value is not an integer from 0."""
    number = _integer(served)
    if number < 0:
        raise WrongShapeError("expected a number from 0")
    return number


def _wrong(expected: str, value: Any) -> WrongShapeError:
    return WrongShapeError(f"expected {expected}, found {kind_of(value)}")


def _unreadable(expected: str, value: Any) -> ValueError:
    """Return the error to raise if `value` is not a date or timestamp.

    `UnreadableError` means that the record keeps the string or number as it is. Values of other kinds are wrong.
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
