"""What a staged row means for the stored one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rostersync.errors import RunFailed
from rostersync.records import changed_fields
from rostersync.report import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rostersync.records import Student

TOLERATED = 20
"""So many undecodable records are never a changed API, whatever the size of the school."""


def mark(stored: Student, received: Student) -> tuple[int, tuple[str, ...], bool]:
    """Return a changed student's id, the names of the fields that changed, and whether history gets a version.

    A login or a newly signed avatar address rewrites the row, and is no event in a student's life.
    """
    names = changed_fields(stored, received)
    return stored.id, names, bool(names)


def count(verdicts: Mapping[str, int], *, stale: int, deleted: int, held: int) -> Counts:
    """Return a run's figures; raises `AssertionError` when they do not add up."""
    return Counts(fetched=sum(verdicts.values()), **verdicts, stale=stale, deleted=deleted, removals_held=held)


def check_rejection_rate(received: int, rejected: int) -> None:
    """Raise `RunFailed` when so many records cannot be decoded that it is the API that has changed."""
    if rejected > TOLERATED and rejected * 20 > received:
        message = f"{rejected} of {received} records cannot be decoded: the API seems to have changed"
        raise RunFailed(message, "nothing was applied; look for a new version of rostersync, or at api_version")
