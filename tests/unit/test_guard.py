"""The guard's formulas."""

from __future__ import annotations

import pytest

from rostersync.errors import RunFailed
from rostersync.sync.guard import GuardPolicy, check_rejection_rate, holds

SWITCHED_OFF = 100.0


@pytest.mark.parametrize(
    ("removals", "recent", "live", "held"),
    [
        (25, 0, 10_000, False),
        (26, 0, 10_000, True),
        (1, 25, 10_000, True),
        (3, 0, 3, False),
        (4, 0, 80, False),
        (4, 0, 79, True),
        (1, 3, 79, True),
        (0, 100, 100, False),
        (0, 0, 0, False),
    ],
)
def test_more_than_the_maximum_or_more_than_the_floor_and_the_percentage_is_held(
    removals: int, recent: int, live: int, held: bool
) -> None:
    assert holds(removals, recent, live, GuardPolicy()) is held


def test_a_maximum_of_zero_lets_no_removal_pass() -> None:
    assert holds(1, 0, 10_000, GuardPolicy(max_deletions=0))
    assert not holds(0, 0, 10_000, GuardPolicy(max_deletions=0))


def test_a_hundred_per_cent_switches_the_percentage_off() -> None:
    assert not holds(20, 5, 10, GuardPolicy(max_deletion_percent=SWITCHED_OFF))
    assert holds(21, 5, 10, GuardPolicy(max_deletion_percent=SWITCHED_OFF))


@pytest.mark.parametrize(("received", "rejected"), [(20, 20), (420, 21), (0, 0)])
def test_up_to_twenty_bad_records_or_five_per_cent_are_only_bad_records(received: int, rejected: int) -> None:
    check_rejection_rate(received, rejected)


def test_more_than_twenty_bad_records_that_are_more_than_five_per_cent_are_a_changed_api() -> None:
    with pytest.raises(RunFailed, match="21 of 419 records"):
        check_rejection_rate(419, 21)
