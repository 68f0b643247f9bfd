"""What a daemon tells of itself: the status line, failures without a run, signs of life."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from rostersync.config import Schedule
from rostersync.daemon.condition import Condition
from rostersync.daemon.systemd import Systemd
from rostersync.errors import TRY_AGAIN_LATER, DatabaseUnreachable
from rostersync.observe import log
from rostersync.report import Counts, RunKind, RunReport, RunState, Watermarks
from rostersync.store.queue.failures import failures_file, read_failures
from rostersync.store.schema.drift import Drift

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import ManualClock

    from rostersync.cancel import CancelScope

DISK_FULL = DatabaseUnreachable("cannot use the database: database or disk is full", "free some space")


def report(
    clock: ManualClock, source: str = "main", state: RunState = RunState.SUCCEEDED, error: str | None = None
) -> RunReport:
    now = clock.now()
    kind, marks = RunKind.INCREMENTAL, Watermarks()
    return RunReport(1, source, kind, state, Counts(), 2, 0, 0.1, marks, now, now, error)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "roster.db-daemon.json"


@pytest.fixture
def condition(clock: ManualClock, file: Path) -> Condition:
    return Condition(clock, file)


def test_the_status_line_tells_of_a_source_how_many_how_fresh_and_when_next(
    condition: Condition, clock: ManualClock
) -> None:
    condition.ended(report(clock), 1204)
    clock.advance(200)
    due = clock.now() + timedelta(hours=6, minutes=2)
    line = condition.status_line({"main": due}, {}, Schedule(timezone="Europe/Berlin"))
    assert line == "main: 1,204 students, in step 3 min ago; next 15:05 Europe/Berlin"


def test_the_status_line_tells_of_trouble_and_of_standing_by(condition: Condition, clock: ManualClock) -> None:
    condition.ended(report(clock), 30)
    condition.ended(report(clock, state=RunState.FAILED, error="the API rejected the token"), 30)
    line = condition.status_line({"main": None}, {"annex": "locked by another"}, Schedule())
    assert line == (
        "annex: standing by: locked by another; main: 30 students, in step just now, failed: the API rejected the token"
    )


def test_the_status_line_names_a_difference_of_the_schema_and_not_in_step(
    condition: Condition, clock: ManualClock
) -> None:
    condition.checked([Drift("the primary key of student is missing", "restore"), Drift("another", "restore")])
    condition.ended(report(clock), 30)
    assert condition.status_line({"main": None}, {}, Schedule()) == (
        "the primary key of student is missing and 1 more: run `rostersync db check`, repair it, and reload the service"
    )
    condition.checked([])
    assert "in step" in condition.status_line({"main": None}, {}, Schedule())


def test_the_status_line_begins_with_the_first_mistake_of_a_refused_configuration_until_one_is_taken(
    condition: Condition, clock: ManualClock
) -> None:
    condition.ended(report(clock), 30)
    condition.refused(("guard.floor: not a number", "sync: unknown key"))
    line = condition.status_line({"main": None}, {}, Schedule())
    assert line == ("configuration refused: guard.floor: not a number and 1 more; main: 30 students, in step just now")
    condition.failed("", DISK_FULL)
    line = condition.status_line({"main": None}, {}, Schedule())
    assert line == (
        "configuration refused: guard.floor: not a number and 1 more; "
        f"waiting for the database: {DISK_FULL.message} (free some space)"
    )
    condition.recovered("")
    condition.refused(())
    assert condition.status_line({"main": None}, {}, Schedule()).startswith("main: 30 students")


def test_of_many_sources_the_status_line_says_how_many_are_in_trouble(condition: Condition, clock: ManualClock) -> None:
    names = [f"school-{number}" for number in range(41)]
    for name in names:
        condition.ended(report(clock, name), 10)
    clock.advance(125)
    condition.ended(report(clock, "school-0"), 10)
    line = condition.status_line(dict.fromkeys(names), {}, Schedule())
    assert line == "41 sources, all in step, the oldest success 2 min ago"
    condition.failed("school-7", DISK_FULL)
    line = condition.status_line(dict.fromkeys(names), {}, Schedule())
    assert line == f"41 sources, 1 in trouble: school-7: {DISK_FULL.message}, the oldest success 2 min ago"


def test_a_source_whose_last_success_is_stale_is_not_in_step(condition: Condition, clock: ManualClock) -> None:
    condition.ended(report(clock), 30)
    clock.advance(3 * 3600 + 120)
    assert condition.status_line({"main": None}, {}, Schedule()) == "main: 30 students, in step 3 h 2 min ago"
    clock.advance(60)
    assert condition.status_line({"main": None}, {}, Schedule()) == "main: 30 students, stale: in step 3 h 3 min ago"


def test_of_many_sources_the_status_line_counts_and_names_those_that_are_stale_or_were_never_synced(
    condition: Condition, clock: ManualClock
) -> None:
    names = [f"school-{number}" for number in range(41)]
    for name in names[:2]:
        condition.ended(report(clock, name), 10)
    clock.advance(4 * 3600)
    for name in names[2:36]:
        condition.ended(report(clock, name), 10)
    assert condition.status_line(dict.fromkeys(names), {}, Schedule()) == (
        "41 sources, 2 stale: school-0, school-1, 5 never synced: school-36, school-37, school-38 and 2 more, "
        "the oldest success 4 h ago"
    )


def test_the_log_says_when_a_run_that_failed_is_tried_again(
    condition: Condition, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("info", "json")
    away = replace(report(clock, state=RunState.FAILED, error="the API is away"), hint=TRY_AGAIN_LATER)
    condition.ended(away, 30, clock.now() + timedelta(minutes=5))
    condition.ended(away, 30, None)
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["next_try"] == "2026-03-02T08:05:00.000Z"
    assert first["hint"] == "will try again by itself"
    assert "next_try" not in second
    assert second["hint"] == "will try again at the next slot"


def test_a_failure_that_leaves_no_run_is_in_a_file_until_a_run_has_ended(
    condition: Condition, clock: ManualClock, file: Path
) -> None:
    condition.failed("main", DISK_FULL)
    condition.failed("", DISK_FULL)
    assert {(failure.source, failure.error) for failure in read_failures(file)} == {
        ("main", DISK_FULL.message),
        ("", DISK_FULL.message),
    }
    assert file.stat().st_mode & 0o077 == 0
    condition.recovered("")
    condition.ended(report(clock), 30)
    assert not file.exists()


def test_what_an_earlier_daemon_wrote_goes_as_soon_as_this_one_has_a_source(
    condition: Condition, clock: ManualClock, file: Path
) -> None:
    Condition(clock, file).failed("main", DISK_FULL)
    condition.began()
    assert read_failures(file) == []


@pytest.mark.parametrize("text", ["", "{", '{"failures": 3}', '{"failures": [{"source": 1}]}'])
def test_a_file_of_failures_that_cannot_be_read_tells_of_none(file: Path, text: str) -> None:
    file.write_text(text)
    assert read_failures(file) == []


def test_the_file_is_beside_an_sqlite_database_and_else_in_the_services_folder_of_state(tmp_path: Path) -> None:
    assert failures_file(f"sqlite:///{tmp_path}/roster.db", {}) == tmp_path / "roster.db-daemon.json"
    server = "postgresql+psycopg://host/roster"
    assert failures_file(server, {"STATE_DIRECTORY": str(tmp_path)}) == tmp_path / "daemon.json"
    assert failures_file(server, {"STATE_DIRECTORY": str(tmp_path / "none")}) is None


def test_a_run_that_asks_for_nothing_is_silent_and_one_that_waits_is_not(
    clock: ManualClock, scope: CancelScope
) -> None:
    run, other = scope.child(), scope.child()
    clock.advance(700)
    assert run.silent_for() == 700
    other.check()
    assert run.silent_for() == 700
    run.sleep(300)
    run.check()
    assert run.silent_for() == 0


def test_without_a_service_manager_nothing_is_told_and_no_watchdog_waits(clock: ManualClock) -> None:
    systemd = Systemd(clock, {"WATCHDOG_USEC": "2000000"})
    systemd.ready("fine")
    systemd.stopping()
    assert systemd.watchdog_s is None


def test_a_watchdog_of_another_process_is_not_ours(clock: ManualClock) -> None:
    environ = {"NOTIFY_SOCKET": "@nowhere", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}
    assert Systemd(clock, environ).watchdog_s is None
    assert Systemd(clock, environ | {"WATCHDOG_PID": ""}).watchdog_s is None
    del environ["WATCHDOG_PID"]
    assert Systemd(clock, environ).watchdog_s == 2.0
