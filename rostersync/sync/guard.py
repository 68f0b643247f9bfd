"""Limits on removals, on records that cannot be decoded, and on new students.

A run that exceeds a limit does not trust the data that it has read.
"""

from __future__ import annotations

import msgspec

from rostersync.errors import RunFailed

TOLERATED = 20
"""A run does not fail because of this many undecodable records or fewer, however small the school is."""


MOST_NEWCOMERS = 1_000
"""The number of students that a run may always insert, however small the replica is."""

MOST_GROWTH = 10
"""A run may insert up to `MOST_GROWTH` times as many students as the replica has, even if `MOST_NEWCOMERS` is less."""


class GuardPolicy(msgspec.Struct, frozen=True):
    """The limits in the configuration section `[guard]`."""

    max_deletions: int = 25
    max_deletion_percent: float = 5.0
    floor: int = 3


def holds(removals: int, recent: int, live: int, policy: GuardPolicy) -> bool:
    """Return whether a run's removals must wait for approval.

    The limits apply to the sum of `removals` and `recent`. The percentage limit applies only if the sum is above
    `floor`. If the percentage is 100, the percentage limit is disabled.

    Args:
        removals: The number of removals in this run. If there are no removals, the result is False.
        recent: The number of students who were removed without approval in the last 24 hours.
        live: The number of current students before the run.
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
    """Raise `RunFailed` if more than `TOLERATED` records and more than 5 % of all records cannot be decoded.

    If this many records are bad, the API has probably changed.
    """
    if rejected > TOLERATED and rejected * 20 > received:
        message = f"{rejected} of {received} records cannot be decoded: the API seems to have changed"
        raise RunFailed(message, "nothing was applied; look for a new version of rostersync, or check api_version")


def check_growth(inserted: int, live: int) -> None:
    """Raise `RunFailed` if a run would insert far more students than the replica has.

    Args:
        inserted: The number of students that the run would insert.
        live: The number of current students in the replica. If there are none, for example before the first run, the
            run may insert any number of students.

    """
    if live and inserted > max(MOST_NEWCOMERS, MOST_GROWTH * live):
        message = f"the run would insert {inserted:,} students, but only {live:,} are known"
        hint = "nothing was applied; if the new students belong to this school, run: rostersync sync --allow-growth"
        raise RunFailed(message, hint)
