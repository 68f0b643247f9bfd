"""Modules planted in the current folder, and requests planted in the database, get no further."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from daemons import started, wait_until
from school_site import Site, serve
from sqlalchemy import text

from rostersync.store.database.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

# Modules ---------------------------------------------------------------------------------------------------------

PLANTED = ("click", "csv", "ctypes", "json", "msgspec", "pydantic", "random", "requests", "rich", "sqlalchemy")


@pytest.mark.parametrize("words", [["--version"], ["demo", "--students", "100"]], ids=lambda words: str(words[0]))
def test_no_module_of_the_current_folder_is_imported(tmp_path: Path, words: list[str]) -> None:
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')\n", encoding="utf-8")
    command = [sys.executable, "-m", "rostersync", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "-m rostersync" not in done.stdout.replace("-P -m rostersync", "")


# Requests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url, 3) as site:
        site.ok("sync")
        yield site


@contextmanager
def tables(site: Site) -> Iterator[Connection]:
    with open_engine(site.database_url).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL search_path TO rostersync"))
        yield connection


def plant(site: Site) -> None:
    with tables(site) as connection:
        values = "SELECT source, 'unheard-of', 'pending', requested_at, 1 FROM run_request LIMIT 1"
        columns = "source, kind, state, requested_at, waiters"
        connection.execute(text(f"INSERT INTO run_request ({columns}) {values}"))


def planted(site: Site) -> list[tuple[str, str]]:
    with tables(site) as connection:
        rows = connection.execute(text("SELECT state, error FROM run_request WHERE kind = 'unheard-of'"))
        return [(row.state, row.error) for row in rows]


FAILED = [("failed", "this kind of run is unknown")]


def test_the_daemon_marks_a_request_of_an_unknown_kind_as_failed_and_goes_on(site: Site) -> None:
    with started(site) as start:
        daemon = start("run")
        wait_until(lambda: "daemon" in site.run("status").stdout)
        plant(site)
        wait_until(lambda: planted(site) == FAILED)
        site.ok("sync")
        assert daemon.poll() is None


def test_a_command_does_the_same(site: Site) -> None:
    plant(site)
    assert "unheard-of" in site.ok("status")
    site.ok("sync")
    assert planted(site) == FAILED
