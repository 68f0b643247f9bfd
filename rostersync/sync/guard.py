"""The limits beyond which a run does not believe what it read: removals in a day, and records that are bad."""

from __future__ import annotations

import msgspec

from rostersync.errors import RunFailed

TOLERATED = 20
"""Up to this many undecodable records are just bad records, however small the school."""


MOST_NEWCOMERS = 1_000
"""Up to this many new students in a run are never too many."""

MOST_GROWTH = 10
"""Beyond that, a run may insert so many times the students who are known."""


class GuardPolicy(msgspec.Struct, frozen=True):
    """The limits, as configured in `[guard]`."""

    max_deletions: int = 25
    max_deletion_percent: float = 5.0
    floor: int = 3


def holds(removals: int, recent: int, live: int, policy: GuardPolicy) -> bool:
    """Tell whether a run's removals must wait for approval.

    `removals` are the run's own, `recent` those of the last 24 hours that nobody approved, `live` the students before
    the run. The percentage does not bind up to `floor`, and 100 switches it off. Without removals nothing is held.
    """
    if removals == 0:
        return False
    total = removals + recent
    if total > policy.max_deletions:
        return True
    if policy.max_deletion_percent >= 100:  # noqa: PLR2004 - per cent
        return False
    return total > policy.floor and total * 100 > policy.max_deletion_percent * live


def check_rejection_rate(received: int, rejected: int) -> None:
    """Raise `RunFailed` when so many records cannot be decoded that it is the API that has changed."""
    if rejected > TOLERATED and rejected * 20 > received:
        message = f"{rejected} of {received} records cannot be decoded: the API seems to have changed"
        raise RunFailed(message, "nothing was applied; look for a new version of rostersync, or at api_version")


def check_growth(inserted: int, live: int) -> None:
    """Raise `RunFailed` if a run would insert far more students than are known.

    Args:
        inserted: The number of students whom the run would insert.
        live: The number of students in the replica. If there are none, as before the first run, nothing is refused.

    """
    if live and inserted > max(MOST_NEWCOMERS, MOST_GROWTH * live):
        message = f"{inserted:,} students would be inserted, and {live:,} are known"
        hint = "nothing was applied; if they are this school's, read everything: rostersync sync --allow-growth"
        raise RunFailed(message, hint)
