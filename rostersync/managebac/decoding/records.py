"""Decode the API's student records into `Student`, or into `Rejected` if a record cannot be decoded.

Decoding is lenient. It accepts the variations that the API is known or suspected to have, such as integers as strings,
booleans as numbers, timestamps with any offset, and null for a missing value. If a value has the wrong type for its
field, the field is left empty, and the value is kept in `extra`. Such a value is called an odd value.

A record is rejected if it has no valid id, if it has more than `_MOST_ODD` odd values, if an odd value could change the
student's status, or if it has a value that the databases cannot store. A rejected record does not affect other records.
The reason for a rejection contains names of fields and kinds of JSON values, but never a value itself.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rostersync.managebac.decoding.parts import LARGEST, Members, UnusableError, value
from rostersync.managebac.decoding.values import (
    DECODERS,
    UnreadableError,
    WrongShapeError,
    kind_of,
    lacks_offset,
    read_id,
    read_text,
    read_timestamp,
    read_unknown,
)
from rostersync.records import FIELDS, LARGEST_ID, Kind, Rejected, Student, Timestamp, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.records import Row

KeyAndStamp = tuple[int | None, datetime | None, bool]
"""What we know about a row before it is decoded.

This is the id (None if it is missing or invalid), the timestamp that decides which of two rows is newer (see
`ListedRow`), and whether `updated_at` lacks an offset from UTC.
"""

_Sorted = tuple[dict[str, Any], dict[str, str], dict[str, WrongShapeError], dict[str, Any]]

_MOST_ODD = 3
"""The maximum number of odd values in a record. A value is odd if it has the wrong type for its field."""

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)

# The head of a record --------------------------------------------------------------------------------------------


class Head(msgspec.Struct):
    """The three members of a record that we read before decoding it. Each member may be any kind of JSON value."""

    id: Any = None
    updated_at: Any = None
    deleted_at: Any = None


class PlainHead(msgspec.Struct):
    """The head of a record that has the documented format and describes a student who is not deleted."""

    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]
    updated_at: Timestamp = None
    deleted_at: None = None


def key_and_stamp(record: bytes, check: Callable[[], None]) -> KeyAndStamp:
    """Return the id and timestamp of a record (see `KeyAndStamp`) without decoding it.

    If the record does not have the documented format, reading it takes longer, and `check` is called first.
    """
    try:
        plain = _PLAIN_HEAD.decode(record)
        if is_plain(plain.updated_at):
            return plain.id, plain.updated_at, False
    except (ValueError, RecursionError):
        pass
    check()
    head = head_of(record)
    return readable_id(head), stamp(head), lacks_offset(head.updated_at)


def head_of(record: bytes) -> Head:
    """Return the head of a record. If the record is not a JSON object, all members of the head are None."""
    try:
        members = _HEAD.of(record)
    except ValueError:
        return Head()
    return Head(**{name: _value_or_list(part) for name, part in members.items()})


def _value_or_list(part: bytes) -> Any:
    try:
        return value(part)
    except UnusableError:
        return []  # this means that there is a value, but it is not valid for any of the three members


def readable_id(head: Head) -> int | None:
    """Return the id of a record, or None if it is missing or invalid."""
    try:
        return read_id(head.id)
    except WrongShapeError:
        return None


def stamp(head: Head) -> datetime | None:
    """Return the timestamp that decides which of two rows is newer (see `ListedRow.updated_at`).

    Returns None if the record is of a deleted student, or if the timestamp cannot be read.
    """
    if head.deleted_at is not None:
        return None
    try:
        return read_timestamp(head.updated_at)
    except ValueError:
        return None


# Records ---------------------------------------------------------------------------------------------------------


def decode_record(text: bytes, check: Callable[[], None] = lambda: None) -> Row:
    """Decode a record from JSON text. Return the student, or the reason why the record was rejected.

    If the record cannot be decoded, we read only its head. The result then has the id, and a deleted student is still
    reported as deleted. If the record does not have the documented format, decoding takes longer, and `check` is called
    first.
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
    """Return the student that a decoded JSON value describes, or the reason why the value was rejected.

    * If the value of a field is null, the field counts as missing. A `password` is discarded.
    * If a date or timestamp cannot be read, the field is None, and the original text is kept in `extra`.
    * If a value is odd, the field is left empty, and the value is kept in `extra`. A record may have at most
      `_MOST_ODD` odd values.
    * If `deleted_at` cannot be read, the student still counts as deleted. We then use the time of the last update as
      the time of the deletion, or the time of the creation, or 1970.
    """
    if not isinstance(record, dict):
        return _reject(None, record, f"the record: expected an object, found {kind_of(record)}")
    try:
        key = read_id(record.get("id"))
    except WrongShapeError as error:
        return _reject(None, record, f"id: {error}")
    try:
        return _student(key, record)
    except WrongShapeError as error:
        return _deleted(key, record) or _reject(key, record, str(error))


def _decode_documented(text: bytes) -> Student | None:
    """Return the student from a record that has exactly the documented format, or None for any other record.

    `decode_student` would return the same student, but it takes ten times as long. In this function, msgspec does all
    the work.
    """
    if len(text) > LARGEST or _NUL in text:
        return None
    try:
        student = decode(text)
    except (ValueError, RecursionError):
        return None
    if student.extra or student.deleted_at is not None:
        return None
    return student if all(map(is_plain, _TIMES_OF(student))) else None


def is_plain(moment: datetime | None) -> bool:
    """Return whether a time needs no conversion, because it is None, or is in UTC and in whole milliseconds."""
    return moment is None or (moment.tzinfo is UTC and moment.microsecond % 1000 == 0)


def _deleted(key: int, record: dict[str, Any]) -> Student | None:
    """Return a student with only the id and `deleted_at`, or None if the record does not describe a deleted student."""
    try:
        deleted = _student(key, {"deleted_at": record.get("deleted_at")})
    except WrongShapeError:
        return None
    return deleted if deleted.deleted_at is not None else None


def _student(key: int, record: dict[str, Any]) -> Student:
    typed, unreadable, odd, extra = _sorted(record)
    if odd:
        _require_few(odd, unreadable | typed)
    if "deleted_at" in unreadable:
        typed["deleted_at"] = typed.get("updated_at") or typed.get("created_at") or _UNKNOWN_TIME
    return Student(id=key, extra=extra | unreadable, **typed)


def _sorted(record: dict[str, Any]) -> _Sorted:
    """Sort the values of a record into four dictionaries.

    Raises `WrongShapeError` if a database could not store one of the values.

    Returns:
        1. the values of those fields that could be read
        2. the original text of dates and timestamps that could not be read, by the name of the field
        3. the errors about odd values, by the name of the field
        4. the values for `extra`, which are the values of unknown keys and the odd values

    """
    typed: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    odd: dict[str, WrongShapeError] = {}
    extra: dict[str, Any] = {}
    name = ""
    try:
        for name, value in record.items():
            if value is None:
                continue
            decode = DECODERS.get(name)
            if decode is None:
                if name not in _NOT_KEPT:
                    extra[read_text(name)] = read_unknown(value, 0)
                continue
            try:
                typed[name] = decode(value)
            except UnreadableError:
                unreadable[name] = read_text(value)
            except WrongShapeError as error:
                odd[name] = error
                extra[name] = read_unknown(value, 0)
    except WrongShapeError as error:
        raise WrongShapeError(f"{name if name in DECODERS else 'an unknown key'}: {error}") from error
    return typed, unreadable, odd, extra


def _require_few(odd: dict[str, WrongShapeError], readable: dict[str, Any]) -> None:
    """Raise `WrongShapeError` if a record has too many odd values, or an odd value that could change its status.

    The first status field that has a usable value decides the status (see `derive_status`). If an earlier status field
    has an odd value, we reject the record, because a student who has left might otherwise be shown as enrolled. For the
    same reason, we reject a record with an odd `deleted_at`.
    """
    for name in ("deleted_at", *_STATUS_FIELDS):
        if name in odd:
            raise WrongShapeError(f"{name}: {odd[name]}")
        if name in _STATUS_FIELDS and _decides(name, readable.get(name)):
            break
    if len(odd) > _MOST_ODD:
        name, first = next(iter(odd.items()))
        raise WrongShapeError(f"{name}: {first}; and {len(odd) - 1} more fields have values of the wrong kind")


def _decides(name: str, value: Any) -> bool:
    """Return whether the value of a status field decides the status, so that later status fields do not matter."""
    return value is False if name == "archived" else bool(str(value or "").strip())


def _reject(key: int | None, record: Any, reason: str) -> Rejected:
    try:
        canonical = json.dumps(record, sort_keys=True)
    except RecursionError:
        canonical = "nested too deeply"
    return Rejected(key, hashlib.blake2b(canonical.encode(), digest_size=16).digest(), reason)


# The id is decoded separately. A password can only be written, so if the API ever returns a password, we discard it.
_NOT_KEPT = frozenset({"id", "password"})

_HEAD = Members(*Head.__struct_fields__)
_PLAIN_HEAD = msgspec.json.Decoder(PlainHead)
_STATUS_FIELDS = ("status", "archived", "graduated_on", "withdrawn_on")
_TIMES_OF = attrgetter(*(field.name for field in FIELDS if field.kind is Kind.TIMESTAMP))
_NUL = rb"\u0000"
