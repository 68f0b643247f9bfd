"""When the daemon runs a source, first and later."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from rostersync.config import Cron, Schedule
from rostersync.daemon.schedule import LastRuns, first_full, first_incremental, scheduler
from rostersync.pool import DaemonExecutor
from rostersync.report import RunKind

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
    assert first_full(AT_EIGHT, ago(days=6), NOW) is None


def test_cron_lines_are_understood_as_cron_does_in_the_zone_that_is_set() -> None:
    schedule = Schedule(incremental="30 7 * * 0", full="0 2 * * 1", jitter="0s", timezone="Europe/Berlin")
    planned = scheduler(schedule, {"main": ago(minutes=1)}, NOW, DaemonExecutor("run", 1), lambda *_: None)
    triggers = {job.id: job.trigger for job in planned.get_jobs()}
    sunday = triggers["main incremental"].get_next_fire_time(None, NOW)
    monday = triggers["main full"].get_next_fire_time(None, NOW)
    assert sunday.astimezone(UTC) == datetime(2026, 3, 8, 6, 30, tzinfo=UTC)
    assert monday.astimezone(UTC) == datetime(2026, 3, 9, 1, 0, tzinfo=UTC)


def test_slots_are_put_off_by_the_jitter_at_most() -> None:
    schedule = Schedule(incremental="1h", full=Cron("0 2 * * *"), jitter="2m")
    planned = scheduler(schedule, {"main": ago(minutes=1)}, NOW, DaemonExecutor("run", 1), lambda *_: None)
    (trigger,) = [job.trigger for job in planned.get_jobs() if job.id == "main incremental"]
    waits = [trigger.get_next_fire_time(NOW, NOW) - NOW - timedelta(hours=1) for _ in range(50)]
    assert all(timedelta(0) <= wait <= timedelta(minutes=2) for wait in waits)
    assert max(waits) > timedelta(seconds=10)


def test_the_scheduler_lets_the_pool_run_each_source_that_is_due_and_its_end_waits_for_no_run() -> None:
    ran: list[tuple[str, RunKind]] = []
    both, leave = threading.Barrier(3, timeout=20), threading.Event()

    def run(source: str, kind: RunKind) -> None:
        ran.append((source, kind))
        both.wait()
        leave.wait(20)

    pool = DaemonExecutor("run", 2)
    planned = scheduler(HOURLY, {"a": LastRuns(), "b": LastRuns()}, datetime.now(UTC), pool, run)
    planned.start()
    both.wait()
    planned.shutdown(wait=False)
    assert sorted(ran) == [("a", RunKind.INCREMENTAL), ("b", RunKind.INCREMENTAL)]
    assert not pool.join(0.05)
    leave.set()
    assert pool.join(20)


def test_a_slot_is_skipped_while_the_run_before_is_under_way_or_waits_for_its_place() -> None:
    ran: list[str] = []
    go = threading.Event()

    def run(source: str, _: RunKind) -> None:
        ran.append(source)
        go.wait(20)

    pool = DaemonExecutor("run", 1)
    every_second = Schedule(incremental="1s", full="7d", jitter="0s")
    planned = scheduler(every_second, {"a": LastRuns(), "b": LastRuns()}, datetime.now(UTC), pool, run)
    planned.start()
    time.sleep(2.5)  # two more slots of each
    assert len(ran) == 1
    planned.shutdown(wait=False)
    go.set()
    assert pool.join(20)
    assert sorted(ran) == ["a", "b"]
