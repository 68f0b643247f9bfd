"""Limits on removals, undecodable records and new students, above which a run does not trust what it read."""

from __future__ import annotations

import msgspec

from rostersync.errors import RunFailed

TOLERATED = 20
"""Up to this many undecodable records never fail a run, however small the school is."""


MOST_NEWCOMERS = 1_000
"""A run may always insert up to this many students."""

MOST_GROWTH = 10
"""A run that inserts more than `MOST_NEWCOMERS` may insert this many times the number of known students."""


class GuardPolicy(msgspec.Struct, frozen=True):
    """The limits that are configured in `[guard]`."""

    max_deletions: int = 25
    max_deletion_percent: float = 5.0
    floor: int = 3


def holds(removals: int, recent: int, live: int, policy: GuardPolicy) -> bool:
    """Return whether a run's removals must wait for approval.

    The limits apply to the sum of `removals` and `recent`. The percentage limit applies only if that sum is above
    `floor`, and 100 disables it.

    Args:
        removals: The number of removals of this run. If it is 0, nothing has to wait.
        recent: The number of unapproved removals in the last 24 hours.
        live: The number of living students before the run.
        policy: The limits.

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
    """Raise `RunFailed` if more than `TOLERATED` records, and more than 5 % of them, cannot be decoded.

    So many bad records mean that the API has changed.
    """
    if rejected > TOLERATED and rejected * 20 > received:
        message = f"{rejected} of {received} records cannot be decoded: the API seems to have changed"
        raise RunFailed(message, "nothing was applied; look for a new version of rostersync, or check api_version")


def check_growth(inserted: int, live: int) -> None:
    """Raise `RunFailed` if a run would insert far more students than are known.

    Args:
        inserted: The number of students that the run would insert.
        live: The number of living students in the replica. If it is 0, as before the first run, any number is accepted.

    """
    if live and inserted > max(MOST_NEWCOMERS, MOST_GROWTH * live):
        message = f"the run would insert {inserted:,} students, but only {live:,} are known"
        hint = "nothing was applied; if they belong to this school, run: rostersync sync --allow-growth"
        raise RunFailed(message, hint)
