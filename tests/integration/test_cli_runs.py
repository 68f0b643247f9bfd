"""`status` and `runs`: why the last run ended as it did, and whom a held run would remove."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from school_site import Site, serve

from rostersync.clock import SystemClock, to_text
from rostersync.simulator import Switches, faults
from rostersync.store.queue.failures import Failure, failures_file, write_failures
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url) as site:
        yield site


@pytest.fixture
def quick_site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """For what does not depend on the kind of database."""
    with serve(tmp_path, sqlite_url) as site:
        yield site


def change(site: Site, statement: str) -> None:
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(statement)


def delete(site: Site, count: int, start: int = 0) -> list[int]:
    gone = sorted(site.school.truth())[start : start + count]
    for key in gone:
        site.school.delete(key)
    return gone


def names_of(site: Site) -> dict[int, tuple[str, str]]:
    """Return the last and the first name of each student, by id."""
    return {key: (record["last_name"], record["first_name"]) for key, record in site.school.truth().items()}


# status ----------------------------------------------------------------------------------------------------------


def test_status_says_why_the_last_run_failed(site: Site) -> None:
    site.ok("sync")
    site.faults.add(faults.unauthorized(), times=None)
    site.run("sync")
    (source,) = site.json("status")["sources"]
    assert source["last_state"] == "failed"
    assert "(401 for /v2p1/students)" in source["last_error"]
    assert f"  why: {source['last_error']}\n" in site.ok("status")


def test_with_a_largest_age_status_fails_for_a_configured_source_that_is_older_or_was_never_synced(site: Site) -> None:
    site.ok("sync")
    assert site.ok("status", "--max-age", "1h")
    site.configure(sources=("main", "annex"))
    result = site.run("status", "--max-age", "1h")
    assert (result.exit_code, result.stderr) == (1, "annex: older than 1 h: it was never synced\n")
    wrong = site.run("status", "--max-age", "soon")
    assert (wrong.exit_code, "not a duration" in wrong.stderr) == (2, True)


def long_ago(site: Site, *sources: str) -> None:
    """Let the runs of some sources have ended an age ago."""
    for source in sources:
        change(site, f"UPDATE run SET finished_at = '2026-01-05T08:00:00.000Z' WHERE source = '{source}'")


def test_status_counts_and_names_the_sources_that_are_stale_or_were_never_synced(site: Site) -> None:
    site.configure(sources=("main", "annex"))
    site.ok("sync")
    long_ago(site, "annex")
    site.configure(sources=("main", "annex", "third"))
    lines = site.ok("status").splitlines()
    assert lines[:3] == ["3 sources: 1 in step", "  stale (1): annex", "  never synced (1): third"]
    (annex,) = [line for line in lines if line.startswith("annex: ")]
    assert "ago, stale; run " in annex
    found = {source["source"]: source["freshness"] for source in site.json("status")["sources"]}
    assert found == {"main": "fresh", "annex": "stale", "third": "never synced"}


def test_status_of_many_sources_shows_a_summary_and_those_with_problems_unless_more_is_asked_for(
    quick_site: Site,
) -> None:
    names = tuple(f"school-{number}" for number in range(20))
    quick_site.configure(sources=names)
    quick_site.ok("sync")
    long_ago(quick_site, "school-7")
    assert len(blocks(quick_site.ok("status"))) == 20
    quick_site.configure(sources=(*names, "new"))
    said = quick_site.ok("status")
    assert said.startswith("21 sources: 19 in step\n  stale (1): school-7\n  never synced (1): new\nschool-7: ")
    assert said.endswith(f"\nother sources: 19; to see them: rostersync status --all -c {quick_site.path}\n")
    assert blocks(said) == ["school-7", "new"]
    assert blocks(quick_site.ok("status", "--all")) == [*names, "new"]
    chosen = ("status", "--source", "school-1*", "--source", "new")
    assert blocks(quick_site.ok(*chosen)) == ["school-1", *names[10:], "new"]
    assert len(quick_site.json(*chosen)["sources"]) == 12
    assert len(quick_site.json("status")["sources"]) == 21
    wrong = quick_site.run("status", "--source", "nowhere*")
    assert (wrong.exit_code, wrong.stderr) == (2, "--source nowhere*: no source has such a name\n")


def blocks(said: str) -> list[str]:
    """Return the sources of which `status` shows more than their name, in order."""
    found = re.findall(r"^([\w-]+): (?:last success|never run)", said, re.MULTILINE)
    return [str(name) for name in found]


def test_a_largest_age_says_what_is_stale(quick_site: Site) -> None:
    quick_site.ok("sync")
    long_ago(quick_site, "main")
    assert "stale" in quick_site.ok("status")
    assert "stale" not in quick_site.ok("status", "--max-age", "3650d")


def test_status_tells_of_a_failure_that_left_no_run(quick_site: Site) -> None:
    quick_site.ok("sync")
    failures = failures_file(quick_site.database_url)
    assert failures is not None
    write_failures(failures, [Failure("main", SystemClock().now(), "the disk is full", "free some space")])
    assert "failing: the daemon, just now: the disk is full (hint: free some space)" in quick_site.ok("status")
    assert quick_site.json("status")["sources"][0]["failure"]["error"] == "the disk is full"


def test_status_says_nothing_of_why_behind_a_run_that_succeeded(site: Site) -> None:
    site.faults.add(faults.unauthorized(), times=1)
    site.run("sync")
    site.ok("sync")
    (source,) = site.json("status")["sources"]
    assert (source["last_error"], source["last_notices"]) == (None, [])
    assert "why" not in site.ok("status")


def test_status_repeats_what_the_last_run_gave_notice_of_also_where_it_succeeded(site: Site) -> None:
    for key in list(site.school.truth()):
        site.school.delete(key)
    site.ok("sync")
    (source,) = site.json("status")["sources"]
    assert source["last_state"] == "succeeded"
    (notice,) = source["last_notices"]
    assert "the API lists no students" in notice
    assert f"  note: {notice}\n" in site.ok("status")


def test_status_points_to_the_held_removals_and_to_their_approval(quick_site: Site) -> None:
    quick_site.ok("sync")
    delete(quick_site, 8)
    quick_site.run("sync")
    said = quick_site.ok("status")
    assert f"rostersync runs show 2 -c {quick_site.path}" in said
    assert f"rostersync sync --approve 2 -c {quick_site.path}" in said
    assert "more removals than the guard allows" in said


def test_status_names_a_run_whose_time_lies_in_the_future(site: Site) -> None:
    site.ok("sync")
    ahead = to_text(datetime.now(UTC) + timedelta(days=100))
    change(site, f"UPDATE run SET finished_at = '{ahead}'")
    said = site.ok("status")
    assert "main: no success yet; run 1 succeeded" in said
    assert "run 1 ended in the future" in said
    assert ahead[:10] in said


def test_an_age_is_told_in_words(quick_site: Site) -> None:
    quick_site.ok("sync")
    assert "main: last success just now; run 1 succeeded" in quick_site.ok("status")
    change(quick_site, f"UPDATE run SET finished_at = '{to_text(datetime.now(UTC) - timedelta(seconds=8))}'")
    assert "last success 8 s ago" in quick_site.ok("status")


# runs ------------------------------------------------------------------------------------------------------------


def held_by_feed(site: Site) -> list[int]:
    """Have run 2 held for eight students whom the deleted feed lists; return their ids."""
    site.school.switches = Switches(deleted_feed="full_deleted_at")
    site.ok("sync")
    gone = delete(site, 8)
    assert site.run("sync").exit_code == 3
    return gone


def test_runs_show_tells_whom_a_held_run_would_remove_why_and_since_when(site: Site) -> None:
    names = names_of(site)
    gone = held_by_feed(site)
    run = site.json("runs", "show", "2")["run"]
    assert (run["run_id"], run["state"], run["plan"], run["removals_held"]) == (2, "held", "open", 8)
    assert run["approve_with"] == f"rostersync sync --approve 2 -c {site.path}"
    assert [removal["id"] for removal in run["removals"]] == gone
    for removal in run["removals"]:
        assert (removal["last_name"], removal["first_name"]) == names[removal["id"]]
        assert removal["deletion_source"] == "stream"
        assert removal["known_since"] == run["finished_at"]
        assert datetime.fromisoformat(removal["deleted_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    said = site.ok("runs", "show", "2")
    for key in gone:
        (line,) = [line for line in said.splitlines() if line.startswith(str(key))]
        assert all(name in line for name in names[key])
        assert "the feed of deleted students lists the student" in line
    assert f"rostersync sync --approve 2 -c {site.path}" in said
    assert "more removals than the guard allows" in said


def test_a_removal_that_a_full_run_noticed_says_so_and_when_managebac_did_not_tell_there_is_no_time(
    site: Site,
) -> None:
    site.school.switches = Switches(deleted_feed="empty")
    site.ok("sync")
    delete(site, 8)
    site.run("sync", "--full")
    removals = site.json("runs", "show", "2")["run"]["removals"]
    assert {(removal["deletion_source"], removal["deleted_at"]) for removal in removals} == {("sweep", None)}
    assert site.ok("runs", "show", "2").count("the last full run did not find them") == 8


def test_a_removal_is_known_since_the_first_run_that_still_holds_it(site: Site) -> None:
    gone = held_by_feed(site)
    new = delete(site, 1)
    assert site.run("sync").exit_code == 3
    first, second = (site.json("runs", "show", number)["run"] for number in ("2", "3"))
    since = {removal["id"]: removal["known_since"] for removal in second["removals"]}
    assert since == dict.fromkeys(gone, first["finished_at"]) | dict.fromkeys(new, second["finished_at"])


def test_the_same_id_at_another_school_is_another_student(site: Site) -> None:
    site.configure(sources=("main", "annex"))
    site.ok("sync")
    gone = delete(site, 8)
    for source in ("main", "annex"):
        assert site.run("sync", "--source", source).exit_code == 3
    for number in ("3", "4"):
        run = site.json("runs", "show", number)["run"]
        assert [removal["id"] for removal in run["removals"]] == gone
        assert {removal["known_since"] for removal in run["removals"]} == {run["finished_at"]}


def test_of_a_run_that_was_approved_nobody_waits_any_more(site: Site) -> None:
    held_by_feed(site)
    site.ok("sync", "--approve", "2")
    run = site.json("runs", "show", "2")["run"]
    assert (run["plan"], run["removals"], run["approve_with"]) == ("approved", [], None)
    said = site.ok("runs", "show", "2")
    assert "removals were approved" in said
    assert "--approve" not in said


def test_runs_show_prints_any_run_with_why_it_failed_and_its_notices(quick_site: Site) -> None:
    quick_site.ok("sync")
    said = quick_site.ok("runs", "show", "1")
    assert "main: full run 1 succeeded" in said
    assert "30 received: 30 inserted" in said
    assert "approve" not in said
    quick_site.faults.add(faults.unauthorized(), times=None)
    quick_site.run("sync")
    assert "why: " in quick_site.ok("runs", "show", "2")
    run = quick_site.json("runs", "show", "2")["run"]
    assert (run["state"], run["plan"], run["removals"], run["notices"]) == ("failed", None, [], [])


def test_a_run_that_is_unknown_is_an_error_that_says_where_the_known_ones_are(quick_site: Site) -> None:
    quick_site.ok("sync")
    result = quick_site.run("runs", "show", "77")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"there is no run 77\nhint: list the runs: rostersync runs -c {quick_site.path}\n"


def test_the_list_of_runs_takes_its_options_as_before_and_show_takes_them_on_either_side(quick_site: Site) -> None:
    quick_site.ok("sync")
    quick_site.ok("sync")
    assert [run["run_id"] for run in quick_site.json("runs", "--limit", "1")["runs"]] == [2]
    path = str(quick_site.path)
    for words in (["-c", path, "show", "2", "--json"], ["--json", "-c", path, "show", "2"]):
        assert '"run_id": 2' in quick_site.run_bare("runs", *words).stdout
