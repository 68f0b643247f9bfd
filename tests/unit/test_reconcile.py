"""What a staged row means, and when undecodable ones mean that the API has changed."""

from __future__ import annotations

import pytest

from rostersync.errors import RunFailed
from rostersync.sync.reconcile import check_rejection_rate


@pytest.mark.parametrize(("received", "rejected"), [(20, 20), (420, 21), (0, 0)])
def test_up_to_twenty_bad_records_or_five_per_cent_are_only_bad_records(received: int, rejected: int) -> None:
    check_rejection_rate(received, rejected)


def test_more_than_twenty_bad_records_that_are_more_than_five_per_cent_are_a_changed_api() -> None:
    with pytest.raises(RunFailed, match="21 of 419 records"):
        check_rejection_rate(419, 21)
