"""`db backup`: a whole backup or none, while others use the database."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

import pytest
from backups import content, damaged
from daemons import end, started, wait_until
from school_site import Site, serve
from sqlalchemy import make_url

from rostersync.clock import SystemClock
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, database_url: str, client_programs: Path) -> Iterator[Site]:
    with serve(tmp_path, database_url, 8) as site:
        site.ok("sync")
        yield site


def postgresql_site(tmp_path: Path, url: str) -> Iterator[Site]:
    with serve(tmp_path, url, 3) as site:
        site.ok("sync")
        yield site


@pytest.fixture
def on_postgresql(tmp_path: Path, postgres_url: str, client_programs: Path) -> Iterator[Site]:
    yield from postgresql_site(tmp_path, postgres_url)


def test_a_backup_is_for_its_owner_only_and_its_size_and_time_are_told(site: Site) -> None:
    file = site.folder / "roster.backup"
    said = site.ok("db", "backup", str(file))
    assert re.fullmatch(rf"{re.escape(str(file))}: \d+\.\d MB in \d+\.\d s\n", said)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in site.folder.glob("*.part")] == []


def test_a_backup_overwrites_no_file(site: Site) -> None:
    file = site.folder / "roster.backup"
    file.write_text("a letter")
    result = site.run("db", "backup", str(file))
    assert result.exit_code == 2
    assert f"{file} already exists" in result.stderr
    assert file.read_text() == "a letter"


def test_a_backup_in_a_missing_folder_is_told_in_one_line(site: Site) -> None:
    result = site.run("db", "backup", str(site.folder / "missing" / "roster.backup"))
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_there_is_no_backup_of_an_empty_database(tmp_path: Path, database_url: str, client_programs: Path) -> None:
    with serve(tmp_path, database_url, 3) as site:
        result = site.run("db", "backup", str(tmp_path / "roster.backup"))
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 2
        assert not list(tmp_path.glob("roster.backup*"))


def test_a_backup_has_what_was_committed_while_a_run_writes(site: Site) -> None:
    before = content(site.database_url)
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("UPDATE student SET last_name = 'Umbrella'")
        site.ok("db", "backup", str(site.folder / "roster.backup"))
    assert content(site.database_url) != before
    site.ok("db", "restore", "--yes", str(site.folder / "roster.backup"))
    assert content(site.database_url) == before


def test_a_backup_is_taken_beside_an_active_daemon(site: Site) -> None:
    with started(site) as start:
        daemon = start("run")
        wait_until(lambda: site.rows("SELECT 1 FROM daemon"))
        site.ok("db", "backup", str(site.folder / "roster.backup"))
        assert daemon.poll() is None
        end(daemon)


LINKED = """\
import os
from rostersync.__main__ import main
from rostersync.store.backup import backup

def write(url, file, *_):
    os.symlink({target!r}, {link!r})

backup.write = write
main()"""


def test_a_folder_in_the_place_of_the_backup_gets_no_file(site: Site) -> None:
    file, folder = site.folder / "roster.backup", site.folder / "elsewhere"
    folder.mkdir()
    script = LINKED.format(target=str(folder), link=str(file))
    process = site.start("db", "backup", str(file), program=("-c", script))
    process.communicate(timeout=60)
    assert not list(folder.iterdir())
    assert not list(site.folder.glob("*.part"))


KILLED = """\
import os, signal
from rostersync.__main__ import main
from rostersync.store.backup import backup

def write(url, file, *_):
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

backup.write = write
main()"""


def test_a_killed_backup_leaves_no_file(site: Site) -> None:
    process = site.start("db", "backup", str(site.folder / "roster.backup"), program=("-c", KILLED))
    process.communicate(timeout=60)
    assert process.returncode == -9
    wait_until(lambda: not list(site.folder.glob("roster.backup*")))


WITHOUT_ROOM = """\
import resource
from rostersync.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
main()"""


def test_a_backup_for_which_there_is_no_room_leaves_no_file(site: Site) -> None:
    program = WITHOUT_ROOM.format(most=40_000 if site.database_url.startswith("sqlite") else 5_000)
    process = site.start("db", "backup", str(site.folder / "roster.backup"), program=("-c", program))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len([line for line in told.splitlines() if "root_keeps_its_rights" not in line]) == 2, told
    assert not list(site.folder.glob("roster.backup*"))


def test_a_damaged_sqlite_database_makes_no_backup(tmp_path: Path, sqlite_url: str) -> None:
    with serve(tmp_path, sqlite_url, 30) as site:
        site.ok("sync")
        path = tmp_path / "database" / "roster.db"
        with damaged(path):
            result = site.run("db", "backup", str(tmp_path / "roster.backup"))
            assert result.exit_code == 1
            assert f"the database {path} is damaged: " in result.stderr
            assert not list(tmp_path.glob("roster.backup*"))
            assert not list(path.parent.glob(".*"))


# pg_dump ---------------------------------------------------------------------------------------------------------


NEW = '[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 99.1" && exit'


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put another pg_dump in front of all others."""
    folder.mkdir()
    program = folder / "pg_dump"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_pg_dump_it_is_told_what_to_install(on_postgresql: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = on_postgresql.folder / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    result = on_postgresql.run("db", "backup", str(on_postgresql.folder / "roster.backup"))
    assert result.exit_code == 1
    assert result.stderr == "pg_dump is not installed\nhint: apt install postgresql-client\n"


def test_a_pg_dump_that_is_older_than_the_server_is_refused(
    on_postgresql: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(on_postgresql.folder / "bin", monkeypatch, "echo 'pg_dump (PostgreSQL) 12.1 (Debian 12.1-1)'")
    result = on_postgresql.run("db", "backup", str(on_postgresql.folder / "roster.backup"))
    assert result.exit_code == 1
    assert re.search(
        r"has version 12, which is too old for the server's version \d+\nhint: apt install postgresql-client-\d+",
        result.stderr,
    )


def test_pg_dump_gets_the_password_by_its_environment_and_no_token(
    on_postgresql: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = on_postgresql.folder / "bin"
    fake(noted, monkeypatch, f'{NEW}\necho "$@" >{noted}/words; env >{noted}/env')
    url = make_url(on_postgresql.database_url).set(password="canary-password")
    on_postgresql.configure(url=url.render_as_string(hide_password=False) + "&sslmode=disable")
    on_postgresql.ok("db", "backup", str(on_postgresql.folder / "roster.backup"))
    words, environment = (noted / "words").read_text(), (noted / "env").read_text()
    assert "canary-password" not in words
    assert "\nPGPASSWORD=canary-password\n" in f"\n{environment}"
    assert "\nPGSSLMODE=disable\n" in f"\n{environment}"
    assert "TOKEN" not in environment


def test_an_error_of_pg_dump_is_told_in_one_line(on_postgresql: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(on_postgresql.folder / "bin", monkeypatch, f"{NEW}\necho 'pg_dump: error: no luck' >&2; exit 1")
    result = on_postgresql.run("db", "backup", str(on_postgresql.folder / "roster.backup"))
    assert result.exit_code == 1
    assert result.stderr.startswith("cannot back up: pg_dump: no luck\n")
    assert not list(on_postgresql.folder.glob("roster.backup*"))
