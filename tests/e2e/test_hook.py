"""`[hooks]`: whichever process does a run calls the command, when the run is there to be seen."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from canary import TOKEN
from daemons import wait_until
from school_site import Site, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url) as site:
        yield site


@pytest.fixture
def sqlite_site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url) as site:
        yield site


def configure(site: Site, script: str, more: str = "", **changes: str) -> None:
    """Let `script`, which a shell reads in the configuration's folder, be the hook."""
    hook = site.folder / "hook"
    hook.write_text(f'#!/bin/sh\ncd "${{0%/*}}" || exit\n{script}\n', encoding="utf-8")
    hook.chmod(0o755)
    site.configure(f'{more}\n[hooks]\nafter_run = ["./hook", "word"]\n', **changes)


def told(site: Site) -> list[dict[str, Any]]:
    path = site.folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_sync_tells_the_hook_what_it_prints_itself_when_it_has_changed_something(site: Site) -> None:
    configure(site, "cat >>told")
    printed = site.json("sync")["runs"]
    assert told(site) == printed
    site.ok("sync")  # without a change
    assert len(told(site)) == 1
    site.school.create(first_name="Zorla", last_name="Brindlequay")
    site.ok("sync", "--dry-run")
    assert len(told(site)) == 1
    site.ok("resync")
    assert [(run["kind"], run["inserted"]) for run in told(site)] == [("full", 30), ("full", 1)]


def test_a_write_tells_the_hook_of_its_refresh(site: Site) -> None:
    configure(site, "cat >>told", allow_writes="true")
    site.ok("sync")
    key = site.rows("SELECT min(id) FROM current_student")[0][0]
    site.ok("students", "update", str(key), "--set", "student_id=X-1", "--yes")
    assert [(run["kind"], run["updated"]) for run in told(site)] == [("full", 0), ("refresh", 1)]


def test_the_hook_has_neither_the_token_nor_a_part_in_the_runs_success(site: Site) -> None:
    site.environ |= {"OTHER_NAME": TOKEN}
    configure(site, 'env >env; echo "$1, no"; exit 9', token_env="OTHER_NAME")
    done = site.run("sync")
    assert done.exit_code == 0
    assert "9" in done.stderr
    assert "word, no" in done.stderr
    assert "PATH=" in (site.folder / "env").read_text()
    assert TOKEN not in (site.folder / "env").read_text()


def test_a_hook_sees_the_run_in_the_database_before_the_command_ends(site: Site) -> None:
    configure(site, "cat >>told; while ! test -e seen; do sleep 0.05; done")
    process = site.start("sync")
    try:
        wait_until(lambda: told(site))
        (run,) = told(site)
        assert [row[0] for row in site.rows("SELECT run_id FROM sync_run")] == [run["run_id"]]
        assert process.poll() is None
    finally:
        (site.folder / "seen").touch()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_the_daemon_calls_the_hook_and_ends_in_time_while_it_hangs(sqlite_site: Site) -> None:
    site = sqlite_site
    configure(site, "cat >>told; exec sleep 60", '[schedule]\nincremental = "1s"\njitter = "0s"')
    process = site.start("run")
    wait_until(lambda: told(site))
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert (process.returncode, time.monotonic() - begun < 5) == (0, True)
    events = {event["event"]: event for event in map(json.loads, log.splitlines())}
    assert events["hook_failed"]["reason"] == "not finished: the process was asked to end"
    assert events["run_finished"]["inserted"] == 30
    assert len(site.rows("SELECT 1 FROM sync_run")) == 1
