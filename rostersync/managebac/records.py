"""The vendor's records, read leniently and without losing anything: a Student, or a Rejected that says why.

What the API is known or suspected to vary in (integers as text, booleans as numbers, offsets of timestamps, null for
absent) is understood. A few values that their fields cannot hold leave these fields empty. More of them, and values
that could not be stored, reject their own record and no other. A reason names fields and kinds of JSON values, never a
value.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rostersync.managebac.parts import LARGEST, Members, UnusableError, value
from rostersync.managebac.values import (
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
"""What is known of a row before it is decoded: its id, the time that decides which of two rows is newer (see
`ListedRow`), and whether its `updated_at` names no offset from UTC."""

_Sorted = tuple[dict[str, Any], dict[str, str], dict[str, WrongShapeError], dict[str, Any]]

_MOST_ODD = 3
"""So many values of a record may be odd, that is of a kind that their fields cannot hold."""

_NOBODY_KNOWS_WHEN = datetime(1970, 1, 1, tzinfo=UTC)

# The head of a record --------------------------------------------------------------------------------------------


class Head(msgspec.Struct):
    """What is known of a record without decoding it. Of one that is not as documented the values may be of any kind."""

    id: Any = None
    updated_at: Any = None
    deleted_at: Any = None


class PlainHead(msgspec.Struct):
    """The head of a record that is as documented, and of a student who is living."""

    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]
    updated_at: Timestamp = None
    deleted_at: None = None


def key_and_stamp(record: bytes, check: Callable[[], None]) -> KeyAndStamp:
    """Return what is known of a record before it is decoded; the id is None if it is missing or cannot be one.

    `check` is called before a record that is not as documented, because such a record takes time.
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
        return read_id(head.id)
    except WrongShapeError:
        return None


def stamp(head: Head) -> datetime | None:
    """Return what tells that a row is newer than another: see `ListedRow`."""
    if head.deleted_at is not None:
        return None
    try:
        return read_timestamp(head.updated_at)
    except ValueError:
        return None


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

    `null` is absent; a `password` is dropped. A date or timestamp that cannot be read leaves its field None and its
    text in `extra`; so does an odd value, of which a record may have `_MOST_ODD`. A `deleted_at` that cannot be read
    still says "gone": the time is then that of the last update.
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
    return student if all(map(is_plain, _TIMES_OF(student))) else None


def is_plain(moment: datetime | None) -> bool:
    """Tell whether a time needs no conversion: it is in UTC, and in whole milliseconds, or there is none."""
    return moment is None or (moment.tzinfo is UTC and moment.microsecond % 1000 == 0)


def _deleted(key: int, record: dict[str, Any]) -> Student | None:
    """Return all that is ever used of a deletion entry: the id, and when; None for a living student."""
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
        typed["deleted_at"] = typed.get("updated_at") or typed.get("created_at") or _NOBODY_KNOWS_WHEN
    return Student(id=key, extra=extra | unreadable, **typed)


def _sorted(record: dict[str, Any]) -> _Sorted:
    """Return the fields that were read, the texts of dates that cannot be, why others are odd, and what `extra` gets.

    Raises `WrongShapeError` for a value that could not be stored.
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
    """Raise `WrongShapeError` if a record has too many odd values, or one that decides what became of the student.

    The first of the status fields that says anything decides the status: see `derive_status`. If that one is odd, no
    reading of it is safe: the student might be shown as enrolled who is not. A `deleted_at` decides as much.
    """
    for name in ("deleted_at", *_STATUS_FIELDS):
        if name in odd:
            raise WrongShapeError(f"{name}: {odd[name]}")
        if name in _STATUS_FIELDS and _decides(name, readable.get(name)):
            break
    if len(odd) > _MOST_ODD:
        name, first = next(iter(odd.items()))
        raise WrongShapeError(f"{name}: {first}; and {len(odd) - 1} more fields hold what they cannot")


def _decides(name: str, value: Any) -> bool:
    """Return whether a value of a status field leaves nothing for the fields after it to say."""
    return value is False if name == "archived" else bool(str(value or "").strip())


def _reject(key: int | None, record: Any, reason: str) -> Rejected:
    try:
        canonical = json.dumps(record, sort_keys=True)
    except RecursionError:
        canonical = "nested too deeply"
    return Rejected(key, hashlib.blake2b(canonical.encode(), digest_size=16).digest(), reason)


# The id has its own reader. A password is write-only; should it ever be served, it stays on the wire.
_NOT_KEPT = frozenset({"id", "password"})

_HEAD = Members(*Head.__struct_fields__)
_PLAIN_HEAD = msgspec.json.Decoder(PlainHead)
_STATUS_FIELDS = ("status", "archived", "graduated_on", "withdrawn_on")
_TIMES_OF = attrgetter(*(field.name for field in FIELDS if field.kind is Kind.TIMESTAMP))
_NUL = rb"\u0000"
