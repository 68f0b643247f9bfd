"""A configuration that lies about is not believed, and no file with students or a password is left open to others."""

from __future__ import annotations

import os
import pwd
import re
import sqlite3
import stat
import struct
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from school_site import Site, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A school whose configuration is in the current folder, as `init` leaves it."""
    with serve(tmp_path, sqlite_url, 3) as site:
        site.path.chmod(0o644)
        monkeypatch.chdir(site.folder)
        yield site


def own_group() -> int:
    return pwd.getpwuid(os.geteuid()).pw_gid


# Found, not named ------------------------------------------------------------------------------------------------


def test_a_configuration_that_only_we_can_write_is_found(site: Site) -> None:
    assert site.run_bare("sync").exit_code == 0


def test_one_that_the_owners_own_group_may_write_is_found(site: Site) -> None:
    for path in (site.folder, site.path):
        os.chown(path, -1, own_group())
        path.chmod(0o775)
    assert site.run_bare("sync").exit_code == 0


@needs_root
@pytest.mark.parametrize("whose", ["folder", "path"])
def test_one_that_is_or_lies_with_somebody_elses_is_refused(site: Site, whose: str) -> None:
    os.chown(getattr(site, whose), NOBODY, -1)
    assert_refused(site, "belongs to another user")


@pytest.mark.parametrize("what", ["folder", "path"])
def test_one_that_everybody_may_write_or_replace_is_refused(site: Site, what: str) -> None:
    path = getattr(site, what)
    path.chmod(path.stat().st_mode | stat.S_IWOTH | stat.S_ISVTX)
    assert_refused(site, "can be changed by every user")


@needs_root
@pytest.mark.parametrize("what", ["folder", "path"])
def test_one_that_another_group_may_write_is_refused(site: Site, what: str) -> None:
    path = getattr(site, what)
    os.chown(path, -1, NOBODY)
    path.chmod(0o775)
    assert_refused(site, "can be changed by a group other than its owner's private group")


@pytest.mark.parametrize("what", ["folder", "path"])
def test_one_that_an_access_list_lets_others_write_is_refused(site: Site, what: str) -> None:
    """The list's mask is in the place of the group's bits, so the mode and the group alone look harmless."""
    path = getattr(site, what)
    os.chown(path, -1, own_group())
    let_another_user_write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o775
    assert_refused(site, "can be changed by users named in its access list")


def test_one_that_an_access_list_lets_others_only_read_is_found(site: Site) -> None:
    let_another_user_write(site.path, mask=0o5)
    assert site.run_bare("sync").exit_code == 0


def test_one_that_is_a_link_into_an_open_folder_is_refused(site: Site) -> None:
    drop = site.folder / "drop"
    drop.mkdir()
    site.path.rename(drop / "config.toml")
    site.path.symlink_to(drop / "config.toml")
    assert site.run_bare("sync").exit_code == 0
    drop.chmod(0o1777)
    assert_refused(site, f"{drop} can be changed by every user")


def test_one_that_is_named_is_believed_and_no_other_is_taken_in_its_place(site: Site) -> None:
    site.folder.chmod(0o1777)
    assert site.run_bare("sync", "-c", "config.toml").exit_code == 0
    site.environ["ROSTERSYNC_CONFIG"] = "config.toml"
    assert site.run_bare("status").exit_code == 0


def test_check_says_so_too(site: Site) -> None:
    site.path.chmod(0o666)
    result = site.run_bare("check")
    assert result.exit_code == 2
    assert "fail  config: ./config.toml is not used" in result.stdout
    assert "-c ./config.toml" in result.stdout


def let_another_user_write(path: Path, *, mask: int = 0o7) -> None:
    """Add the user `nobody` to the access list of a file or folder, as `setfacl -m u:nobody:rwx` does."""
    nobody = (1 << 32) - 1
    entries = [(1, 7, nobody), (2, 7, NOBODY), (4, 5, nobody), (16, mask, nobody), (32, 5, nobody)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except (AttributeError, OSError) as error:
        pytest.skip(f"no access lists here: {error}")


def assert_refused(site: Site, reason: str) -> None:
    result = site.run_bare("sync")
    assert result.exit_code == 2
    mistake, hint = result.stderr.splitlines()
    assert mistake.startswith("./config.toml is not used: ")
    assert reason in mistake
    assert hint == "hint: if this is the right file, use the option -c ./config.toml"
    assert not site.has_database() or "drop" in reason


# The database ----------------------------------------------------------------------------------------------------


@pytest.fixture
def database(site: Site) -> Path:
    site.ok("sync")
    return Path(site.database_url.removeprefix("sqlite:///"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("words", ["sync", "status", "runs", "verify", "db upgrade", "resync --no-wait"])
def test_a_database_that_others_may_read_is_taken_away_from_them(site: Site, database: Path, words: str) -> None:
    database.chmod(0o664)
    result = site.run(*words.split())
    assert result.exit_code == 0
    assert mode(database) == 0o600
    assert "database_made_private" in result.stderr
    assert "database_made_private" not in site.run(*words.split()).stderr


def test_so_are_the_files_in_which_sqlite_keeps_what_is_new(site: Site, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE source SET holder = NULL")
        connection.commit()
        beside = [database.with_name(f"{database.name}{suffix}") for suffix in ("-wal", "-shm")]
        for path in beside:
            path.chmod(0o644)
        site.ok("status")
        assert [mode(path) for path in beside] == [0o600, 0o600]


def test_one_that_cannot_be_taken_away_from_others_is_refused(
    site: Site, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.chmod(0o644)

    def chmod(_path: Path, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", chmod)
    result = site.run("status")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"others can read the database: {database} has mode 0644, and this user cannot change that\n"
        f"hint: let its owner run: chmod 600 {database}\n"
    )


def test_check_and_a_dry_run_change_no_mode(site: Site, database: Path) -> None:
    database.chmod(0o640)
    assert f"warn  database: others can read {database} (mode 0640)" in site.ok("check")
    site.ok("sync", "--dry-run")
    assert mode(database) == 0o640


@pytest.mark.parametrize("words", [["sync", "--dry-run"], ["sync"], ["sync", "--full", "--dry-run"]])
def test_every_file_that_a_run_has_open_is_for_its_owner_only(site: Site, words: list[str]) -> None:
    modes: dict[str, int] = {}

    def look(_: object) -> None:
        for handle in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if (name := str(handle.readlink())).startswith((str(site.folder), "/tmp/etilqs", "/var/tmp/etilqs")):
                    modes[name] = mode(handle)

    site.ok("sync")
    site.app.on_request = look
    site.ok(*words)
    assert any(".rostersync-stage-" in name for name in modes)
    assert {name: bits for name, bits in modes.items() if bits & 0o077} == {}


def test_a_file_that_is_no_database_is_left_alone(site: Site) -> None:
    notes = site.folder / "notes.txt"
    notes.write_text("x" * 4096)
    notes.chmod(0o644)
    site.configure(url="sqlite:///notes.txt")
    assert site.run("sync").exit_code == 1
    assert mode(notes) == 0o644


# A password ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("postgresql+psycopg://u:hunter2@127.0.0.1:1/x", True),
        ("postgresql://127.0.0.1:1/x?user=u&password=hunter2", True),
        ("postgresql+psycopg://u:${PGPASS}@127.0.0.1:1/x", False),
        ("postgresql+psycopg://u@127.0.0.1:1/x", False),
    ],
)
def test_check_warns_of_a_password_that_others_can_read(site: Site, url: str, warned: bool) -> None:
    site.environ["PGPASS"] = "hunter2"
    site.configure(url=url)
    site.path.chmod(0o644)
    said = site.run("check").stdout
    warning = f"warn  config: others can read {site.path} (mode 0644), which holds the database's password"
    assert (warning in said) == warned
    assert (f"run: chmod 600 {site.path}; or write ${{VARIABLE}} instead of the password" in said) == warned
    assert "hunter2" not in said
    site.path.chmod(0o600)
    assert "holds the database's password" not in site.run("check").stdout


def test_no_option_takes_a_token_or_a_password() -> None:
    """Other users see the words of a command. The reference has them all; the simulator's tokens open nothing real."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    takes = {
        (section.partition("\n")[0], option)
        for section in re.split(r"\n##+ ", page)
        for option in re.findall(r"\| `(--[a-z-]*(?:token|password|secret)[a-z-]*)", section)
    }
    real = {(verb, option) for verb, option in takes if not verb.startswith("rostersync simulator")}
    assert real == {("rostersync service token", "--token-file")}


def test_a_configuration_without_a_password_may_be_read_by_all(site: Site, database: Path) -> None:
    assert database.exists()
    assert "warn" not in site.ok("check")


# A new one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_init_writes_a_configuration_for_its_owner_only(site: Site, mask: int) -> None:
    before = os.umask(mask)
    try:
        site.run_bare("init", "new.toml")
    finally:
        os.umask(before)
    assert mode(site.folder / "new.toml") == 0o600
