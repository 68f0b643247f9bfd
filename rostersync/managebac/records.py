"""The vendor's JSON, read leniently and without losing anything: a Student, or a Rejected that says why.

What the API is known or suspected to vary in (integers as text, booleans as numbers, offsets of timestamps, null for
absent) is understood. What cannot be understood, or could not be stored, rejects its own record and no other. A reason
names fields and kinds of JSON values, never a value.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import msgspec

from rostersync import clock
from rostersync.errors import Malformed
from rostersync.records import FIELDS, LARGEST_ID, Kind, ListedRow, Page, Rejected, Student, derive_status, row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rostersync.records import Moment, Row

_META = ("current_page", "total_pages", "total_count", "per_page")
_LONGEST_INTEGER = 20  # characters: more cannot fit 64 bits
_LONGEST_MESSAGE = 500  # characters of an error's text
_DEEPEST = 64  # levels of an unknown key's value: every reader of the database can take as many
_NOBODY_KNOWS_WHEN = datetime(1970, 1, 1, tzinfo=UTC)

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Numeral(float):
    """A JSON number with a fraction or an exponent, and how it was written: the text `1.10` is not the text `1.1`."""

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class _WrongShapeError(ValueError):
    """A value that its field cannot hold; the message says what was expected and what was found."""


class _UnreadableError(ValueError):
    """A date or timestamp whose text says nothing that can be read."""


# Documents -------------------------------------------------------------------------------------------------------


def decode_page(body: bytes, number: int, moment: Moment) -> Page:
    """Return the page `number` that `body` holds, made at `moment`; records that cannot be decoded stand in it too.

    A page may have more rows than its total_count: that is what a student created between the server's count and its
    select looks like. It proves nothing, so what to make of it is left to `sync.lists`.

    Raises `Malformed` when this is no list of students with a usable meta, or an empty first page that claims rows.
    """
    document = _document(body)
    rows, meta = document.get("students"), document.get("meta")
    if not isinstance(rows, list):
        raise Malformed("the answer holds no list of students")
    if not isinstance(meta, dict):
        raise Malformed("the answer has no meta, so nothing says how many students there are")
    counts = {key: _count(key, meta.get(key)) for key in _META}
    if not rows and number == 1 and counts["total_count"] > 0:
        raise Malformed("the first page is empty, and yet its meta counts students")
    return Page(
        number=number,
        listed=tuple(_listed(rows)),
        total_count=counts["total_count"],
        total_pages=counts["total_pages"],
        per_page=counts["per_page"],
        moment=moment,
    )


def _listed(records: list[Any]) -> Iterator[ListedRow]:
    """Yield the rows of a page undecoded, but for records without a readable id.

    Of these, equal ones get different digests: a list counts each.
    """
    copies: Counter[bytes] = Counter()
    for record in records:
        if (key := _readable_id(record)) is not None:
            yield ListedRow(key, _stamp(record), partial(decode_student, record))
            continue
        row = decode_student(record)
        assert isinstance(row, Rejected), "a record without an id is no student"
        digest = hashlib.blake2b(row.digest + b"%d" % copies[row.digest], digest_size=16).digest()
        copies[row.digest] += 1
        row = replace(row, digest=digest)
        yield ListedRow(row_key(row), None, partial(_same, row))


def _same(row: Row) -> Row:
    return row


def _readable_id(record: Any) -> int | None:
    try:
        return _id(record.get("id")) if isinstance(record, dict) else None
    except _WrongShapeError:
        return None


def _stamp(record: dict[str, Any]) -> datetime | None:
    """Return what tells that a row is newer than another: see `ListedRow`."""
    if record.get("deleted_at") is not None:
        return None
    try:
        return _timestamp(record.get("updated_at"))
    except ValueError:
        return None


def decode_single(body: bytes) -> Row:
    """Return the record of an answer to a request for one student. Raises `Malformed` when there is none in it."""
    record = _document(body).get("student")
    if not isinstance(record, dict):
        raise Malformed("the answer holds no student")
    return decode_student(record)


def is_error(body: bytes) -> bool:
    """Say whether `body` is the API's own way to say no: a JSON object with `error` or `errors`."""
    try:
        return not {"error", "errors"}.isdisjoint(_document(body))
    except Malformed:
        return False


def says_done(body: bytes) -> bool:
    """Say whether `body` may be the API's answer to a write that returns no record: an object, no error, or nothing."""
    try:
        return not body.strip() or {"error", "errors"}.isdisjoint(_document(body))
    except Malformed:
        return False


def field_messages(body: bytes) -> dict[str, tuple[str, ...]]:
    """Return what an error says of each field; under `base`, what is about none of them.

    The vendor documents `errors` with lists by field, and `error` with a text or, elsewhere, with such lists, beside
    `allowed_params` where a field is not permitted. Nothing for any other body.
    """
    try:
        document = _document(body)
    except Malformed:
        return {}
    found = [document.get("errors"), document.get("error"), document.get("allowed_params")]
    errors, error, allowed = (_messages(value) for value in found)
    messages = errors | error
    if allowed:
        messages["base"] = (*messages.get("base", ()), "allowed are: " + ", ".join(allowed["base"]))
    return messages


def _messages(value: Any) -> dict[str, tuple[str, ...]]:
    by_field = value if isinstance(value, dict) else {"base": value}
    lists = {name: texts if isinstance(texts, list) else [texts] for name, texts in by_field.items()}
    readable = {_printable(name): tuple(_printable(text) for text in texts if text) for name, texts in lists.items()}
    return {name: texts for name, texts in readable.items() if texts}


def _printable(value: Any) -> str:
    """Return a text of the server's for people to read: no control characters, and not without end."""
    return "".join(character if character.isprintable() else " " for character in str(value)[:_LONGEST_MESSAGE])


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = _DECODER.decode(body)
    except (ValueError, RecursionError):
        document = _decode_leniently(body)
    if not isinstance(document, dict):
        raise Malformed("the answer is JSON, but no object")
    return document


def _decode_leniently(body: bytes) -> Any:
    """Read what msgspec refuses as a whole, so that a bad character in one record does not lose the others."""
    try:
        return _LENIENT.decode(body.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise Malformed("the answer is no JSON, or not the whole of it") from error


def _numeral_if_long(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST_INTEGER else Numeral(text)


_DECODER = msgspec.json.Decoder(float_hook=Numeral)
_LENIENT = json.JSONDecoder(parse_float=Numeral, parse_int=_numeral_if_long, strict=False)


def _count(key: str, value: Any) -> int:
    try:
        number = _integer(value)
    except _WrongShapeError as error:
        raise Malformed(f"meta.{key}: {error}") from error
    if number < 0:
        raise Malformed(f"meta.{key}: expected no negative number")
    return number


# Records ---------------------------------------------------------------------------------------------------------


def decode_student(record: Any) -> Row:
    """Return the student that a decoded JSON value describes, or why it cannot be one.

    `null` is absent; a `password` is dropped; a date or timestamp that cannot be read leaves its field None and its
    text in `extra`. A `deleted_at` that cannot be read still says "gone": the time is then that of the last update.
    """
    if not isinstance(record, dict):
        return _reject(None, record, f"the record: expected an object, found {_kind_of(record)}")
    return _decode_documented(record) or _decode_lenient(record)


def _decode_documented(record: dict[str, Any]) -> Student | None:
    """Return the student of a record that is as the vendor documents it, or None for the patient way.

    It agrees with the patient way in a quarter of the time: nearly all the work is done by msgspec.
    """
    if record.get("deleted_at") is not None:
        return None
    try:
        if _NUL in _ENCODER.encode(record):  # and what is no Unicode cannot be encoded
            return None
        changes: dict[str, Any] = {
            name: _timestamp(text)
            for name in _TIMESTAMPS
            if (text := record.get(name)) is not None and not _is_documented_timestamp(text)
        }
        changes["extra"] = {
            name: _plain(value, 0) for name, value in record.items() if name not in _KNOWN and value is not None
        }
        if record.get("status") in _NO_STATUS:
            changes["status"] = derive_status(record)
        return msgspec.convert(record | changes, Student)
    except (ValueError, TypeError, RecursionError):  # msgspec's errors are ValueErrors
        return None


def _is_documented_timestamp(text: Any) -> bool:
    return type(text) is str and len(text) == len("2021-06-28T12:40:05.000Z") and text[-1] == "Z"


def _decode_lenient(record: dict[str, Any]) -> Row:
    try:
        key = _id(record.get("id"))
    except _WrongShapeError as error:
        return _reject(None, record, f"id: {error}")
    try:
        return _student(key, record)
    except _WrongShapeError as error:
        return _deleted(key, record) or _reject(key, record, str(error))


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
        typed["status"] = derive_status(typed)
        return Student(id=key, extra=extra, **typed)
    if "deleted_at" in unreadable:
        typed["deleted_at"] = typed.get("updated_at") or typed.get("created_at") or _NOBODY_KNOWS_WHEN
    # A graduation on a day that cannot be read is a graduation all the same; one on no day is none.
    present = {name: text for name, text in unreadable.items() if text.strip()}
    typed["status"] = derive_status(present | typed)
    return Student(id=key, extra=extra | unreadable, **typed)


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
        value = int(digits) if len(digits) <= _LONGEST_INTEGER else LARGEST_ID + 1
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

_KNOWN = _DECODERS.keys() | _NOT_KEPT
_TIMESTAMPS = tuple(field.name for field in FIELDS if field.kind is Kind.TIMESTAMP)
_NO_STATUS = (None, "")
_NUL = rb"\u0000"
_ENCODER = msgspec.json.Encoder()
