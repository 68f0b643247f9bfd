"""Combine a student's list row and GET response into one record.

ManageBac serves a student in two ways, as a row of a list and as the response to GET. A list row may lack keys that GET
serves, such as the parents. A GET response may lack keys that lists serve, such as the program. Therefore, rostersync
stores two records for each student, and always replaces each of them as a whole:

* the **list record**: the last list row
* the **detail**: the keys of the last GET response that lists do not serve, with their values

If lists serve a key, its value comes from the list record. If the list record lacks a key that lists serve, the key was
cleared. For all other keys, the value comes from the list record if it has the key, or else from the detail. A GET
response that was requested to refresh a student, or to prove that a student still exists, is normally newer than the
list row. For the keys that GET serves, a newer GET response also replaces the values in the list record.

This module does no I/O. A `Keys` object records which keys lists serve and which keys GET serves.
"""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from rostersync.clock import floor_seconds
from rostersync.records import FIELD_NAMES, Student, content_hash, encode, with_status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

MOST_KEYS = 1_000
"""The largest number of keys to store for a source. Only a faulty or hostile server serves more keys than this."""

_NAMES = frozenset(FIELD_NAMES)
_NOTHING: frozenset[str] = frozenset()


def key_digest(name: str, salt: bytes) -> str:
    """Return a salted digest of a key's name.

    The names of unknown keys are not stored, because a name may itself be personal data, such as an e-mail address. The
    stored digests are kept even after a student's data has been deleted.
    """
    return hashlib.blake2b(name.encode(), digest_size=8, key=salt).hexdigest()


class Keys(msgspec.Struct, frozen=True):
    """The keys that lists and GET are known to serve for a source.

    Fields are identified by name, and all other keys by digest.
    """

    salt: bytes = b""
    listed: frozenset[str] | None = None
    """Keys that lists serve.

    Before a full run has read a clean roster, the value is None, and rostersync assumes that lists serve all keys.
    """
    fetched: frozenset[str] | None = None
    """Keys that GET serves. None until a GET response has been compared with a list row."""
    omitted: frozenset[str] = _NOTHING
    """Keys that were in a student's list row but not in the GET response."""
    detail: frozenset[str] = _NOTHING
    """Keys that were in a student's GET response but not in the list row, except the keys in `listed`."""
    probed_at: datetime | None = None
    """The last time (UTC) when a student was requested solely to find out which keys GET serves."""

    def lists_serve(self, key: str) -> bool:
        """Return whether the absence of `key` from a list row means that the key was cleared."""
        return self.listed is None or self._name(key) in self.listed

    def get_serves(self, key: str) -> bool:
        """Return whether the absence of `key` from a GET response means that the key was cleared."""
        name = self._name(key)
        return self.fetched is not None and name in self.fetched and name not in self.omitted

    def is_detail(self, key: str) -> bool:
        """Return whether GET, but not lists, is known to serve `key`."""
        return self._name(key) in self.detail

    def with_listed(self, keys: Iterable[str]) -> Keys:
        """Return a copy that records that lists also serve `keys`. Keys that lists serve are removed from `detail`."""
        listed = self._add(self.listed, keys)
        return replace(self, listed=listed, detail=self.detail - listed)

    def with_fetched(self, keys: AbstractSet[str]) -> Keys:
        """Return a copy that records that GET also serves `keys`.

        If `fetched` is None, return this object unchanged.
        """
        return self if self.fetched is None else replace(self, fetched=self._add(self.fetched, keys))

    def compared(self, listed: AbstractSet[str], fetched: AbstractSet[str]) -> Keys:
        """Return a copy that is updated with the keys of a list row and of a GET response.

        The row and the response must describe the same student as of the same moment.

        Args:
            listed: The keys of the list row.
            fetched: The keys of the GET response.

        """
        only_fetched = {key for key in fetched - listed if not self.lists_serve(key)}
        return replace(
            self,
            fetched=self._add(self.fetched, fetched),
            omitted=self._add(self.omitted, listed - fetched),
            detail=self._add(self.detail, only_fetched),
        )

    def _add(self, known: frozenset[str] | None, keys: Iterable[str]) -> frozenset[str]:
        known = known or _NOTHING
        return known if len(known) >= MOST_KEYS else known | {self._name(key) for key in keys}

    def _name(self, key: str) -> str:
        return key if key in _NAMES else key_digest(key, self.salt)


class Records(msgspec.Struct, frozen=True):
    """A student's list record, and the student's detail if there is one."""

    listed: Student
    detail: Student | None


def keys_of(student: Student) -> set[str]:
    """Return the keys of a record: the names of all fields that are not None, plus the keys of `extra`."""
    return {name for name in FIELD_NAMES if getattr(student, name) is not None} | student.extra.keys()


def combine(listed: Student, detail: Student | None, keys: Keys) -> Student:
    """Combine a list record and a detail into one student, with a status."""
    if detail is None:
        return with_status(listed)
    present = keys_of(listed)
    return with_status(_taking(listed, detail, {key for key in keys_of(detail) - present if not keys.lists_serve(key)}))


def fetch(listed: Student | None, answer: Student, keys: Keys, *, detail_only: bool = False) -> Records:
    """Return a student's list record and detail, updated from a GET response.

    If the response is older than the list record, it comes from a lagging server, and only the detail is updated.

    Args:
        listed: The list record before the response, or None.
        answer: The GET response.
        keys: The keys that lists serve and the keys that GET serves.
        detail_only: Whether the student was requested only for the detail. If `detail_only` is true, the list record
            does not change. Default: False.

    Returns:
        The list record, and the detail that was extracted from the response.

    """
    present = keys_of(answer)
    own = {key for key in present if not keys.lists_serve(key)}
    detail = _taking(Student(id=answer.id), answer, own)
    rest = _taking(answer, Student(id=answer.id), own)
    if listed is None:
        return Records(rest, detail)
    if detail_only or is_older(answer, listed):
        return Records(listed, detail)
    shared = {key for key in keys_of(listed) if keys.get_serves(key) and keys.lists_serve(key)} | present
    return Records(_taking(listed, rest, shared), detail)


def list_record(stored: Student, detail: Student | None, keys: Keys, digest: bytes) -> Student:
    """Return a stored student's list record: the stored record without the keys that only GET serves.

    `digest` is the content hash of the list record. The hash is needed to find out whether the API served the status,
    because the database does not record whether a status was served or derived.
    """
    held = keys_of(detail) if detail else _NOTHING
    own = {key for key in keys_of(stored) if not keys.lists_serve(key) and (key in held or keys.is_detail(key))}
    return as_served(_taking(stored, Student(id=stored.id), own), digest)


def as_served(stored: Student, digest: bytes) -> Student:
    """Return a stored record in the form in which the API served it.

    `digest` is the content hash of the record that the API served. If the stored record has the same hash after its
    status is removed, the API did not serve the status. In this case, the function returns the record without the
    status.
    """
    without = replace(stored, status=None)
    return without if content_hash(encode(without)) == digest else stored


def is_older(one: Student, other: Student) -> bool:
    """Return whether `one` was updated in an earlier second than `other`. Return False if an `updated_at` is missing.

    Fractions of a second are ignored, because it is possible that lists serve them and GET does not, or the reverse.
    """
    if one.updated_at is None or other.updated_at is None:
        return False
    return floor_seconds(one.updated_at) < floor_seconds(other.updated_at)


def are_of_one_time(one: Student, other: Student) -> bool:
    """Return whether neither of two records is older than the other, so that both may describe the same moment."""
    return not is_older(one, other) and not is_older(other, one)


def _taking(base: Student, other: Student, keys: AbstractSet[str]) -> Student:
    """Return a copy of `base` in which the values of `keys` are taken from `other`.

    A key that is missing from `other` is cleared in the copy.
    """
    if not keys:
        return base
    extra = {key: value for key, value in base.extra.items() if key not in keys}
    extra |= {key: value for key, value in other.extra.items() if key in keys}
    return replace(base, extra=extra, **{name: getattr(other, name) for name in keys & _NAMES})
