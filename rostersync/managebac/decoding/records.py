"""Decode the API's records of students into `Student`, or into `Rejected` if that is not possible.

Decoding is lenient. It accepts the variations that the API is known or suspected to have: integers as strings, booleans
as numbers, timestamps with any offset, and null for a missing value. A field that cannot hold its value is left empty,
and the value is kept in `extra`. A record is rejected if it has no valid id, if it has more than `_MOST_ODD` such
values, if one of them could change the student's status, or if it has a value that the databases cannot store. This
does not affect other records. The reason names fields and kinds of JSON values, but never contains a value.
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
"""What we know of a row before it is decoded: its id (None if it is missing or invalid), the timestamp that decides
which of two rows is newer (see `ListedRow`), and whether its `updated_at` lacks an offset from UTC."""

_Sorted = tuple[dict[str, Any], dict[str, str], dict[str, WrongShapeError], dict[str, Any]]

_MOST_ODD = 3
"""The most values of a record that may be odd. A value is odd if it is of a kind that its field cannot hold."""

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)

# The head of a record --------------------------------------------------------------------------------------------


class Head(msgspec.Struct):
    """The three members of a record that we read before decoding it. They may be of any JSON kind."""

    id: Any = None
    updated_at: Any = None
    deleted_at: Any = None


class PlainHead(msgspec.Struct):
    """The head of a record that is as the vendor documents it, of a student who is not deleted."""

    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]
    updated_at: Timestamp = None
    deleted_at: None = None


def key_and_stamp(record: bytes, check: Callable[[], None]) -> KeyAndStamp:
    """Return the id and timestamp of a record (see `KeyAndStamp`) without decoding it.

    `check` is called before the slow way, which is needed if the record is not as documented.
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
    """Return the head of a record. If the record is not an object, all members are None."""
    try:
        members = _HEAD.of(record)
    except ValueError:
        return Head()
    return Head(**{name: _value_or_list(part) for name, part in members.items()})


def _value_or_list(part: bytes) -> Any:
    try:
        return value(part)
    except UnusableError:
        return []  # a value that is present, but valid for none of the three members


def readable_id(head: Head) -> int | None:
    """Return the id of a record, or None if it is missing or invalid."""
    try:
        return read_id(head.id)
    except WrongShapeError:
        return None


def stamp(head: Head) -> datetime | None:
    """Return the timestamp that decides which of two rows is newer (see `ListedRow.updated_at`)."""
    if head.deleted_at is not None:
        return None
    try:
        return read_timestamp(head.updated_at)
    except ValueError:
        return None


# Records ---------------------------------------------------------------------------------------------------------


def decode_record(text: bytes, check: Callable[[], None] = lambda: None) -> Row:
    """Decode a record from JSON text. Return the student, or the reason why the record was rejected.

    If the record cannot be decoded, only its head is read. The result then has the id, and a deletion stays a deletion.
    `check` is called before the slow way, which is needed if the record is not as documented.
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
    """Return the student that a JSON value describes, or the reason why the value was rejected.

    * null counts as missing, and a `password` is dropped.
    * If a date or timestamp cannot be read, its field is None, and the text is kept in `extra`.
    * An odd value is treated in the same way. A record may have at most `_MOST_ODD` of them.
    * A `deleted_at` that cannot be read still means that the student is deleted. We then use the time of the last
      update, or of the creation, or 1970.
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
    """Return the student of a record that is exactly as the vendor documents it, or None for any other record.

    `decode_student` would return the same student, but takes ten times as long. Here, msgspec does all the work.
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
    """Return whether a time needs no conversion: it is None, or in UTC and in whole milliseconds."""
    return moment is None or (moment.tzinfo is UTC and moment.microsecond % 1000 == 0)


def _deleted(key: int, record: dict[str, Any]) -> Student | None:
    """Return a student with only the id and `deleted_at`. None if the record is not of a deleted student."""
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
    """Sort the values of a record.

    Raises `WrongShapeError` if a database could not store one of the values.

    Returns:
        1. the values of the fields that could be read
        2. the text of dates and timestamps that could not be read, by field
        3. the errors about odd values, by field
        4. the values for `extra`: unknown keys and odd values

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

    The first status field with a usable value decides the status (see `derive_status`). If that field or one before it
    is odd, we reject the record. Otherwise a student who has left might be shown as enrolled. The same is true for an
    odd `deleted_at`.
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
    """Return whether a value of a status field decides the status, so that later fields do not matter."""
    return value is False if name == "archived" else bool(str(value or "").strip())


def _reject(key: int | None, record: Any, reason: str) -> Rejected:
    try:
        canonical = json.dumps(record, sort_keys=True)
    except RecursionError:
        canonical = "nested too deeply"
    return Rejected(key, hashlib.blake2b(canonical.encode(), digest_size=16).digest(), reason)


# The id has its own reader. A password is write-only: if the API ever serves one, we do not keep it.
_NOT_KEPT = frozenset({"id", "password"})

_HEAD = Members(*Head.__struct_fields__)
_PLAIN_HEAD = msgspec.json.Decoder(PlainHead)
_STATUS_FIELDS = ("status", "archived", "graduated_on", "withdrawn_on")
_TIMES_OF = attrgetter(*(field.name for field in FIELDS if field.kind is Kind.TIMESTAMP))
_NUL = rb"\u0000"
