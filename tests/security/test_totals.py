"""I12: what a server, or a prepared file, brings in total is bounded as well: disk, rows and memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from harness import GUARD_OFF, World
from hostile_figures import ENDLESS, listed, run
from msgspec.structs import replace
from school_site import Site, serve

from rostersync.errors import ConfigError
from rostersync.report import RunKind, RunState
from rostersync.writing import bulk_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import ManualClock

MIB = 2**20


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url, 12) as site:
        yield site


# The stage -------------------------------------------------------------------------------------------------------


def test_a_run_stages_no_more_bytes_than_it_may_and_then_applies_nothing(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=60, policy=replace(GUARD_OFF, stage_bytes=20_000))
    for key in world.school.truth():
        world.school.update(key, street_address="a" * 60_000)
    report = world.sync()
    assert report.state is RunState.FAILED
    assert report.error is not None
    assert "more than" in report.error
    assert world.replica_ids() == set()


def test_a_run_may_stage_ten_times_the_replica(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=40, policy=GUARD_OFF)
    world.sync()
    world.policy = replace(GUARD_OFF, stage_bytes=1)
    assert world.full().state is RunState.SUCCEEDED


def test_the_disk_that_an_endless_roster_takes_is_bounded_in_a_real_process() -> None:
    figures = run([ENDLESS], more="stage_mib = 16\n")
    (report,) = figures.reports
    assert (report["state"], report["inserted"]) == ("failed", 0)
    assert figures.disk_mib < 2 * 16 + 8
    assert figures.peak_mib < 200


# Growth ----------------------------------------------------------------------------------------------------------


def test_a_run_that_would_insert_ten_times_the_known_roster_fails_until_growth_is_allowed(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=20, per_page=200)
    world.sync()
    before = world.replica_ids()
    for _ in range(1_001):
        world.school.create()
    world.pass_time(hours=1)
    report = world.sync()
    assert report.state is RunState.FAILED
    assert "the run would insert 1,001 students, but only 20 are known" in (report.error or "")
    assert "--allow-growth" in report.hint
    assert world.replica_ids() == before
    assert world.sync(RunKind.GROWTH).state is RunState.SUCCEEDED
    assert world.replica_ids() == world.living_ids()


def test_the_first_run_of_a_source_may_insert_any_number(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=1_100, per_page=200)
    assert world.sync().counts.inserted == 1_100


def test_up_to_a_thousand_new_students_are_never_too_many(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=3, per_page=200)
    world.sync()
    for _ in range(1_000):
        world.school.create()
    world.pass_time(hours=1)
    assert world.sync().counts.inserted == 1_000


def test_growth_is_allowed_on_the_command_line_for_one_run(site: Site) -> None:
    site.ok("sync")
    for _ in range(1_001):
        site.school.create()
    result = site.run("sync")
    assert result.exit_code == 1
    assert "rostersync sync --allow-growth" in result.stderr
    (run,) = site.json("sync", "--allow-growth")["runs"]
    assert (run["state"], run["kind"], run["inserted"]) == ("succeeded", "full", 1_001)


def test_allowing_growth_goes_with_no_approval(site: Site) -> None:
    assert site.run("sync", "--allow-growth", "--approve", "1").exit_code == 2


# Listing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "few"),
    [("--csv", 2), ("--json", 2), ("--fields=id,extra", 35)],  # a table has 1,000 students, which are 31 pages
)
def test_a_list_takes_no_more_memory_the_longer_it_is(form: str, few: int) -> None:
    assert listed(few + 35, form).peak_mib < listed(few, form).peak_mib + 40


def test_a_streamed_document_is_what_it_was(site: Site) -> None:
    victim = min(site.school.truth())
    site.school.inject(victim, {"id": victim, "first_name": ["x"] * 70_000})
    result = site.run("students", "list", "--json", "--fields", "id")
    document = json.loads(result.stdout)
    assert result.stdout == json.dumps(document, indent=2) + "\n"
    assert len(document["students"]) == 11
    assert [row["id"] for row in document["unreadable"]] == [victim]
    assert site.json("students", "list", "--id", "999999999") == {"students": [], "unreadable": []}


# CSV input -------------------------------------------------------------------------------------------------------


def test_a_csv_of_too_many_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    with file.open("wb") as written:
        written.truncate(100_000_001)
    with pytest.raises(ConfigError, match=r"larger than 100 MB"):
        bulk_file.read(file, "update")


def test_a_csv_of_too_many_lines_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("id,city\n" + "1,x\n" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"more than 100,000 lines"):
        bulk_file.read(file, "update")


def test_a_pipe_that_never_ends_is_refused(site: Site) -> None:
    site.configure(allow_writes="true")
    result = site.run("students", "update", "--from-csv", "/dev/zero", "--expect", "1", "--yes")
    assert result.exit_code == 2
    assert "larger than 100 MB" in result.stderr


@pytest.mark.parametrize("content", ["id," + "a," * 1_000 + "\n", "id,city\n" + "1," * 5_000_001])
def test_a_csv_of_too_many_cells_is_refused_before_they_are_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"more than 1,000 columns, or 5,000,000 cells"):
        bulk_file.read(path, "update")
