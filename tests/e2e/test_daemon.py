"""`rostersync run` and `sync` as processes: schedule, signals, and how they end."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemons import end, logged, started, wait_until
from school_site import Site, serve

from rostersync.simulator import faults
from rostersync.store.database.engine import open_engine, writing

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

EVERY_SECOND = '[schedule]\nincremental = "1s"\njitter = "0s"\n'


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url) as site:
        yield site


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with started(site) as start:
        yield start


def at_work(process: subprocess.Popen[str]) -> bool:
    """Tell whether a sync has begun its run: beside the main thread and that for signals there is the run's."""
    return tasks(process) >= 3


def tasks(process: subprocess.Popen[str]) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def finished_runs(site: Site) -> int:
    return (
        len(site.rows("SELECT 1 FROM sync_run"))
        if site.has_database() and site.rows("SELECT 1 FROM sqlite_master WHERE name = 'sync_run'")
        else 0
    )


def test_the_daemon_runs_on_schedule_logs_each_run_in_one_line_and_ends_at_sigterm(site: Site, start: Any) -> None:
    site.configure(EVERY_SECOND)
    process = start("run")
    wait_until(lambda: finished_runs(site) >= 3)
    seconds, told = end(process)
    assert process.returncode == 0
    assert seconds < 2
    events = logged(told)
    assert "started" in [event["event"] for event in events]
    assert events[-1]["event"] == "stopped"
    runs = [event for event in events if event["event"] == "run_finished"]
    assert len(runs) >= 3
    assert (runs[0]["source"], runs[0]["kind"], runs[0]["inserted"], runs[0]["deleted"]) == ("main", "full", 30, 0)
    assert runs[1]["kind"] == "incremental"
    names = {record["last_name"] for record in site.school.truth().values()}
    assert not [name for name in names if name in told]


def test_the_daemon_follows_what_happens_at_the_school(site: Site, start: Any) -> None:
    site.configure(EVERY_SECOND)
    start("run")
    wait_until(lambda: finished_runs(site) >= 1)
    key = site.school.create(first_name="Zorla", last_name="Brindlequay")
    wait_until(lambda: site.rows(f"SELECT 1 FROM current_student WHERE id = {key}"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_ends_within_five_seconds_amid_a_crawl_of_an_api_that_never_answers(
    site: Site, start: Any, number: int
) -> None:
    site.faults.add(faults.never_answers(), faults.on_page(1), times=None)
    site.configure('[sync]\ntimeout = "60s"\n')
    process = start("run")
    wait_until(lambda: site.app.log)
    seconds, told = end(process, number)
    assert process.returncode == 0
    assert seconds < 5
    *_, one, other, last = [event["event"] for event in logged(told)]
    assert ({one, other}, last) == ({"stopping", "run_stopped"}, "stopped")
    assert finished_runs(site) == 0


def test_a_run_that_waits_for_its_place_is_not_begun_when_the_daemon_ends(site: Site, start: Any) -> None:
    site.faults.add(faults.never_answers(), faults.on_page(1), times=None)
    site.configure('[sync]\ntimeout = "60s"\nsources_at_once = 1\n', sources=("main", "annex", "third"))
    process = start("run")
    wait_until(lambda: site.app.log)
    seconds, told = end(process)
    assert (process.returncode, seconds < 5) == (0, True)
    assert logged(told)[-1]["event"] == "stopped"
    assert len(site.rows("SELECT 1 FROM run_request WHERE state = 'taken'")) == 1


def test_the_daemon_does_not_run_a_source_that_is_still_fresh(site: Site, start: Any) -> None:
    site.ok("sync")
    process = start("run")
    time.sleep(1.5)
    end(process)
    assert finished_runs(site) == 1


def test_a_source_that_fails_keeps_neither_another_nor_itself_from_the_next_run(site: Site, start: Any) -> None:
    site.configure(EVERY_SECOND, sources=("main", "annex"))
    site.faults.add(faults.html_200(), times=1)
    process = start("run")
    wait_until(lambda: finished_runs(site) >= 5)
    _, told = end(process)
    runs = [event for event in logged(told) if event["event"] == "run_finished"]
    (failure,) = [run for run in runs if run["state"] == "failed"]
    assert failure["level"] == "error"
    assert "a web page" in failure["error"]
    assert {run["source"] for run in runs if run["state"] == "succeeded"} == {"main", "annex"}


def test_of_a_failure_that_may_pass_the_daemon_says_that_it_will_try_again_by_itself(site: Site, start: Any) -> None:
    site.configure(EVERY_SECOND)
    site.faults.add(faults.http_status(503), times=1)
    process = start("run")
    wait_until(lambda: finished_runs(site) >= 2)
    _, told = end(process)
    failure = next(event for event in logged(told) if event.get("state") == "failed")
    assert "is unavailable (503" in failure["error"]
    assert failure["hint"] == "will try again by itself"


def test_what_nobody_foresaw_is_logged_by_its_name_and_is_not_the_daemons_end(site: Site, start: Any) -> None:
    site.configure(EVERY_SECOND)
    process = start("run")
    wait_until(lambda: finished_runs(site) >= 1)
    database = site.folder / "database" / "roster.db"
    lock = next(database.parent.glob("*.lock*"), None)
    assert lock is not None
    lock.unlink()
    lock.mkdir()  # no file any more
    time.sleep(1.5)
    lock.rmdir()
    before = finished_runs(site)
    wait_until(lambda: finished_runs(site) > before)
    _, told = end(process)
    impossible = [event for event in logged(told) if event["event"] == "run_failed"]
    assert impossible
    assert "exception" not in impossible[0]


def test_the_daemon_waits_for_a_database_that_is_not_there_yet_and_says_so_once(site: Site, start: Any) -> None:
    site.configure(url=f"sqlite:///{site.folder}/later/roster.db")
    process = start("run")
    time.sleep(7)  # until it has tried twice
    (site.folder / "later").mkdir()
    wait_until((site.folder / "later" / "roster.db").exists)
    time.sleep(1)
    _, told = end(process)
    events = logged(told)
    waiting = [event for event in events if event["event"] == "run_failed"]
    assert ["cannot create the database" in event["error"] for event in waiting] == [True]
    assert "started" in [event["event"] for event in events]
    assert process.returncode == 0


def test_the_daemon_does_not_start_when_no_source_has_a_token(site: Site, start: Any) -> None:
    site.environ = {"ROSTERSYNC_TOKEN": ""}
    process = start("run")
    process.communicate(timeout=20)
    assert process.returncode == 2
    assert not site.has_database()


# sync ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_sync_within_five_seconds_with_128_and_its_number_and_nothing_is_applied(
    site: Site, start: Any, number: int
) -> None:
    site.faults.add(faults.slow_drip(0.2), faults.on_page(1), times=None)
    site.configure('[sync]\ntimeout = "60s"\n')
    process = start("sync")
    wait_until(lambda: site.app.log)
    seconds, told = end(process, number)
    assert process.returncode == 128 + number
    assert seconds < 5
    assert told == f"stopped by {signal.Signals(number).name}; no partial results were applied\n"
    assert finished_runs(site) == 0
    site.faults.clear()
    assert "run 1 succeeded" in site.ok("sync")


def test_a_second_signal_ends_a_sync_that_does_not_come_to_its_end(site: Site, start: Any) -> None:
    site.ok("sync")
    with open_engine(site.database_url).connect() as connection, writing(connection):
        process = start("sync")  # which waits in the driver, where nobody hears of a wish to end, for the write lock
        wait_until(lambda: at_work(process))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        seconds, told = end(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert seconds < 2
    assert told == "ended by SIGTERM without waiting for unfinished work\n"
    assert finished_runs(site) == 1


def test_one_signal_ends_even_a_sync_that_waits_in_the_databases_driver(site: Site, start: Any) -> None:
    site.ok("sync")
    with open_engine(site.database_url).connect() as connection, writing(connection):
        process = start("sync")
        wait_until(lambda: at_work(process))
        seconds, _ = end(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert seconds < 5


def test_two_syncs_of_one_source_take_turns(site: Site, start: Any) -> None:
    processes = [start("sync", "--full") for _ in range(3)]
    for process in processes:
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told
    assert site.json("sync", "--full")["runs"][0]["unchanged"] == 30


def test_a_reader_that_leaves_early_is_no_error_to_be_told(site: Site, start: Any) -> None:
    site.ok("sync")  # so that the export is in the audit log
    process = start("students", "list", "--csv")
    process.stdout.close()
    told = process.stderr.read()
    process.wait(20)
    assert told == ""


# verify ----------------------------------------------------------------------------------------------------------


def test_a_verify_of_a_hundred_sources_of_one_host_needs_as_many_threads_as_that_of_one(
    tmp_path: Path, sqlite_url: str
) -> None:
    names = tuple(f"school{number}" for number in range(100))
    with serve(tmp_path, sqlite_url, size=2) as site, started(site) as start:
        site.configure("[sync]\nper_page = 1\n", sources=names)
        site.ok("sync")

        def most_threads(*words: str) -> int:
            counts = [0]
            process = start("verify", *words)
            site.app.on_request = lambda _: counts.append(tasks(process))
            assert process.wait(60) == 0
            return max(counts)

        assert most_threads() == most_threads("--source", "school0")


# simulator -------------------------------------------------------------------------------------------------------


def test_the_simulator_prints_what_a_configuration_needs_and_ends_normally_at_ctrl_c(site: Site, start: Any) -> None:
    process = start("simulator", "--students", "120", "--token", "t0k3n", "--churn", "600")
    printed = [process.stdout.readline() for _ in range(8)]
    base_url = next(line.split('"')[1] for line in printed if line.startswith("base_url"))
    assert "export ROSTERSYNC_TOKEN=t0k3n\n" in printed
    site.configure(base_url=base_url)
    site.environ = {"ROSTERSYNC_TOKEN": "t0k3n"}
    assert len(site.json("students", "list")["students"]) >= 115
    seconds, told = end(process, signal.SIGINT)
    assert process.returncode == 0
    assert seconds < 2
    assert told.endswith("stopped\n")
