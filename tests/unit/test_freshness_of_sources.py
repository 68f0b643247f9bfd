"""How long a success counts as fresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rostersync.config import Schedule
from rostersync.daemon.freshness import fresh_until

FRIDAY = datetime(2026, 3, 6, 15, 5, tzinfo=UTC)


def test_a_success_is_fresh_for_two_intervals_the_jitter_and_an_hour() -> None:
    schedule = Schedule(incremental="15m", jitter="5m")
    assert fresh_until(schedule, FRIDAY) == FRIDAY + timedelta(minutes=15 + 15 + 5 + 60)


@pytest.mark.parametrize(
    ("line", "zone", "until"),
    [
        ("0 8-15 * * 1-5", "UTC", datetime(2026, 3, 9, 10, 0, tzinfo=UTC)),  # Monday's slots at 8 and 9
        ("0 8-15 * * 1-5", "Europe/Berlin", datetime(2026, 3, 9, 9, 0, tzinfo=UTC)),
        ("0 6 * * *", "UTC", datetime(2026, 3, 8, 7, 0, tzinfo=UTC)),
    ],
)
def test_under_a_cron_line_a_success_is_fresh_until_an_hour_after_the_second_slot(
    line: str, zone: str, until: datetime
) -> None:
    assert fresh_until(Schedule(incremental=line, jitter="0s", timezone=zone), FRIDAY) == until
