"""When the daemon runs a source, first and later."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from rostersync.config import Cron, Schedule
from rostersync.daemon.schedule import LastRuns, Timetable, first_full, first_incremental, trigger_of
from rostersync.report import RunKind

if TYPE_CHECKING:
    from collections.abc import Iterator

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
HOURLY = Schedule(incremental="1h", full="7d", jitter="0s")
AT_EIGHT = Schedule(incremental="0 8 * * *", full="0 2 * * *", jitter="0s")


def ago(**time: float) -> LastRuns:
    return LastRuns(NOW - timedelta(**time), NOW - timedelta(**time))


def test_a_source_that_never_succeeded_is_due_at_the_start() -> None:
    for schedule in (HOURLY, AT_EIGHT):
        assert first_incremental(schedule, LastRuns(), NOW) == NOW


def test_an_interval_counts_from_the_last_success() -> None:
    assert first_incremental(HOURLY, ago(minutes=20), NOW) == NOW + timedelta(minutes=40)
    assert first_incremental(HOURLY, ago(hours=3), NOW) <= NOW


def test_what_ended_in_the_future_under_a_clock_that_was_ahead_is_no_reason_to_wait() -> None:
    ahead = ago(days=-100)
    for schedule in (HOURLY, AT_EIGHT):
        assert first_incremental(schedule, ahead, NOW) == NOW
    assert first_full(HOURLY, ahead, NOW) == NOW


@pytest.mark.parametrize(("hours", "due"), [(0.25, False), (1, True), (30, True)])
def test_a_cron_slot_that_was_missed_is_made_up_for_at_the_start(hours: float, due: bool) -> None:
    assert (first_incremental(AT_EIGHT, ago(hours=hours), NOW) is not None) == due


def test_a_full_interval_outlives_the_daemons_restarts() -> None:
    assert first_full(HOURLY, ago(days=6), NOW) == NOW + timedelta(days=1)
    assert first_full(HOURLY, LastRuns(), NOW) is None  # the first run is full by itself


def test_a_full_run_whose_cron_slot_was_missed_is_made_up_for_at_the_start() -> None:
    assert first_full(AT_EIGHT, ago(hours=6), NOW) is None  # at 2:30, after its last slot
    assert first_full(AT_EIGHT, ago(hours=7), NOW) == NOW - timedelta(hours=6, minutes=30)


def test_cron_lines_are_understood_as_cron_does_in_the_zone_that_is_set() -> None:
    sunday = trigger_of(Cron("30 7 * * 0"), BERLIN, timedelta(0)).get_next_fire_time(None, NOW)
    monday = trigger_of(Cron("0 2 * * 1"), BERLIN, timedelta(0)).get_next_fire_time(None, NOW)
    assert sunday.astimezone(UTC) == datetime(2026, 3, 8, 6, 30, tzinfo=UTC)
    assert monday.astimezone(UTC) == datetime(2026, 3, 9, 1, 0, tzinfo=UTC)


def test_slots_are_put_off_by_the_jitter_at_most() -> None:
    trigger = trigger_of(timedelta(hours=1), BERLIN, timedelta(minutes=2))
    waits = [trigger.get_next_fire_time(NOW, NOW) - NOW - timedelta(hours=1) for _ in range(50)]
    assert all(timedelta(0) <= wait <= timedelta(minutes=2) for wait in waits)
    assert max(waits) > timedelta(seconds=10)


@pytest.fixture
def timetable() -> Iterator[Timetable]:
    timetable = Timetable(HOURLY)
    yield timetable
    timetable.stop()


def due(timetable: Timetable) -> list[tuple[str, RunKind]]:
    deadline = time.monotonic() + 10
    while not (found := timetable.due(datetime.now(UTC))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_what_is_due_is_told_once_and_each_source_has_its_own_slots(timetable: Timetable) -> None:
    now = datetime.now(UTC)
    timetable.schedule("late", LastRuns(now - timedelta(hours=2), now), now)
    assert due(timetable) == [("late", RunKind.INCREMENTAL)]
    assert timetable.due(now) == []
    timetable.schedule("fresh", LastRuns(now, now), now)
    assert timetable.next_runs("fresh")[RunKind.INCREMENTAL] == now + timedelta(hours=1)
    assert timetable.next_runs("fresh")[RunKind.FULL] == now + timedelta(days=7)
    timetable.forget("fresh")
    assert timetable.next_runs("fresh") == {}


def test_a_source_that_is_planned_anew_keeps_no_slot_of_before(timetable: Timetable) -> None:
    now = datetime.now(UTC)
    timetable.schedule(
        "main", LastRuns(now + timedelta(days=900) - timedelta(hours=1), None), now + timedelta(days=900)
    )
    timetable.schedule("main", LastRuns(now, now), now)
    assert timetable.next_runs("main")[RunKind.INCREMENTAL] == now + timedelta(hours=1)


# After a failure -------------------------------------------------------------------------------------------------


def planned(timetable: Timetable, **until_slot: float) -> datetime:
    """Plan the source `main`, whose next incremental slot comes after `until_slot`; return the time now."""
    now = datetime.now(UTC)
    success = now - timedelta(hours=1) + timedelta(**until_slot)
    timetable.schedule("main", LastRuns(success, now), now)
    return now


def minutes_until_tries(timetable: Timetable, now: datetime, failures: int) -> list[float | None]:
    waits = [timetable.failed("main", RunKind.INCREMENTAL, now) for _ in range(failures)]
    return [at and (at - now).total_seconds() / 60 for at in waits]


def test_a_run_that_keeps_failing_is_tried_again_four_times_and_then_waits_for_its_slot(timetable: Timetable) -> None:
    now = planned(timetable, minutes=59)
    assert minutes_until_tries(timetable, now, 5) == [1, 5, 15, 30, None]


def test_a_run_that_failed_is_due_once_at_its_next_try_which_is_shown_as_the_next_run(timetable: Timetable) -> None:
    now = planned(timetable, minutes=59)
    at = timetable.failed("main", RunKind.INCREMENTAL, now)
    assert at is not None
    assert timetable.next_runs("main")[RunKind.INCREMENTAL] == at
    assert timetable.due(at - timedelta(seconds=1)) == []
    assert timetable.due(at) == [("main", RunKind.INCREMENTAL)]
    assert timetable.due(at) == []
    assert timetable.next_runs("main")[RunKind.INCREMENTAL] > at


def test_a_slot_that_comes_before_the_next_try_makes_it_needless(timetable: Timetable) -> None:
    now = planned(timetable, minutes=4)
    assert minutes_until_tries(timetable, now, 2) == [1, None]


def test_a_success_a_slot_and_another_plan_begin_the_series_anew(timetable: Timetable) -> None:
    now = planned(timetable, minutes=59)
    for reset in (
        lambda: timetable.settled("main", RunKind.INCREMENTAL),
        lambda: timetable.settled("main", RunKind.FULL),
        lambda: planned(timetable, minutes=59),
        lambda: timetable.cancel_retry("main"),
    ):
        assert minutes_until_tries(timetable, now, 2) == [1, 5]
        reset()
        assert timetable.due(now + timedelta(minutes=50)) == []
    assert minutes_until_tries(timetable, now, 1) == [1]


def test_the_slot_begins_the_series_anew(timetable: Timetable) -> None:
    now = planned(timetable, minutes=59)
    assert minutes_until_tries(timetable, now, 2) == [1, 5]
    timetable._slots.put(("main", RunKind.INCREMENTAL))
    assert timetable.due(now) == [("main", RunKind.INCREMENTAL)]
    assert timetable.due(now + timedelta(minutes=50)) == []
    assert minutes_until_tries(timetable, now, 1) == [1]


def test_incremental_runs_leave_the_next_try_of_a_full_run_alone(timetable: Timetable) -> None:
    now = planned(timetable, seconds=30)
    at = timetable.failed("main", RunKind.FULL, now)
    assert at == now + timedelta(minutes=1)
    timetable._slots.put(("main", RunKind.INCREMENTAL))
    timetable.due(now)
    timetable.settled("main", RunKind.INCREMENTAL)
    assert timetable.failed("main", RunKind.INCREMENTAL, now) == at
    assert timetable.due(at) == [("main", RunKind.FULL)]


def test_each_source_has_its_own_series(timetable: Timetable) -> None:
    now = planned(timetable, minutes=59)
    assert minutes_until_tries(timetable, now, 2) == [1, 5]
    timetable.schedule("annex", LastRuns(now, now), now)
    assert timetable.failed("annex", RunKind.INCREMENTAL, now) == now + timedelta(minutes=1)
    timetable.forget("annex")
    assert timetable.due(now + timedelta(minutes=50)) == [("main", RunKind.INCREMENTAL)]
