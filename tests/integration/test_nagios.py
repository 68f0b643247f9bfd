"""`status --nagios`: one line and an exit status, as the Monitoring Plugins guidelines say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from school_site import Site, serve

from rostersync.clock import SystemClock
from rostersync.simulator import faults
from rostersync.store import probe
from rostersync.store.queue.failures import Failure, failures_file, write_failures
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIGURES = re.compile(r"(\w+)=(\d+)(s?);(\d*);(\d*);0(?: |$)")


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url) as site:
        yield site


def asked(site: Site, *words: str) -> tuple[int, str, dict[str, int]]:
    """Return the exit status, the text and the figures of the only line."""
    result = site.run("status", "--nagios", *words)
    (line,) = result.stdout.splitlines()
    said, _, figures = line.partition(" | ")
    assert FIGURES.sub("", figures) == ""
    return result.exit_code, said, {found[1]: int(found[2]) for found in FIGURES.finditer(figures)}


def make_stale(site: Site, source: str) -> None:
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(f"UPDATE run SET finished_at = '2026-01-05T08:00:00.000Z' WHERE source = '{source}'")


def test_sources_in_step_are_ok(site: Site) -> None:
    site.configure(sources=("main", "annex"))
    site.ok("sync")
    status, said, figures = asked(site)
    assert (status, said) == (0, "ROSTERSYNC OK - 2 sources: 2 in step")
    age = figures.pop("oldest_success")
    assert 0 <= age < 60
    assert figures == {"sources": 2, "in_step": 2, "stale": 0, "never_synced": 0, "in_trouble": 0}


def test_a_fresh_source_whose_last_run_failed_is_a_warning(site: Site) -> None:
    site.ok("sync")
    site.faults.add(faults.http_status(503), times=None)
    site.run("sync")
    status, said, figures = asked(site)
    assert (status, said) == (1, "ROSTERSYNC WARNING - 1 source: 1 in step, 1 in trouble: main")
    assert figures["in_trouble"] == 1


@on_sqlite
def test_a_failure_of_the_daemon_is_a_warning(site: Site) -> None:
    site.ok("sync")
    failures = failures_file(site.database_url)
    assert failures is not None
    write_failures(failures, [Failure("main", SystemClock().now(), "the disk is full", "free some space")])
    assert asked(site)[0] == 1


def test_a_schema_that_differs_is_a_warning_until_it_is_repaired(site: Site) -> None:
    site.ok("sync")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("DROP INDEX ix_run_newest")
    status, said, _ = asked(site)
    lost = "the index ix_run_newest of run is missing"
    assert (status, said) == (1, f"ROSTERSYNC WARNING - 1 source: 1 in step, schema differs: {lost}")
    assert site.ok("status").startswith(f"schema differs: {lost}; see: rostersync db check -c {site.path}\n")
    assert site.json("status")["schema_differences"] == [lost]
    late = site.run("status", "--max-age", "1h")
    assert (late.exit_code, late.stdout.startswith("schema differs: ")) == (1, True)
    [difference] = probe.differences(site.database_url)
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(difference.remedy)
    assert asked(site)[0] == 0
    assert site.json("status")["schema_differences"] == []


def test_stale_and_never_synced_sources_are_critical(site: Site) -> None:
    site.configure(sources=("main", "annex"))
    site.ok("sync")
    make_stale(site, "annex")
    site.configure(sources=("main", "annex", "third"))
    status, said, figures = asked(site)
    expected = "ROSTERSYNC CRITICAL - 3 sources: 1 in step, 1 stale: annex, 1 never synced: third"
    assert (status, said) == (2, expected)
    assert (figures["stale"], figures["never_synced"]) == (1, 1)
    assert asked(site, "--source", "m*")[0] == 0


def test_the_largest_age_is_the_limit_of_the_figures(site: Site) -> None:
    site.ok("sync")
    make_stale(site, "main")
    assert asked(site, "--max-age", "3650d")[0] == 0
    result = site.run("status", "--nagios", "--max-age", "1h")
    assert result.exit_code == 2
    assert re.search(r" oldest_success=\d+s;;3600;0$", result.stdout.rstrip())
    assert result.stderr == ""


def test_a_missing_database_and_what_is_wrong_with_the_configuration_or_the_options_is_unknown(site: Site) -> None:
    status, said, _ = asked(site)
    assert (status, said.startswith("ROSTERSYNC UNKNOWN - ")) == (3, True)
    site.ok("sync")
    for words in (["--max-age", "soon"], ["--nonsense"], ["--json"], ["--source", "nowhere"]):
        status, said, _ = asked(site, *words)
        assert (status, said.startswith("ROSTERSYNC UNKNOWN - ")) == (3, True)
    make_stale(site, "main")
    site.configure('[schedule]\nincremental = "often | never"\nfull = "never"\n')
    status, said, figures = asked(site)
    assert (status, said.startswith("ROSTERSYNC UNKNOWN - schedule.incremental: "), figures) == (3, True, {})
    site.path.unlink()
    assert asked(site)[0] == 3


@on_sqlite
def test_a_database_that_must_not_be_read_or_is_none_is_unknown(site: Site) -> None:
    site.ok("sync")
    database = site.folder / "database" / "roster.db"
    database.unlink()
    database.mkdir()
    assert asked(site)[0] == 3
    database.rmdir()
    database.write_text("no database")
    assert asked(site)[0] == 3


@on_sqlite
def test_an_error_that_nobody_foresaw_is_unknown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("rostersync.cli.status._sources", refuse)
    assert asked(site)[:2] == (3, "ROSTERSYNC UNKNOWN - unexpected: PermissionError")
