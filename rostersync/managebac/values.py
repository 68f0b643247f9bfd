"""The values in a record, read leniently: what each kind of field makes of what JSON may hold in its place.

What cannot be understood, or could not be stored, raises an error that names kinds of values, never a value.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from rostersync import clock
from rostersync.managebac.parts import LONGEST_INTEGER, Numeral
from rostersync.records import FIELDS, LARGEST_ID, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEPEST = 64  # levels of an unknown key's value: every reader of the database can take as many

_WITHOUT_OFFSET = re.compile(r"[0-9W-]{7,10}[Tt ][0-9:.,]+")

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class WrongShapeError(ValueError):
    """A value that its field cannot hold; the message says what was expected and what was found."""


class UnreadableError(ValueError):
    """A date or timestamp whose text says nothing that can be read."""


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
    """Read a time. One that ends in ` UTC`, as Ruby prints them, or that names no offset is in UTC."""
    if type(value) is not str:
        raise _unreadable("a timestamp", value)
    text = value.removesuffix(" UTC")
    try:
        return clock.from_text(f"{text}Z" if lacks_offset(text) else text)
    except ValueError:
        raise UnreadableError from None


def lacks_offset(served: Any) -> bool:
    """Return whether a value is a day and a time, and says nothing of an offset from UTC."""
    return type(served) is str and _WITHOUT_OFFSET.fullmatch(served) is not None


def _date(value: Any) -> date:
    if type(value) is not str or value[4:5] != "-" or value[7:8] != "-":
        raise _unreadable("a date", value)
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UnreadableError from None


def _deleted_at(value: Any) -> datetime | None:
    """Read when a record was deleted; an empty text is how some serializers write "not at all"."""
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
    """Return the value of an unknown key as it was served, once it is certain that a database can store it."""
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
    """Return an integer, or a float that is a finite number; what overflows a float overflows some database too."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WrongShapeError("a number that is too large to be stored")
    return int(value) if type(value) is int else number


def count(served: Any) -> int:
    """Return a count of a list's meta. Raises `ValueError` for what is none."""
    number = _integer(served)
    if number < 0:
        raise WrongShapeError("expected no negative number")
    return number


def _wrong(expected: str, value: Any) -> WrongShapeError:
    return WrongShapeError(f"expected {expected}, found {kind_of(value)}")


def _unreadable(expected: str, value: Any) -> ValueError:
    """Return how to give up on `value`: a string or number is kept as it is, anything else is of the wrong shape."""
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
