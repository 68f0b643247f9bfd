"""What a cron line does on the days on which clocks change, as docs/operations.md has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from rostersync.config import Cron

ZONE = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=ZONE), datetime(2026, 10, 25, tzinfo=ZONE)


def slots(trigger: CronTrigger | IntervalTrigger, day: datetime) -> list[str]:
    """Return the slots until five in the morning of `day`, as clocks on the wall show them, with their offset."""
    found, last, now = [], None, day
    while (slot := trigger.get_next_fire_time(last, now)) and slot < day.replace(hour=5):
        found.append(f"{slot:%H:%M%z}"[:8])
        last, now = slot, (slot.astimezone(UTC) + timedelta(microseconds=1)).astimezone(ZONE)
    return found


def cron(line: str) -> CronTrigger:
    return CronTrigger(**Cron(line).fields(), timezone=ZONE)


@pytest.mark.parametrize("line", ["0 2 * * *", "30 2 * * *", "15,45 2 * * *"])
def test_a_slot_in_the_hour_that_is_missing_comes_once_and_as_late_as_if_the_clock_had_not_changed(line: str) -> None:
    (slot,) = slots(cron(line), SPRING)
    assert slot == {"0": "02:00+01", "3": "02:30+01", "1": "02:15+01"}[line[0]]  # 02:30 of winter is 03:30 of summer


def test_a_slot_in_the_hour_that_comes_twice_comes_twice() -> None:
    assert slots(cron("30 2 * * *"), AUTUMN) == ["02:30+02", "02:30+01"]


def test_hourly_slots_stay_an_hour_apart() -> None:
    assert slots(cron("0 * * * *"), SPRING) == ["00:00+01", "01:00+01", "03:00+02", "04:00+02"]
    assert slots(cron("0 1-3 * * *"), AUTUMN) == ["01:00+02", "02:00+02", "02:00+01", "03:00+01"]


def test_an_interval_knows_of_no_clock_on_a_wall() -> None:
    hourly = IntervalTrigger(hours=1, start_date=SPRING, timezone=ZONE)
    assert slots(hourly, SPRING) == ["00:00+01", "01:00+01", "03:00+02", "04:00+02"]


def test_utc_is_not_touched() -> None:
    trigger = CronTrigger(**Cron("30 2 * * *").fields(), timezone="UTC")
    assert slots(trigger, SPRING) == ["02:30+00"]
    assert slots(trigger, AUTUMN) == ["02:30+00"]
