"""The two projections of a student, and the one record that they make.

ManageBac serves a student twice: as a row of a list, and as the answer to GET. Neither need have all keys. A list row
may lack the parents, and GET may lack the program. So two records are kept of each student, and each is replaced as a
whole:

* the **list record**: the last list row
* the **detail**: of the last answer of GET, the keys that lists do not serve

For a key that lists serve, the list record decides: a key that is missing there was cleared. For every other key the
list record decides only if it has the key, and the detail decides otherwise. An answer of GET that was asked for to
refresh a student, or to prove something, also replaces those keys of the list record that GET serves, because it is
newer than the row.

Nothing here does I/O. `Keys` says which key is served where.
"""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from rostersync.clock import floor_seconds
from rostersync.records import FIELD_NAMES, Student, content_hash, encode, with_status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

MOST_KEYS = 1_000
"""More keys than this are not remembered of a source: only a broken or hostile server has so many."""

_NAMES = frozenset(FIELD_NAMES)
_NOTHING: frozenset[str] = frozenset()


def key_digest(name: str, salt: bytes) -> str:
    """Return a salted digest of a key's name: a key may be an address, and must not outlive its student."""
    return hashlib.blake2b(name.encode(), digest_size=8, key=salt).hexdigest()


class Keys(msgspec.Struct, frozen=True):
    """What is known of the keys that a source serves. A field stands by its name, any other key by its digest."""

    salt: bytes = b""
    listed: frozenset[str] | None = None
    """Keys that lists serve. None until a full run has read a clean roster; then every key counts as one of these."""
    fetched: frozenset[str] | None = None
    """Keys that GET serves. None until one of its answers could be compared with a list row."""
    omitted: frozenset[str] = _NOTHING
    """Keys that GET was seen to lack for a student whose list row had them."""
    detail: frozenset[str] = _NOTHING
    """Keys that GET was seen to serve for a student whose list row lacked them."""
    probed_at: datetime | None = None
    """When a student was last asked for only to learn what GET serves, in UTC."""

    def lists_serve(self, key: str) -> bool:
        """Return whether the absence of `key` in a list row means that it was cleared."""
        return self.listed is None or self._name(key) in self.listed

    def get_serves(self, key: str) -> bool:
        """Return whether the absence of `key` in an answer of GET means that it was cleared."""
        name = self._name(key)
        return self.fetched is not None and name in self.fetched and name not in self.omitted

    def is_detail(self, key: str) -> bool:
        """Return whether only GET serves `key`."""
        return self._name(key) in self.detail

    def with_listed(self, keys: Iterable[str]) -> Keys:
        """Return what is known once lists serve `keys`, too."""
        listed = self._add(self.listed, keys)
        return replace(self, listed=listed, detail=self.detail - listed)

    def with_fetched(self, keys: AbstractSet[str]) -> Keys:
        """Return what is known once an answer of GET had `keys`; the first answers say nothing by themselves."""
        return self if self.fetched is None else replace(self, fetched=self._add(self.fetched, keys))

    def compared(self, listed: AbstractSet[str], fetched: AbstractSet[str]) -> Keys:
        """Return what is known once the keys of a list row and of an answer of GET were compared, both of one time."""
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


class Records(NamedTuple):
    """The two records of a student: the list record, and the detail if there is one."""

    listed: Student
    detail: Student | None


def keys_of(student: Student) -> set[str]:
    """Return the keys that a record has: names of fields, and keys of `extra`."""
    return {name for name in FIELD_NAMES if getattr(student, name) is not None} | student.extra.keys()


def combine(listed: Student, detail: Student | None, keys: Keys) -> Student:
    """Return the student that a list record and a detail make, with a status."""
    if detail is None:
        return with_status(listed)
    present = keys_of(listed)
    return with_status(_taking(listed, detail, {key for key in keys_of(detail) - present if not keys.lists_serve(key)}))


def fetch(listed: Student | None, answer: Student, keys: Keys, *, detail_only: bool = False) -> Records:
    """Return what an answer of GET makes of a list record.

    Args:
        listed: The list record before; None if there is none.
        answer: The answer of GET.
        keys: Which keys lists and GET serve.
        detail_only: Whether the answer was asked for only to read the detail. Such an answer leaves the list record as
            it is. So does an answer that is older than the list record: it comes from a replica that lags.

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
    """Return the list record of a stored student, whose content hash is `digest`.

    It lacks the keys that only GET serves. Whether the status was served or derived is not stored: the hash tells.
    """
    held = keys_of(detail) if detail else _NOTHING
    own = {key for key in keys_of(stored) if not keys.lists_serve(key) and (key in held or keys.is_detail(key))}
    return as_served(_taking(stored, Student(id=stored.id), own), digest)


def as_served(stored: Student, digest: bytes) -> Student:
    """Return a record as it was served: without its status if the content hash says that none was served."""
    without = replace(stored, status=None)
    return without if content_hash(encode(without)) == digest else stored


def is_older(one: Student, other: Student) -> bool:
    """Return whether one record is older than another, by a second at least, as far as both have an `updated_at`.

    Lists and GET may write the same time with and without fractions of a second.
    """
    if one.updated_at is None or other.updated_at is None:
        return False
    return floor_seconds(one.updated_at) < floor_seconds(other.updated_at)


def are_of_one_time(one: Student, other: Student) -> bool:
    """Return whether nothing says that two records are of different times."""
    return not is_older(one, other) and not is_older(other, one)


def _taking(base: Student, other: Student, keys: AbstractSet[str]) -> Student:
    """Return `base` with each of `keys` as `other` has it: a key that `other` lacks is cleared."""
    if not keys:
        return base
    extra = {key: value for key, value in base.extra.items() if key not in keys}
    extra |= {key: value for key, value in other.extra.items() if key in keys}
    return replace(base, extra=extra, **{name: getattr(other, name) for name in keys & _NAMES})
