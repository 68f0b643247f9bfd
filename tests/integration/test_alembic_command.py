"""The ordinary `alembic` command in a checkout: it works on the database of the configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from canary import SEARCH
from conftest import see_views
from sqlalchemy import text

from rostersync.store import probe
from rostersync.store.database import own_schema
from rostersync.store.database.engine import open_engine, sqlite_path
from rostersync.store.schema import revisions
from rostersync.store.schema.revisions import HEAD, REVISIONS, Level
from rostersync.store.schema.views import VIEWS

if TYPE_CHECKING:
    from subprocess import CompletedProcess

ROOT = Path(__file__).parents[2]


class Alembic:
    """Runs the command in the checkout, with a configuration that names a database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url, self._config = url, folder / "config.toml"
        self.configure(
            f'[database]\nurl = "{url}"\n[[sources]]\nname = "main"\nbase_url = "https://api.example.invalid"\n'
        )

    def configure(self, content: str) -> None:
        self._config.write_text(content, encoding="utf-8")

    def run(self, *words: str) -> CompletedProcess[str]:
        line = [sys.executable, "-m", "alembic", *words]
        environ = os.environ | {"ROSTERSYNC_CONFIG": str(self._config)}
        done = subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        SEARCH.output(words, done.stdout, done.stderr)
        return done

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        """Run the command, which must fail; return what it says, which must be one line."""
        done = self.run(*words)
        assert done.returncode != 0, done.stdout
        [line] = (done.stdout + done.stderr).splitlines()
        return line


@pytest.fixture
def alembic(tmp_path: Path, database_url: str) -> Alembic:
    return Alembic(tmp_path, database_url)


def count_views(url: str) -> int:
    """Return how many of the views can be read."""
    with open_engine(url).connect() as connection, connection.begin():
        see_views(connection)
        return len([connection.execute(text(f"SELECT * FROM {view.name}")) for view in VIEWS])


def test_upgrade_sets_up_an_empty_database_as_rostersync_does(alembic: Alembic) -> None:
    alembic.ok("upgrade", "head")
    assert probe.level(alembic.url) is Level.CURRENT
    assert probe.differences(alembic.url) == []
    assert count_views(alembic.url) == len(VIEWS)
    assert alembic.ok("current") == f"{HEAD} (head)\n"
    assert alembic.ok("check") == "No new upgrade operations detected.\n"
    alembic.ok("upgrade", "head")


def test_upgrade_brings_the_views_of_an_older_database_to_their_form(alembic: Alembic) -> None:
    engine = open_engine(alembic.url, create=True)
    with engine.connect().execution_options(begin="write") as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            own_schema.prepare(connection)
        command.upgrade(revisions.alembic_config(connection), REVISIONS[-2])
    assert alembic.ok("current") == f"{REVISIONS[-2]}\n"
    assert "not up to date" in alembic.refused("check")
    alembic.ok("upgrade", "head")
    assert probe.differences(alembic.url) == []
    assert count_views(alembic.url) == len(VIEWS)


def test_check_finds_no_difference_in_a_database_that_rostersync_made_and_names_one_made_by_hand(
    alembic: Alembic,
) -> None:
    probe.upgrade(alembic.url)
    assert alembic.ok("check") == "No new upgrade operations detected.\n"
    with open_engine(alembic.url).connect().execution_options(begin="write") as connection, connection.begin():
        connection.exec_driver_sql("ALTER TABLE run ADD COLUMN made_by_hand TEXT")
    assert "made_by_hand" in alembic.refused("check")


@pytest.mark.parametrize(
    "words", [("downgrade", "-1"), ("downgrade", "base"), ("downgrade", REVISIONS[0]), ("upgrade", REVISIONS[0])]
)
def test_only_the_newest_schema_can_be_reached_and_the_way_back_is_a_backup(
    alembic: Alembic, words: tuple[str, str]
) -> None:
    probe.upgrade(alembic.url)
    refused = alembic.refused(*words)
    assert "restore the backup" in refused
    assert "docs/operations.md" in refused
    assert probe.level(alembic.url) is Level.CURRENT


def test_migrations_cannot_be_written_out_as_sql(alembic: Alembic) -> None:
    assert "--sql" in alembic.refused("upgrade", "head", "--sql")


def test_commands_that_only_look_create_no_database(tmp_path: Path, sqlite_url: str) -> None:
    alembic = Alembic(tmp_path, sqlite_url)
    for word in ("current", "check"):
        assert "there is no database" in alembic.refused(word)
    assert not (sqlite_path(sqlite_url) or tmp_path).exists()


def test_a_newer_database_and_a_wrong_configuration_are_one_line(tmp_path: Path, sqlite_url: str) -> None:
    alembic = Alembic(tmp_path, sqlite_url)
    probe.upgrade(sqlite_url)
    with open_engine(sqlite_url).connect().execution_options(begin="write") as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    assert "from a later version of rostersync" in alembic.refused("upgrade", "head")
    alembic.configure('[database]\nurl = "mysql://nowhere"\n')
    assert "database.url" in alembic.refused("current")
