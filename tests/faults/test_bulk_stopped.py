"""A bulk write that is asked to end: it stops after the line in progress, says so, and refreshes what was sent."""

from __future__ import annotations

import csv
import resource
import signal
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from daemons import wait_until
from school_site import Site, serve
from sqlalchemy import make_url

from rostersync.simulator import faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from journal import Journal

pytestmark = pytest.mark.long

LINES = 60


@pytest.fixture
def site(tmp_path: Path, migrated_url: str) -> Iterator[Site]:
    with serve(tmp_path, migrated_url, 120) as site:
        site.configure('[sync]\nretries = 0\ntimeout = "30s"\n', allow_writes="true")
        site.ok("sync")
        yield site


@pytest.fixture
def quick_site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """For tests that do not depend on the kind of database."""
    with serve(tmp_path, sqlite_url, 120) as site:
        site.configure('[sync]\nretries = 0\ntimeout = "30s"\n', allow_writes="true")
        site.ok("sync")
        yield site


def words(site: Site) -> tuple[str, ...]:
    """Write a file that moves 60 students to another city; return the command that sends it."""
    file = site.folder / "move.csv"
    keys = sorted(site.school.truth())[:LINES]
    file.write_text("id,city\n" + "".join(f"{key},Piran\n" for key in keys), encoding="utf-8")
    return ("students", "update", "--from-csv", str(file), "--expect", str(LINES), "--yes")


def sent(site: Site) -> int:
    return sum(method == "PATCH" for method, _, _ in site.app.log)


def outcomes(site: Site) -> list[str]:
    with (site.folder / "move.result.csv").open(encoding="utf-8", newline="") as file:
        return [row["outcome"] for row in csv.DictReader(file)]


def moved(site: Site) -> int:
    return len(site.rows("SELECT id FROM current_student WHERE city = 'Piran'"))


def slow_writes(site: Site, seconds: float = 0.03) -> None:
    site.app.on_request = lambda request: time.sleep(seconds) if request.method == "PATCH" else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_stops_after_the_line_in_progress_and_what_was_sent_is_in_the_replica(
    site: Site, number: signal.Signals
) -> None:
    slow_writes(site)
    process = site.start(*words(site))
    wait_until(lambda: sent(site) >= 10)
    process.send_signal(number)
    at_signal = sent(site)
    _, told = process.communicate(timeout=20)
    count = sent(site)
    assert process.returncode == 128 + number
    assert count <= at_signal + 2
    assert (
        f"stopped by {number.name}: {count} of 60 lines were sent; the result of each line is in "
        f"{site.folder / 'move.result.csv'}; run the same command again to send the rest" in told
    )
    assert outcomes(site) == ["done"] * count + ["not_sent"] * (LINES - count)
    assert moved(site) == count
    site.app.on_request = None
    assert site.json(*words(site))["counts"] == {"unchanged": count, "done": LINES - count}
    assert (sent(site), moved(site)) == (LINES, LINES)


def test_a_line_whose_answer_takes_half_a_second_is_finished_before_the_command_stops(quick_site: Site) -> None:
    quick_site.faults.add(faults.delayed(0.5), faults.on_write, skip=2)
    process = quick_site.start(*words(quick_site))
    wait_until(lambda: sent(quick_site) == 3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, "3 of 60 lines were sent" in told) == (130, True)
    assert outcomes(quick_site) == ["done"] * 3 + ["not_sent"] * 57
    assert moved(quick_site) == 3


def test_a_line_that_is_not_answered_in_time_is_unknown_and_the_command_still_reports(quick_site: Site) -> None:
    quick_site.faults.add(faults.delayed(30), faults.on_write, skip=2)
    process = quick_site.start(*words(quick_site))
    wait_until(lambda: sent(quick_site) == 3)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, "3 of 60 lines were sent" in told) == (130, True)
    assert time.monotonic() - begun < 10
    assert outcomes(quick_site) == ["done"] * 2 + ["unknown"] + ["not_sent"] * 57


def test_a_refresh_that_takes_too_long_after_a_stop_is_left_to_the_next_run(quick_site: Site) -> None:
    slow_writes(quick_site)
    process = quick_site.start(*words(quick_site))
    wait_until(lambda: sent(quick_site) >= 5)
    quick_site.faults.add(faults.delayed(30), faults.on_ids, times=None)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the replica will have the change after the next run of main" in told
    quick_site.faults.clear()
    quick_site.app.on_request = None
    quick_site.ok("sync")
    assert quick_site.rows("SELECT kind FROM sync_run ORDER BY run_id DESC")[0].kind == "refresh"
    assert moved(quick_site) == sent(quick_site)


def test_a_second_signal_ends_the_command_at_once(quick_site: Site) -> None:
    quick_site.faults.add(faults.delayed(30), faults.on_write, skip=2)
    process = quick_site.start(*words(quick_site))
    wait_until(lambda: sent(quick_site) == 3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, "ended by SIGINT without waiting" in told) == (130, True)


def test_a_single_write_that_takes_half_a_second_is_finished_and_refreshed_before_the_command_stops(
    quick_site: Site,
) -> None:
    quick_site.faults.add(faults.delayed(0.5), faults.on_write)
    key = min(quick_site.school.truth())
    process = quick_site.start("students", "update", str(key), "--set", "city=Piran", "--yes")
    wait_until(lambda: sent(quick_site) == 1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, f"student {key}: updated" in out) == (143, True)
    assert moved(quick_site) == 1


def test_a_result_file_that_cannot_be_written_any_more_stops_the_sending(quick_site: Site, journal: Journal) -> None:
    slow_writes(quick_site)
    quick_site.configure(url=f"sqlite:///{quick_site.folder / 'none.db'}", allow_writes="true")
    set_up = f"import runpy; from rostersync.observe import syslog; syslog.SOCKET = {journal.place!r}"
    program = f"{set_up}; runpy.run_module('rostersync', run_name='__main__')"
    process = quick_site.start(*words(quick_site), program=("-c", program))  # without a database it needs a journal
    wait_until(lambda: sent(quick_site) >= 1)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (400, 400))
    _, told = process.communicate(timeout=20)
    assert (process.returncode, 1 < sent(quick_site) < LINES) == (1, True)
    assert "the result file cannot be written: File too large" in told
    assert "Traceback" not in told
    assert "unexpected" not in told


def test_a_database_that_fails_on_the_way_stops_the_sending_and_the_result_file_says_so(quick_site: Site) -> None:
    def drop(request: Any) -> None:
        if request.method == "PATCH" and sent(quick_site) >= 3:
            quick_site.app.on_request = None
            _drop_audit(quick_site)

    quick_site.app.on_request = drop
    result = quick_site.run(*words(quick_site))
    assert result.exit_code == 1
    found = outcomes(quick_site)
    assert found == ["done"] * found.count("done") + ["not_sent"] * found.count("not_sent")
    assert found.count("done") == sent(quick_site) < LINES
    assert f"{found.count('not_sent')} lines not sent: " in result.stderr
    assert moved(quick_site) == sent(quick_site)


def _drop_audit(site: Site) -> None:
    with closing(sqlite3.connect(make_url(site.database_url).database or "")) as connection:
        connection.execute("DROP VIEW audit_log")
        connection.execute("DROP TABLE audit")
