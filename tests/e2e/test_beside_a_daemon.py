"""Commands beside a daemon, and a second daemon beside the first: one path for every run, on both databases."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from canary import TOKEN
from daemons import Notices, end, logged, started, wait_until
from school_site import Site, serve

from rostersync.clock import SystemClock
from rostersync.simulator import faults
from rostersync.store import probe
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Process

SELDOM = '[schedule]\nincremental = "1h"\njitter = "0s"\n'
SLOW = '[sync]\ntimeout = "60s"\nretries = 0\nper_page = 5\nconcurrency = 1\n'


@pytest.fixture
def site(tmp_path: Path, migrated_url: str) -> Iterator[Site]:
    with serve(tmp_path, migrated_url) as site:
        site.configure(SELDOM)
        yield site


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Process]]:
    with started(site) as start:
        yield start


@pytest.fixture
def daemon(site: Site, start: Callable[..., Process]) -> Process:
    """A daemon that has made its first run; whoever calls a command beside it has no token."""
    process = start("run")
    wait_until(lambda: runs(site) >= 1)
    site.environ = {}
    return process


def runs(site: Site, kind: str = "") -> int:
    where = f"WHERE kind = '{kind}'" if kind else ""
    return len(site.rows(f"SELECT 1 FROM sync_run {where}"))


def states(site: Site) -> list[str]:
    return [row.state for row in site.rows("SELECT state FROM run_request ORDER BY request_id")]


@pytest.mark.usefixtures("daemon")
def test_commands_beside_a_daemon_have_it_do_the_run_and_end_with_its_result_and_need_no_token(site: Site) -> None:
    key = site.school.create(first_name="Zorla", last_name="Brindlequay")
    (report,) = site.json("sync")["runs"]
    assert (report["kind"], report["state"], report["inserted"]) == ("incremental", "succeeded", 1)
    (report,) = site.json("resync")["runs"]
    assert (report["kind"], report["state"], report["unchanged"]) == ("full", "succeeded", 31)
    assert site.rows(f"SELECT 1 FROM current_student WHERE id = {key}")
    site.faults.add(faults.html_200(), times=1)
    failed = site.run("sync")
    assert (failed.exit_code, "a web page" in failed.stderr) == (1, True)
    (source,) = site.json("status")["sources"]
    assert source["daemon"] == source["lock_holder"]
    assert set(source["next_runs"]) == {"incremental", "full"}


@pytest.mark.usefixtures("daemon")
def test_an_approval_beside_a_daemon_is_carried_out_by_it(site: Site) -> None:
    for key in list(site.school.truth())[:10]:
        site.school.delete(key)
    (held,) = site.json("sync")["runs"]
    assert (held["state"], held["removals_held"]) == ("held", 10)
    (approved,) = site.json("sync", "--approve", str(held["run_id"]))["runs"]
    assert (approved["state"], approved["deleted"]) == ("succeeded", 10)


@pytest.mark.usefixtures("daemon")
def test_whoever_wants_the_same_while_the_daemon_is_busy_gets_one_run(site: Site) -> None:
    site.faults.add(faults.delayed(4), times=1)
    site.ok("resync", "--no-wait")
    wait_until(lambda: "taken" in states(site))
    one, another = (site.json("resync", "--no-wait")["requests"][0]["request_id"] for _ in range(2))
    assert one == another
    (report,) = site.json("resync")["runs"]
    assert (report["kind"], report["run_id"]) == ("full", 3)
    assert states(site) == ["done"] * 3  # the first run of all, the one that was going, and one for three


def test_how_far_a_daemons_run_is_is_noted_for_those_who_wait(site: Site, start: Any) -> None:
    site.configure(SELDOM + SLOW)
    site.faults.add(faults.delayed(0.5), faults.on_page(3), times=None)
    site.faults.add(faults.delayed(0.7), faults.on_page(4), times=None)
    start("run")
    wait_until(lambda: site.rows("SELECT 1 FROM run_request WHERE reads = 'roster' AND rows_total = 30"))


def test_ctrl_c_beside_a_daemon_leaves_its_run_going_and_says_so(site: Site, daemon: Process, start: Any) -> None:
    site.faults.add(faults.delayed(4), times=1)
    caller = start("sync")
    wait_until(lambda: "taken" in states(site))
    time.sleep(1)  # until the caller has seen that it is taken
    seconds, told = end(caller, signal.SIGINT)
    assert (caller.returncode, seconds < 2) == (130, True)
    assert "the run continues in another process" in told
    wait_until(lambda: runs(site) == 2)
    assert daemon.poll() is None


def test_a_request_that_is_queued_survives_the_daemon_and_is_executed_once(
    site: Site, daemon: Process, start: Any
) -> None:
    site.faults.add(faults.delayed(30), times=1)
    assert "at once, if the process is a daemon" in site.ok("resync", "--no-wait")
    wait_until(lambda: "taken" in states(site))
    daemon.kill()
    daemon.communicate()
    site.faults.clear()
    (source,) = site.json("status")["sources"]
    assert [(request["kind"], request["state"]) for request in source["requests"]] == [("full", "taken")]
    site.environ = {"ROSTERSYNC_TOKEN": TOKEN}
    start("run")
    wait_until(lambda: runs(site) == 2)
    time.sleep(1)
    assert (runs(site, "full"), states(site)) == (2, ["done", "done"])


def test_a_second_daemon_stands_by_and_takes_over(site: Site, daemon: Process, start: Any) -> None:
    site.environ = {"ROSTERSYNC_TOKEN": TOKEN}
    second = start("run")
    wait_until(lambda: site.json("status")["sources"][0]["standing_by"])
    assert "standing by: rostersync run" in site.ok("status")
    daemon.kill()
    daemon.communicate()
    begun = time.monotonic()
    site.environ = {}
    site.ok("sync", "--wait", "20s")
    assert time.monotonic() - begun < 10
    _, told = end(second)
    assert {"standing_by", "taken_over"} <= {event["event"] for event in logged(told)}
    assert second.returncode == 0


# systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def notices(site: Site, tmp_path: Path) -> Iterator[Notices]:
    """What the service manager is told, as by sd_notify."""
    with Notices(tmp_path / "notify") as notices:
        site.environ |= {"NOTIFY_SOCKET": str(notices.path), "WATCHDOG_USEC": "2000000"}
        yield notices


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_systemd_is_told_when_the_service_works_how_it_is_and_when_it_ends(
    site: Site, notices: Notices, start: Any
) -> None:
    process = start("run")
    notices.wait_for("READY=1")
    notices.wait_for("STATUS=main: 30 students, in step just now; next ")
    notices.wait_for("WATCHDOG=1")
    site.school.create()
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: runs(site) == 2)
    notices.wait_for("STATUS=main: 31 students, in step just now; next ")
    end(process)
    notices.wait_for("STOPPING=1")


def test_a_daemon_whose_database_is_away_at_its_start_is_ready_at_once_and_can_be_reloaded(
    tmp_path: Path, site: Site, notices: Notices, start: Any
) -> None:
    later = tmp_path / "later"
    site.configure(url=f"sqlite:///{later}/roster.db")
    process = start("run")
    notices.wait_for("READY=1")
    notices.wait_for(f"STATUS=waiting for the database: cannot create the database {later}/roster.db: No such file")
    for _ in range(5):
        notices.wait_for("WATCHDOG=1")
    site.configure("[guard]\nfloor = 'many'\n", url=f"sqlite:///{later}/roster.db")
    process.send_signal(signal.SIGHUP)
    notices.wait_for("READY=1\nSTATUS=configuration refused: guard.floor: ")
    site.configure(sources=("annex",), url=f"sqlite:///{later}/roster.db")
    process.send_signal(signal.SIGHUP)
    notices.wait_for("READY=1\nSTATUS=waiting for the database: ")
    later.mkdir()
    notices.wait_for("STATUS=annex: 30 students, in step just now; next ")
    _, told = end(process)
    failures = [event["error"] for event in logged(told) if event["event"] == "run_failed"]
    assert ["cannot create the database" in error for error in failures] == [True]


@pytest.mark.parametrize(("revision", "advice"), [("0001", "run: rostersync db upgrade"), ("9999", "a later version")])
def test_a_daemon_that_finds_another_schema_is_ready_and_says_what_it_waits_for(
    site: Site, notices: Notices, start: Any, revision: str, advice: str
) -> None:
    if revision < "9999" and site.database_url.startswith("sqlite"):
        pytest.skip("an older file is upgraded")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    process = start("run")
    notices.wait_for("READY=1")
    told = notices.wait_for(f"STATUS=waiting for the database: the database has schema {revision}")
    assert advice in told
    seconds, _ = end(process)
    assert (process.returncode, seconds < 2) == (0, True)
    notices.wait_for("STOPPING=1")


def test_a_daemon_that_finds_a_lost_index_says_so_until_it_was_repaired_and_the_service_reloaded(
    site: Site, notices: Notices, start: Any
) -> None:
    site.ok("db", "upgrade")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("DROP INDEX ix_run_newest")
    process = start("run")
    told = notices.wait_for("STATUS=the index ix_run_newest of run is missing: run `rostersync db check`")
    wait_until(lambda: runs(site) == 1)
    assert "in step" not in told
    [lost] = probe.differences(site.database_url)
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(lost.remedy)
    process.send_signal(signal.SIGHUP)
    notices.wait_for("STATUS=main: 30 students, in step just now")
    _, log = end(process)
    [event] = [event for event in logged(log) if event["event"] == "schema_differs"]
    assert (event["level"], event["difference"]) == ("warning", "the index ix_run_newest of run is missing")
    assert event["hint"].startswith("CREATE INDEX ix_run_newest ON ")


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_reload_takes_a_good_configuration_and_goes_on_with_the_old_one_where_it_is_wrong(
    site: Site, notices: Notices, start: Any
) -> None:
    process = start("run")
    wait_until(lambda: runs(site) == 1)
    site.configure("[guard]\nfloor = 'many'\n")
    process.send_signal(signal.SIGHUP)
    notices.wait_for("RELOADING=1\nMONOTONIC_USEC=")
    notices.wait_for("READY=1\nSTATUS=configuration refused: guard.floor: ")
    site.configure(SELDOM, sources=("main", "annex"))
    process.send_signal(signal.SIGHUP)
    notices.wait_for("STATUS=main: ")
    wait_until(lambda: site.rows("SELECT 1 FROM sync_run WHERE source = 'annex'"))
    site.configure(SELDOM, sources=("annex",))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: [s["lock_holder"] for s in site.json("status")["sources"] if s["source"] == "main"] == [None])
    site.configure(SELDOM, url="sqlite:///another.db")
    process.send_signal(signal.SIGHUP)
    notices.wait_for("STATUS=configuration refused: database.url has changed, which needs a restart")
    _, told = end(process)
    events = [event for event in logged(told) if event["event"].startswith("reload")]
    assert [event["event"] for event in events] == ["reload_failed", "reloaded", "reloaded", "reload_failed"]
    assert "guard.floor" in events[0]["error"]
    assert "needs a restart" in events[3]["error"]
    assert process.returncode == 0


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_run_that_hangs_gets_no_sign_of_life_and_a_long_one_does(site: Site, notices: Notices, start: Any) -> None:
    site.configure(SELDOM + '[sync]\ntimeout = "60s"\n')
    site.faults.add(faults.delayed(6), times=1)
    start("run")
    wait_until(lambda: site.app.log)
    for _ in range(5):  # the run waits for an answer all the while
        notices.wait_for("WATCHDOG=1")
    wait_until(lambda: runs(site) == 1)
