"""What people get wrong: each is told in one clear line and a hint, with the contract's status, and changes nothing."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from school_site import TOKEN, Site, serve

from rostersync.clock import SystemClock
from rostersync.simulator import faults
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url) as site:
        yield site


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def write(text: str) -> Callable[[Site], None]:
    return lambda site: site.path.write_text(text, encoding="utf-8") and None


def without_token(site: Site) -> None:
    site.environ = {}


def unreadable_token(site: Site) -> None:
    site.configure(token_file=".")  # a folder: no user can read it, root neither


@dataclass(frozen=True)
class Wrong:
    """A mistake: how it is made, with which status it ends, and what must be told."""

    make: Callable[[Site], object]
    status: int
    told: tuple[str, ...]


SOURCE = '[[sources]]\nname = "main"\nbase_url = "https://api.managebac.invalid"\n'

WRONG = {
    "broken TOML": Wrong(write('[sync\nper_page = "'), 2, ("config.toml, line 1", "hint: ")),
    "an unknown key": Wrong(write(SOURCE + "[sync]\nper_pge = 5\n"), 2, ("sync.per_pge", "per_page")),
    "a wrong type": Wrong(write(SOURCE + '[sync]\nper_page = "many"\n'), 2, ("sync.per_page", "whole number")),
    "no base_url": Wrong(write('[[sources]]\nname = "main"\n'), 2, ("source main: base_url is missing",)),
    "no configuration": Wrong(lambda site: site.path.unlink(), 2, ("no configuration at", "rostersync init")),
    "no token": Wrong(without_token, 2, ("ROSTERSYNC_TOKEN is not set", "hint: set it")),
    "an unreadable token file": Wrong(unreadable_token, 2, ("cannot read", "hint: put the token")),
    "an unknown driver": Wrong(
        lambda site: site.configure(url="mysql://somebody:hunter2@localhost/x"), 2, ("database.url", "'mysql'")
    ),
    "an unreachable database": Wrong(
        lambda site: site.configure(url=f"postgresql+psycopg://u:hunter2@127.0.0.1:{unused_port()}/x"),
        1,
        (
            "cannot reach postgresql+psycopg://u:***@127.0.0.1",
            "Connection refused\nhint: is the server running",
        ),
    ),
    "an unreachable database, the password behind its name": Wrong(
        lambda site: site.configure(url=f"postgresql+psycopg://u@127.0.0.1:{unused_port()}/x?password=hunter2"),
        1,
        ("cannot reach postgresql+psycopg://u@127.0.0.1", "hint: is the server running"),
    ),
    "a folder for the database that is not there": Wrong(
        lambda site: site.configure(url="sqlite:///missing/folder/roster.db"), 1, ("cannot create", "hint: create")
    ),
    "a database that is something else": Wrong(
        lambda site: (site.folder / "notes.db").write_text("x" * 4096) and site.configure(url="sqlite:///notes.db"),
        1,
        ("not a database", "hint: "),
    ),
}

API_WRONG = {
    "a wrong token": Wrong(
        lambda site: site.environ.update(ROSTERSYNC_TOKEN="wrong"), 1, ("token (401", "hint: create")
    ),
    "a wrong host": Wrong(
        lambda site: site.configure(base_url=f"http://127.0.0.1:{unused_port()}"), 1, ("127.0.0.1", "hint: ")
    ),
    "a wrong version": Wrong(lambda site: site.configure(api_version="v9"), 1, ("404 for", "hint: check base_url")),
    "a web page": Wrong(lambda site: site.faults.add(faults.html_200(), times=None), 1, ("a web page", "hint: ")),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_here_is_told_without_a_trace_in_the_database(site: Site, name: str) -> None:
    wrong = WRONG[name]
    wrong.make(site)
    result = site.run("sync")
    told = result.stderr
    assert result.exit_code == wrong.status, told
    assert all(words in told for words in wrong.told), told
    assert "Traceback" not in told
    assert "hunter2" not in told
    lines = [line for line in told.splitlines() if "root_keeps_its_rights" not in line]  # the tests may run as root
    assert len(lines) == 2
    assert not site.has_database()


@pytest.mark.parametrize("name", API_WRONG)
def test_a_mistake_that_the_api_finds_is_a_failed_run_which_changes_no_student(site: Site, name: str) -> None:
    site.ok("sync")
    before = site.rows("SELECT * FROM student_history")
    wrong = API_WRONG[name]
    wrong.make(site)
    result = site.run("sync")
    assert result.exit_code == wrong.status
    assert all(words in result.stderr for words in wrong.told), result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert TOKEN not in result.output
    assert site.rows("SELECT * FROM student_history") == before


@pytest.mark.parametrize("words", [["status"], ["runs"], ["db", "check"]])
def test_a_postgresql_database_that_nobody_has_set_up_is_told(
    tmp_path: Path, postgres_url: str, words: list[str]
) -> None:
    with serve(tmp_path, postgres_url) as site:
        result = site.run(*words)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 2
        assert not site.has_database()


def test_a_database_of_a_later_version_is_refused_and_left_as_it_is(tmp_path: Path, database_url: str) -> None:
    with serve(tmp_path, database_url) as site:
        site.ok("db", "upgrade")
        with Store(database_url, SystemClock()).writing() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        for words in (["sync"], ["status"], ["db", "upgrade"], ["db", "check"], ["check"]):
            result = site.run(*words)
            assert result.exit_code == 1
            assert "later version of rostersync" in result.output


def test_a_word_that_no_command_has_is_a_matter_of_usage(site: Site) -> None:
    for words in (["sink"], ["sync", "--ful"], ["students", "list", "--modified-since", "yesterday"]):
        result = site.run(*words)
        assert result.exit_code == 2
        assert "Error: " in result.stderr


def test_what_nobody_foresaw_is_one_line_without_the_text_of_the_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("Zorla Brindlequay")

    monkeypatch.setattr("rostersync.cli.status._sources", broken)
    result = site.run("status")
    assert result.exit_code == 1
    assert result.stderr == 'unexpected error: LookupError; run again with logging.level = "debug" for details\n'


# A process of its own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["broken TOML", "no token", "an unreachable database"])
def test_a_process_ends_as_the_command_does(site: Site, name: str) -> None:
    wrong = WRONG[name]
    wrong.make(site)
    site.environ.setdefault("ROSTERSYNC_TOKEN", "")
    process = site.start("sync")
    out, told = process.communicate(timeout=30)
    assert (process.returncode, out) == (wrong.status, "")
    assert all(words in told for words in wrong.told), told
    lines = [line for line in told.splitlines() if "root_keeps_its_rights" not in line]  # the tests may run as root
    assert len(lines) == 2
