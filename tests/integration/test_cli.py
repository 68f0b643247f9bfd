"""The commands, each on both databases, against the stand-in on a socket."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from earlier import back_to
from school_site import TOKEN, Site, serve

from rostersync.clock import SystemClock
from rostersync.simulator import Switches, faults
from rostersync.store.schema import revisions
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rostersync.simulator import Response


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url) as site:
        yield site


@pytest.fixture
def quick_site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """For what does not depend on the kind of database."""
    with serve(tmp_path, sqlite_url) as site:
        yield site


def delete(site: Site, count: int) -> list[int]:
    gone = sorted(site.school.truth())[:count]
    for key in gone:
        site.school.delete(key)
    return gone


# sync ------------------------------------------------------------------------------------------------------------


def test_the_first_sync_makes_the_database_and_brings_every_student(site: Site) -> None:
    said = site.ok("sync")
    assert "main: full run 1 succeeded" in said
    assert "30 received: 30 inserted" in said
    assert {row.id for row in site.rows("SELECT id FROM current_student")} == set(site.school.truth())


def test_sync_as_json_has_exactly_the_keys_of_the_contract_and_nothing_else_on_standard_output(site: Site) -> None:
    (run,) = site.json("sync")["runs"]
    assert list(run) == [
        *("run_id", "source", "kind", "state", "fetched", "inserted", "updated", "unchanged", "restored"),
        *("quarantined", "ignored", "deleted", "stale", "removals_held", "requests", "retries", "duration_s"),
        *("watermarks", "error"),
    ]
    assert (run["run_id"], run["kind"], run["state"], run["inserted"]) == (1, "full", "succeeded", 30)
    (run,) = site.json("sync")["runs"]
    assert (run["run_id"], run["kind"], run["unchanged"]) == (2, "incremental", run["fetched"])


def test_full_reads_everything_again(quick_site: Site) -> None:
    quick_site.ok("sync")
    assert quick_site.json("sync", "--full")["runs"][0]["unchanged"] == 30
    assert quick_site.json("resync")["runs"][0]["kind"] == "full"


@pytest.mark.usefixtures("compiled_anew")
def test_a_dry_run_tells_what_would_be_done_and_makes_no_database(site: Site) -> None:
    (run,) = site.json("sync", "--dry-run")["runs"]
    assert (run["run_id"], run["state"], run["inserted"]) == (None, "dry_run", 30)
    assert not site.has_database()


def test_too_many_removals_are_held_until_they_are_approved_with_the_command_that_is_told(site: Site) -> None:
    site.ok("sync")
    gone = delete(site, 8)
    assert site.run("sync", "--dry-run").exit_code == 3
    held = site.run("sync")
    assert held.exit_code == 3
    assert f"rostersync sync --approve 2 -c {site.path}" in held.stderr
    assert "--approve 2" in site.ok("status")
    assert site.json("sync", "--approve", "2")["runs"][0]["deleted"] == 8
    assert {row.id for row in site.rows("SELECT id FROM deleted_student")} == set(gone)
    assert site.json("status")["sources"][0]["held_run_id"] is None
    assert site.run("sync", "--approve", "2").exit_code == 2


@pytest.mark.parametrize("words", [["--full"], ["--source", "main"]])
def test_an_approval_goes_with_no_flag_that_would_make_it_another_run(quick_site: Site, words: list[str]) -> None:
    result = quick_site.run("sync", "--approve", "1", *words)
    assert result.exit_code == 2
    assert "--approve repeats the held run" in result.stderr


def test_an_approval_of_a_run_that_is_not_held_says_so_whether_or_not_there_is_a_database(quick_site: Site) -> None:
    for _ in range(2):
        result = quick_site.run("sync", "--approve", "7")
        assert result.exit_code == 2
        assert "--approve 7: run 7 has no removals waiting for approval" in result.stderr
        quick_site.ok("sync")


def test_a_failing_source_does_not_keep_another_from_its_run_and_the_worst_status_counts(site: Site) -> None:
    site.configure(sources=("main", "annex"))
    site.faults.add(faults.http_status(500), faults.on_roster, times=1)
    result = site.run("sync")
    assert result.exit_code == 1
    states = {row.state for row in site.rows("SELECT state FROM sync_run")}
    assert states == {"failed", "succeeded"}


def test_a_source_without_a_token_does_not_keep_another_from_its_run(quick_site: Site) -> None:
    quick_site.configure()
    text = quick_site.path.read_text()
    extra = f'[[sources]]\nname = "annex"\nbase_url = "{quick_site.base_url}"\ntoken_env = "NOT_SET"\n'
    quick_site.path.write_text(text.replace("[sync]", f"{extra}[sync]"))
    result = quick_site.run("sync")
    assert result.exit_code == 2
    assert "main: full run 1 succeeded" in result.stdout
    assert "NOT_SET" in result.stderr


def test_a_source_that_another_process_holds_is_not_waited_for_longer_than_asked(site: Site) -> None:
    site.ok("sync")
    store = Store(site.database_url, SystemClock())
    with store.lease("main", "another program"):
        result = site.run("sync", "--wait", "0s")
        assert result.exit_code == 75
        assert "source main is locked by another program" in result.stderr
        assert result.stderr.count("\n") == 2
        assert "another program" in site.ok("status")
        assert "another program" in site.json("status")["sources"][0]["lock_holder"]
    assert site.json("status")["sources"][0]["lock_holder"] is None


def test_a_failed_run_says_why_in_one_line_and_then_what_to_do(quick_site: Site) -> None:
    quick_site.ok("sync")
    quick_site.faults.add(faults.unauthorized(), times=None)
    result = quick_site.run("sync")
    assert result.exit_code == 1
    reason, hint = result.stderr.splitlines()
    assert reason.startswith("main: failed: ")
    assert hint.startswith("hint: ")


def test_several_sources_are_run_at_once(quick_site: Site) -> None:
    quick_site.configure("[sync]\nconcurrency = 8\n", sources=("a", "b", "c"))
    together = threading.Barrier(3, timeout=20)

    def meet(exchange: faults.Exchange) -> Response:
        together.wait()
        return exchange.answer()

    quick_site.faults.add(meet, faults.on_page(1), times=3)
    assert len(quick_site.json("sync")["runs"]) == 3


# resync ----------------------------------------------------------------------------------------------------------


def test_resync_without_waiting_leaves_a_request_for_the_next_run_and_tells_whether_anybody_is_there(
    site: Site,
) -> None:
    site.ok("sync")
    queued = "main: request 2 queued; no run is in progress; the next run of this source will carry out the request\n"
    assert site.ok("resync", "--no-wait") == queued
    with Store(site.database_url, SystemClock()).lease("main", "another program"):
        assert site.json("resync", "--no-wait")["requests"][0]["lock_held"] is True
    site.ok("sync")
    kinds = [row.kind for row in site.rows("SELECT kind FROM sync_run ORDER BY run_id")]
    assert kinds == ["full", "full", "incremental"]


# status, runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["status"], ["runs"], ["db", "current"], ["db", "check"]])
def test_what_only_looks_makes_no_database_and_says_that_there_is_none(site: Site, words: list[str]) -> None:
    result = site.run(*words)
    if words == ["db", "current"] and result.exit_code == 0:  # of an empty PostgreSQL database it can tell
        assert result.stdout.startswith("none")
    else:
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 2
    assert not site.has_database()


def test_status_tells_of_every_source_configured_or_not(site: Site) -> None:
    site.ok("sync")
    site.configure(sources=("other",))
    other, main = site.json("status")["sources"]
    assert (other["source"], other["configured"], other.get("live_students")) == ("other", True, None)
    assert (main["source"], main["configured"], main["live_students"]) == ("main", False, 30)
    assert datetime.fromisoformat(main["last_success_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    said = site.ok("status")
    assert "other: never run" in said
    assert "main: no longer configured; still in the database: 30 students" in said


def test_status_tells_of_quarantine_and_of_a_deleted_feed_that_is_useless(site: Site) -> None:
    site.school.switches = Switches(deleted_feed="ignored")
    site.school.inject(99, {"id": 99, "email": "no\0text"})
    for _ in range(2):
        site.ok("sync")
    (source,) = site.json("status")["sources"]
    assert (source["quarantined"], source["last_state"], source["deleted_feed_ignored"]) == (1, "succeeded", True)
    said = site.ok("status")
    assert "1 in quarantine" in said
    assert "does not report deletions" in said


def test_runs_are_listed_newest_first(site: Site) -> None:
    site.ok("sync")
    site.ok("sync")
    assert [run["run_id"] for run in site.json("runs")["runs"]] == [2, 1]
    assert [run["run_id"] for run in site.json("runs", "--limit", "1")["runs"]] == [2]
    header, newest, _ = site.ok("runs").splitlines()
    assert header.split()[:4] == ["run", "source", "kind", "state"]
    assert newest.split()[:4] == ["2", "main", "incremental", "succeeded"]


# init, check, db -------------------------------------------------------------------------------------------------


def test_init_writes_a_configuration_that_loads_and_overwrites_none(quick_site: Site, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    quick_site.ok("init", str(path))
    written = path.read_text()
    result = quick_site.run("init", str(path))
    assert result.exit_code == 2
    assert "already exists" in result.stderr
    assert path.read_text() == written


def test_init_in_a_folder_that_is_not_there_says_so(quick_site: Site, tmp_path: Path) -> None:
    result = quick_site.run("init", str(tmp_path / "none" / "config.toml"))
    assert result.exit_code == 2
    assert "create the folder, or choose another path" in result.stderr


def test_check_names_the_source_of_a_mistake_once(quick_site: Site) -> None:
    quick_site.configure(token_file="missing")
    result = quick_site.run("check")
    assert "source main: cannot read" in result.stdout
    assert "source main: source main" not in result.stdout


def test_check_finds_everything_in_order_and_changes_nothing(site: Site) -> None:
    assert "fail" not in site.ok("check")
    assert not site.has_database()
    site.ok("sync")
    document = site.json("check")
    assert document["ok"] is True
    assert {check["what"] for check in document["checks"]} == {"config", "database", "source main"}


def test_check_tells_each_thing_that_fails_with_its_fix(site: Site) -> None:
    site.ok("sync")
    site.faults.add(faults.forbidden(), faults.on_student(), times=None)
    result = site.run("check")
    assert result.exit_code == 1
    assert "can list students, but cannot read an individual student" in result.stdout
    assert "give the token permission" in result.stdout


@pytest.mark.parametrize(("auth", "other"), [("header", "parameter"), ("parameter", "header")])
def test_check_names_the_other_way_to_send_the_token_after_a_401(quick_site: Site, auth: str, other: str) -> None:
    quick_site.configure(auth=auth)
    assert "auth =" not in quick_site.ok("check")
    quick_site.faults.add(faults.unauthorized(), times=None)
    assert f'if the token is right, try auth = "{other}" for this source' in quick_site.run("check").stdout


def test_check_warns_of_files_that_others_can_read(quick_site: Site) -> None:
    token = quick_site.folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    quick_site.configure(token_file="token")
    quick_site.ok("sync")
    said = quick_site.ok("check")
    assert f"chmod 600 {token}" in said
    assert "warn" in said


def test_check_of_a_wrong_configuration_tells_every_mistake_and_exits_with_2(quick_site: Site) -> None:
    quick_site.path.write_text("[sync]\nper_page = 1000\noverlapp = '1m'\n")
    result = quick_site.run("check")
    assert result.exit_code == 2
    assert result.stdout.count("fail") == 3  # and the sources are missing
    document = quick_site.json("check")
    assert document["ok"] is False


def test_a_check_of_the_configuration_alone_names_each_mistake_and_asks_nobody(site: Site) -> None:
    site.environ = {}
    assert site.ok("check", "--config-only") == f"ok    config: {site.path}\n"
    assert site.ok("check", "--config-only", "--quiet") == ""
    assert not site.has_database()
    assert not site.app.log
    site.configure("[guard]\nfloor = 'many'\n[shedule]\n")
    result = site.run("check", "--config-only", "--quiet")
    assert result.exit_code == 2
    assert [line.split(": ")[0] for line in result.stdout.splitlines() if line.startswith("fail")] == [
        "fail  config",
        "fail  config",
    ]
    site.configure(url="postgresql+psycopg://roster@db.example.org/roster?sslmode=prefer")
    result = site.run("check", "--config-only")
    assert (result.exit_code, "in plain text" in result.stdout) == (2, True)


def test_the_database_can_be_made_and_looked_at_before_the_first_sync(site: Site) -> None:
    assert site.ok("db", "upgrade", "--dry-run") == f"the database is empty: schema {revisions.HEAD} would be created\n"
    said = site.ok("db", "upgrade")
    assert re.fullmatch(rf"upgraded from an empty database to schema {revisions.HEAD} in \d+\.\d s: up to date\n", said)
    assert site.ok("db", "upgrade", "--dry-run") == site.ok("db", "upgrade") == f"schema {revisions.HEAD}: up to date\n"
    assert site.ok("db", "current") == f"{revisions.HEAD}\n"
    assert "up to date" in site.ok("db", "check")
    assert "never run" in site.ok("status")


def test_db_upgrade_says_what_it_would_do_and_what_it_did(site: Site) -> None:
    site.ok("db", "upgrade")
    postgresql = "postgresql" in site.database_url
    with Store(site.database_url, SystemClock()).writing() as connection:
        for statement in back_to("0005", "postgresql" if postgresql else "sqlite"):
            connection.exec_driver_sql(statement)
    plan = site.ok("db", "upgrade", "--dry-run")
    assert plan.startswith(f"schema 0005 would be upgraded to {revisions.HEAD}:\n  0006: Store what daemons publish")
    assert f"  {revisions.HEAD}: " in plan
    waits = [line.split(":")[0].strip() for line in plan.splitlines() if "Readers wait" in line]
    assert waits == (["0007", "0008", "0009"] if postgresql else [])
    assert ("readers wait: public.sync_health\n" in plan) == postgresql
    assert ("no reader waits" in plan) != postgresql
    assert site.ok("db", "current") == "0005\n"
    assert site.ok("db", "upgrade").startswith(f"upgraded from schema 0005 to schema {revisions.HEAD} in ")


def test_db_check_tells_how_tables_differ_that_somebody_changed(site: Site) -> None:
    site.ok("db", "upgrade")
    store = Store(site.database_url, SystemClock())
    with store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE quarantine ADD COLUMN remark text")
        connection.exec_driver_sql("DROP INDEX ix_run_newest")
        connection.exec_driver_sql(
            "DROP TABLE audit CASCADE" if "postgresql" in site.database_url else "DROP VIEW audit_log"
        )
    result = site.run("db", "check")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert all("; remedy: " in line for line in lines)
    for what in ("audit_log is missing", "quarantine.remark does not belong", "ix_run_newest of run is missing"):
        assert [line for line in lines if what in line]


def test_db_check_tells_of_missing_tables_without_counting_their_rows(site: Site) -> None:
    site.ok("db", "upgrade")
    with Store(site.database_url, SystemClock()).writing() as connection:
        cascade = " CASCADE" if "postgresql" in site.database_url else ""
        connection.exec_driver_sql(f"DROP TABLE student{cascade}")
    result = site.run("db", "check")
    assert result.exit_code == 1
    assert "the table student is missing; remedy: restore a backup" in result.stderr
    assert "refused" not in result.stderr


def test_db_check_reports_a_wrong_head_count_which_a_full_run_repairs(site: Site) -> None:
    site.ok("sync")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("UPDATE source SET living = 29")
    result = site.run("db", "check")
    assert result.exit_code == 1
    assert "the head count of source main is 29 living" in result.stderr
    assert "its rows are 30 living" in result.stderr
    assert "sync --full" in result.stderr
    site.ok("sync", "--full")
    assert "up to date" in site.ok("db", "check")


# students --------------------------------------------------------------------------------------------------------


def test_students_are_listed_straight_from_the_api_in_three_forms(quick_site: Site) -> None:
    truth = quick_site.school.truth()
    listed = quick_site.json("students", "list")["students"]
    assert {student["id"] for student in listed} == set(truth)
    rows = list(csv.DictReader(io.StringIO(quick_site.ok("students", "list", "--csv"))))
    assert {row["last_name"] for row in rows} == {record["last_name"] for record in truth.values()}
    assert len(quick_site.ok("students", "list").splitlines()) == 31
    assert not quick_site.has_database()


def test_the_filters_of_the_list_reach_the_api(quick_site: Site) -> None:
    key = min(quick_site.school.truth())
    quick_site.school.archive(key, withdrawn_on="2026-01-31")
    gone = max(quick_site.school.truth())
    quick_site.school.delete(gone)

    def ids(*words: str) -> list[int]:
        return [student["id"] for student in quick_site.json("students", "list", *words)["students"]]

    today = datetime.now(UTC) - timedelta(minutes=5)
    assert ids("--id", str(key)) == [key]
    assert key in ids("--archived")
    assert key not in ids("--no-archived")
    assert ids("--modified-since", today.isoformat()) == [key]
    assert ids("--deleted-since", today.date().isoformat()) == [gone]
    group = next(r["year_group_id"] for r in quick_site.school.truth().values() if "year_group_id" in r)
    groups = {quick_site.school.truth()[found]["year_group_id"] for found in ids("--year-group", str(group))}
    assert groups == {group}


def test_one_student_is_printed_or_told_to_be_missing(quick_site: Site) -> None:
    key, record = next(iter(quick_site.school.truth().items()))
    assert quick_site.json("students", "get", str(key))["student"]["last_name"] == record["last_name"]
    assert record["last_name"] in quick_site.ok("students", "get", str(key))
    result = quick_site.run("students", "get", "4")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no student 4" in result.stderr
    assert "a whole number from 1" in quick_site.run("students", "get", "abc").stderr


def test_a_name_cannot_steer_the_terminal(quick_site: Site) -> None:
    key = min(quick_site.school.truth())
    quick_site.school.update(key, last_name="Zor\x07[red]\nla")
    said = quick_site.ok("students", "get", str(key))
    assert "Zor�[red] la" in said


def test_with_several_sources_the_one_that_is_meant_must_be_named(quick_site: Site) -> None:
    quick_site.configure(sources=("a", "b"))
    result = quick_site.run("students", "list")
    assert result.exit_code == 2
    assert "a, b" in result.stderr
    assert len(quick_site.json("students", "list", "--source", "a")["students"]) == 30


# Everything ------------------------------------------------------------------------------------------------------


def test_no_output_holds_the_token(quick_site: Site) -> None:
    quick_site.configure('[logging]\nlevel = "debug"\n')
    words = [["sync"], ["status"], ["check"], ["runs"], ["students", "list"], ["sync", "--json"]]
    said = [json.dumps([result.stdout, result.stderr]) for result in (quick_site.run(*each) for each in words)]
    assert not [text for text in said if TOKEN in text]


# verify, and source forget ---------------------------------------------------------------------------------------


def test_verify_says_that_an_exact_replica_is_equal(site: Site) -> None:
    site.ok("sync")
    assert "main: replica matches ManageBac: 30 students\n" in site.ok("verify")
    assert site.json("verify")["sources"][0]["state"] == "equal"


def test_verify_prints_20_differences_and_the_number_of_the_others(site: Site) -> None:
    site.ok("sync")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("UPDATE student SET nickname = 'Spoilt'")
    result = site.run("verify")
    assert result.exit_code == 1
    assert len([line for line in result.stdout.splitlines() if "differs in nickname" in line]) == 20
    assert "  and 10 more\n" in result.stdout
    assert len(site.json("verify")["sources"][0]["differences"]) == 30


def test_verify_says_which_command_names_the_remedy_for_ids_that_are_stored_twice(
    site: Site,
) -> None:
    if site.database_url.startswith("sqlite"):
        pytest.skip("a primary key of SQLite cannot be dropped")
    site.ok("sync")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("ALTER TABLE student DROP CONSTRAINT pk_student")
        connection.exec_driver_sql("INSERT INTO student SELECT * FROM student")
    said = site.run("verify").stdout
    assert "replica differs in 30 of 30 students" in said
    assert ": stored more than once\n" in said
    assert "`rostersync db check` shows the remedy" in said
    result = site.run("db", "check")
    assert "the primary key of student is missing; remedy: " in result.stderr
    assert "its rows are 60 living" in result.stderr


def test_verify_names_who_differs_and_in_what_and_exits_1(quick_site: Site) -> None:
    quick_site.ok("sync")
    gone, lost, wrong, *_ = sorted(quick_site.school.truth())
    quick_site.school.purge(gone)
    with Store(quick_site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(f"DELETE FROM student WHERE id = {lost}")
        connection.exec_driver_sql(f"UPDATE student SET city = 'x', nickname = 'x' WHERE id = {wrong}")
    result = quick_site.run("verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:-1] == [
        "main: replica differs in 3 of 29 students",
        f"  {gone}: in the replica, but no longer in ManageBac",
        f"  {lost}: missing from the replica",
        f"  {wrong}: differs in nickname, city",
    ]


def test_a_source_that_is_no_longer_configured_can_be_forgotten(site: Site) -> None:
    site.configure(sources=("main", "old"))
    site.ok("sync")
    site.configure()
    assert "old: would purge" in site.ok("source", "forget", "old", "--dry-run")
    assert site.run("source", "forget", "old").exit_code == 2  # no terminal, no --yes
    assert site.ok("source", "forget", "old", "--yes") == "old: purged 30 students, 1 request, 1 run\n"
    assert {row.source for row in site.rows("SELECT source FROM student_history")} == {"main"}


@pytest.mark.parametrize("name", ["main", "nowhere"])
def test_a_source_that_is_configured_or_unknown_is_not_forgotten(quick_site: Site, name: str) -> None:
    quick_site.ok("sync")
    assert quick_site.run("source", "forget", name, "--yes").exit_code == 2
    assert len(quick_site.rows("SELECT id FROM current_student")) == 30
