"""The vendor's records, read leniently and without losing anything: a Student, or a Rejected that says why.

What the API is known or suspected to vary in (integers as text, booleans as numbers, offsets of timestamps, null for
absent) is understood. What cannot be understood, or could not be stored, rejects its own record and no other. A reason
names fields and kinds of JSON values, never a value.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec.structs import force_setattr

from rostersync import clock
from rostersync.managebac.parts import LARGEST, LONGEST_INTEGER, Members, Numeral, UnusableError, value
from rostersync.records import FIELDS, LARGEST_ID, Kind, Rejected, Student, Timestamp, decode, derive_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.records import Row

_DEEPEST = 64  # levels of an unknown key's value: every reader of the database can take as many
_NOBODY_KNOWS_WHEN = datetime(1970, 1, 1, tzinfo=UTC)

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class _WrongShapeError(ValueError):
    """A value that its field cannot hold; the message says what was expected and what was found."""


class _UnreadableError(ValueError):
    """A date or timestamp whose text says nothing that can be read."""


# The head of a record --------------------------------------------------------------------------------------------


class Head(msgspec.Struct):
    """What is known of a record without decoding it. Of one that is not as documented the values may be of any kind."""

    id: Any = None
    updated_at: Any = None
    deleted_at: Any = None


class _PlainHead(msgspec.Struct):
    """The head of a record that is as documented, and of a student who is living."""

    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]
    updated_at: Timestamp = None
    deleted_at: None = None


def key_and_stamp(record: bytes, check: Callable[[], None]) -> tuple[int | None, datetime | None]:
    """Return the id of a record, None where it is missing or cannot be one; and what tells whether a row is newer.

    See `ListedRow`. `check` is called before a record that is not as documented, for that takes time.
    """
    try:
        plain = _PLAIN_HEAD.decode(record)
        if plain.updated_at is None or _is_plain(plain.updated_at):
            return plain.id, plain.updated_at
    except (ValueError, RecursionError):
        pass
    check()
    head = head_of(record)
    return readable_id(head), stamp(head)


def head_of(record: bytes) -> Head:
    """Return the head of a record; nothing is in it for what is no object."""
    try:
        members = _HEAD.of(record)
    except ValueError:
        return Head()
    return Head(**{name: _value_or_list(part) for name, part in members.items()})


def _value_or_list(part: bytes) -> Any:
    try:
        return value(part)
    except UnusableError:
        return []  # there, and of no use to any of the three


def readable_id(head: Head) -> int | None:
    """Return the id of a record, None where it is missing or cannot be one."""
    try:
        return _id(head.id)
    except _WrongShapeError:
        return None


def stamp(head: Head) -> datetime | None:
    """Return what tells that a row is newer than another: see `ListedRow`."""
    if head.deleted_at is not None:
        return None
    try:
        return _timestamp(head.updated_at)
    except ValueError:
        return None


def count(served: Any) -> int:
    """Return a count of a list's meta. Raises `ValueError` for what is none."""
    number = _integer(served)
    if number < 0:
        raise _WrongShapeError("expected no negative number")
    return number


# Records ---------------------------------------------------------------------------------------------------------


def decode_record(text: bytes, check: Callable[[], None] = lambda: None) -> Row:
    """Return what `decode_student` makes of a record's text; of one that cannot be decoded its id is read at least.

    `check` is called before a record that is not as documented, for that takes time.
    """
    if student := _decode_documented(text):
        return student
    check()
    try:
        return decode_student(value(text))
    except UnusableError as error:
        return _refuse(text, f"the record: {error}")


def _refuse(text: bytes, reason: str) -> Row:
    head = head_of(text)
    key = readable_id(head)
    deleted = None if key is None else _deleted(key, {"deleted_at": head.deleted_at})
    return deleted or Rejected(key, hashlib.blake2b(text, digest_size=16).digest(), reason)


def decode_student(record: Any) -> Row:
    """Return the student that a decoded JSON value describes, or why it cannot be one.

    `null` is absent; a `password` is dropped; a date or timestamp that cannot be read leaves its field None and its
    text in `extra`. A `deleted_at` that cannot be read still says "gone": the time is then that of the last update.
    """
    if not isinstance(record, dict):
        return _reject(None, record, f"the record: expected an object, found {_kind_of(record)}")
    try:
        key = _id(record.get("id"))
    except _WrongShapeError as error:
        return _reject(None, record, f"id: {error}")
    try:
        return _student(key, record)
    except _WrongShapeError as error:
        return _deleted(key, record) or _reject(key, record, str(error))


def _decode_documented(text: bytes) -> Student | None:
    """Return the student of a record that is just as the vendor documents it, or None for the patient way.

    It agrees with the patient way in a tenth of the time: msgspec does all the work.
    """
    if len(text) > LARGEST or _NUL in text:
        return None
    try:
        student = decode(text)
    except (ValueError, RecursionError):
        return None
    if student.extra or student.deleted_at is not None:
        return None
    for moment in _TIMES_OF(student):
        if moment is not None and not _is_plain(moment):
            return None
    if not student.status:
        force_setattr(student, "status", derive_status(*_STATUS_OF(student)))  # nobody has seen it yet
    return student


def _is_plain(moment: datetime) -> bool:
    """Tell whether a time needs no conversion: it is in UTC, and in whole milliseconds."""
    return moment.tzinfo is UTC and moment.microsecond % 1000 == 0


def _deleted(key: int, record: dict[str, Any]) -> Student | None:
    """Return all that is ever used of a deletion entry: the id, and when; None for a living student."""
    try:
        deleted = _student(key, {"deleted_at": record.get("deleted_at")})
    except _WrongShapeError:
        return None
    return deleted if deleted.deleted_at is not None else None


def _student(key: int, record: dict[str, Any]) -> Student:
    typed: dict[str, Any] = {}
    unreadable: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    name = ""
    try:
        for name, value in record.items():
            if value is None:
                continue
            decode = _DECODERS.get(name)
            if decode is None:
                if name not in _NOT_KEPT:
                    extra[_text(name)] = _plain(value, 0)
                continue
            try:
                typed[name] = decode(value)
            except _UnreadableError:
                unreadable[name] = _text(value)
    except _WrongShapeError as error:
        raise _WrongShapeError(f"{name if name in _DECODERS else 'an unknown key'}: {error}") from error
    if not unreadable:
        typed["status"] = _status(typed)
        return Student(id=key, extra=extra, **typed)
    if "deleted_at" in unreadable:
        typed["deleted_at"] = typed.get("updated_at") or typed.get("created_at") or _NOBODY_KNOWS_WHEN
    # A graduation on a day that cannot be read is a graduation all the same; one on no day is none.
    present = {name: text for name, text in unreadable.items() if text.strip()}
    typed["status"] = _status(present | typed)
    return Student(id=key, extra=extra | unreadable, **typed)


def _status(fields: dict[str, Any]) -> str:
    return derive_status(*map(fields.get, _STATUS_FIELDS))


def _reject(key: int | None, record: Any, reason: str) -> Rejected:
    try:
        canonical = json.dumps(record, sort_keys=True)
    except RecursionError:
        canonical = "nested too deeply"
    return Rejected(key, hashlib.blake2b(canonical.encode(), digest_size=16).digest(), reason)


# Values ----------------------------------------------------------------------------------------------------------


def _id(value: Any) -> int:
    if value is None:
        raise _WrongShapeError("missing")
    number = _integer(value)
    if number <= 0:
        raise _WrongShapeError("expected a positive integer")
    return number


def _text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise _WrongShapeError("a NUL character, which no database can store")
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
        raise _WrongShapeError("half a character (a lone surrogate), which no database can store") from None


def _integer(value: Any) -> int:
    if type(value) is str:
        digits = value.strip()
        if not (digits.isascii() and digits.removeprefix("-").isdigit()):
            raise _wrong("an integer", value)
        value = int(digits) if len(digits) <= LONGEST_INTEGER else LARGEST_ID + 1
    elif type(value) is not int:
        raise _wrong("an integer", value)
    if not -LARGEST_ID - 1 <= value <= LARGEST_ID:
        raise _WrongShapeError("expected an integer of 64 bits, found a larger one")
    return int(value)


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    meaning = _BOOLEANS.get(str(value).strip().lower()) if type(value) in {str, int} else None
    if meaning is None:
        raise _wrong("true or false", value)
    return meaning


def _timestamp(value: Any) -> datetime:
    if type(value) is not str:
        raise _unreadable("a timestamp", value)
    try:
        return clock.from_text(value)
    except ValueError:
        raise _UnreadableError from None


def _date(value: Any) -> date:
    if type(value) is not str or value[4:5] != "-" or value[7:8] != "-":
        raise _unreadable("a date", value)
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise _UnreadableError from None


def _deleted_at(value: Any) -> datetime | None:
    """Read when a record was deleted; an empty text is how some serializers write "not at all"."""
    return None if isinstance(value, str) and not value.strip() else _timestamp(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(element) for element in _list(value) if element is not None)


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(_integer(element) for element in _list(value) if element is not None)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _wrong("a list", value)
    return value


def _plain(value: Any, depth: int) -> Any:
    """Return the value of an unknown key as it was served, once it is certain that a database can store it."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is bool or value is None:
        return value
    if kind is dict or kind is list:
        if depth >= _DEEPEST:
            raise _WrongShapeError("nested too deeply to be stored")
        if kind is list:
            return [_plain(element, depth + 1) for element in value]
        return {_text(name): _plain(element, depth + 1) for name, element in value.items()}
    return _number(value)


def _number(value: Any) -> int | float:
    """Return an integer, or a float that is a finite number; what overflows a float overflows some database too."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _WrongShapeError("a number that is too large to be stored")
    return int(value) if type(value) is int else number


def _wrong(expected: str, value: Any) -> _WrongShapeError:
    return _WrongShapeError(f"expected {expected}, found {_kind_of(value)}")


def _unreadable(expected: str, value: Any) -> ValueError:
    """Return how to give up on `value`: a string or number is kept as it is, anything else is of the wrong shape."""
    return _UnreadableError() if type(value) in {str, int, float, Numeral} else _wrong(expected, value)


def _kind_of(value: Any) -> str:
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
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
    Kind.TEXTS: _texts,
    Kind.INTEGERS: _integers,
}

_DECODERS: dict[str, Callable[[Any], Any]] = {field.name: _BY_KIND[field.kind] for field in FIELDS}
_DECODERS["deleted_at"] = _deleted_at

# The id has its own reader. A password is write-only; should it ever be served, it stays on the wire.
_NOT_KEPT = frozenset({"id", "password"})

_HEAD = Members(*Head.__struct_fields__)
_PLAIN_HEAD = msgspec.json.Decoder(_PlainHead)
_STATUS_FIELDS = ("status", "graduated_on", "withdrawn_on", "archived")
_STATUS_OF = attrgetter(*_STATUS_FIELDS)
_TIMES_OF = attrgetter(*(field.name for field in FIELDS if field.kind is Kind.TIMESTAMP))
_NUL = rb"\u0000"
