"""What a command does not use is not imported: most of what a small one costs is imports."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from school_site import ROOT, Site, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NETWORK = {"requests", "urllib3", "rostersync.managebac", "rostersync.sync"}
LOGS = {"structlog"}
TERMINAL = {"rich", "pygments"}
RARE = {"alembic", "apscheduler"}
DATABASE = {"sqlalchemy", "rostersync.store"}
MAPPER = {"sqlalchemy.orm", "rostersync.models"}
UNUSED = MAPPER | {"sqlalchemy.dialects.postgresql", "psycopg"}
"""The database is SQLite's, and mapped classes are for reports."""


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url) as site:
        site.ok("sync")
        yield site


def imported(site: Site, *words: str, program: tuple[str, ...] = ("-m", "rostersync")) -> set[str]:
    """Return the modules that a command imports, or Python on another program."""
    command = [sys.executable, "-X", "importtime", *program, *words]
    done = subprocess.run(command, cwd=ROOT, env=site.environ, capture_output=True, text=True, check=True)
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_status_imports_neither_what_asks_the_api_nor_what_sets_up_nor_what_logs(site: Site) -> None:
    found = imported(site, "status", "-c", str(site.path))
    assert "sqlalchemy" in found
    assert not found & (NETWORK | LOGS | TERMINAL | RARE | UNUSED)


def test_a_sync_imports_neither_what_sets_up_nor_the_scheduler_nor_the_other_database(site: Site) -> None:
    assert not imported(site, "sync", "-q", "-c", str(site.path)) & (RARE | UNUSED)


def test_help_imports_no_database_and_no_configuration(site: Site) -> None:
    assert not imported(site, "--help") & (NETWORK | LOGS | TERMINAL | RARE | DATABASE | {"pydantic"})


@pytest.mark.parametrize("module", ["rostersync.managebac", "rostersync.store"])
def test_the_client_and_the_store_do_without_each_other(site: Site, module: str) -> None:
    other = {"rostersync.managebac": "sqlalchemy", "rostersync.store": "requests"}[module]
    assert other not in imported(site, program=("-c", f"import {module}"))


def test_no_module_but_the_models_imports_the_mapper(site: Site) -> None:
    code = """
import importlib, pkgutil, rostersync
skipped = ("rostersync.models", "rostersync.__main__")
for module in pkgutil.walk_packages(rostersync.__path__, "rostersync."):
    if module.name not in skipped:
        importlib.import_module(module.name)
"""
    found = imported(site, program=("-c", code))
    assert {"rostersync.daemon.service", "rostersync.cli.students.writing"} <= found
    assert not found & MAPPER
    assert imported(site, program=("-c", "import rostersync.models")) >= MAPPER
