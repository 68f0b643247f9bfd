"""A command of root beside the service's files goes on as the service's user: it lends nobody root's rights."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest
from canary import SEARCH, TOKEN
from school_site import Site, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

SERVICE = 64_242
"""The uid and gid of the service: nobody on this machine."""


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user can enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="rostersync-root-"))
    folder.chmod(0o755)
    yield folder
    SEARCH.folder(folder)
    shutil.rmtree(folder)


@pytest.fixture
def site(open_path: Path) -> Iterator[Site]:
    """A school, whose database is in a folder of the service's; configuration and token are for root's eyes only."""
    secret, state = open_path / "etc", open_path / "state"
    secret.mkdir(mode=0o700)
    state.mkdir(mode=0o700)
    os.chown(state, SERVICE, SERVICE)
    with serve(secret, f"sqlite:///{state}/roster.db") as site:
        (secret / "main-token").touch(mode=0o600)
        (secret / "main-token").write_text(TOKEN, encoding="utf-8")
        site.environ = {}
        site.configure(token_file="main-token", allow_writes="true")
        yield site


def command(site: Site, *words: str) -> tuple[int, str, str]:
    process = site.start(*words)
    out, told = process.communicate(timeout=60)
    return process.returncode, out, told


def ok(site: Site, *words: str) -> str:
    status, out, told = command(site, *words)
    assert status == 0, told
    return out


def foreign_files(site: Site) -> list[str]:
    """Return what in the database's folder is not the service's own, or open to others."""
    folder = state(site)
    found = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return [
        f"{path.name} {info.st_uid}:{info.st_gid} {info.st_mode:o}"
        for path, info in found.items()
        if (info.st_uid, info.st_gid) != (SERVICE, SERVICE) or info.st_mode & 0o077
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 60
    while not condition():
        assert monotonic() < end
        sleep(0.05)


def state(site: Site) -> Path:
    return site.folder.parent / "state"


def test_after_commands_of_root_all_files_beside_the_database_are_the_services(site: Site) -> None:
    assert "none yet" in ok(site, "check")
    for words in (("sync", "--dry-run"), ("sync",), ("check",), ("status",), ("resync",), ("verify",)):
        ok(site, *words)
        assert not foreign_files(site), words
    assert {path.name for path in state(site).iterdir()} >= {"roster.db", "roster.db-main.lock"}


def test_a_database_that_db_upgrade_makes_is_the_services(site: Site) -> None:
    ok(site, "db", "upgrade")
    assert (state(site) / "roster.db").exists()
    assert not foreign_files(site)


def test_the_daemon_of_root_has_the_rights_of_the_service_only(site: Site) -> None:
    daemon = site.start("run")
    try:
        wait_until((state(site) / "roster.db-main.lock").exists)
        status = Path(f"/proc/{daemon.pid}/status").read_text()
    finally:
        daemon.terminate()
        daemon.communicate(timeout=30)
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == facts["Gid"].split() == [str(SERVICE)] * 4
    assert not facts["Groups"].split()
    assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
    assert not foreign_files(site)


def test_root_reads_the_files_that_a_command_names_before_it_is_the_service(site: Site) -> None:
    ok(site, "sync")
    key = min(site.school.truth())
    lines, result = site.folder / "new.csv", site.folder / "result.csv"
    lines.write_text(f"id,first_name\n{key},Umbrella\n", encoding="utf-8")
    ok(site, "students", "update", "--from-csv", str(lines), "--result", str(result), "--expect", "1", "--yes")
    assert site.school.truth()[key]["first_name"] == "Umbrella"
    assert f",{key},done," in result.read_text(encoding="utf-8")
    assert result.stat().st_uid == 0
    fields = site.folder / "fields.json"
    fields.write_text('{"first_name": "Parasol"}', encoding="utf-8")
    ok(site, "students", "update", str(key), "--from-json", str(fields), "--yes")
    assert site.school.truth()[key]["first_name"] == "Parasol"
    assert not foreign_files(site)


def test_root_keeps_backups_where_only_root_may_read_and_write(site: Site, open_path: Path) -> None:
    ok(site, "sync")
    file = closed_folder(open_path) / "roster.backup"
    ok(site, "db", "backup", str(file))
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600)
    ok(site, "db", "restore", "--yes", str(file))
    assert not foreign_files(site)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    (state(site) / "roster.db").unlink()
    ok(site, "db", "restore", "--yes", str(file))
    assert not foreign_files(site)
    ok(site, "verify")


def closed_folder(beside: Path) -> Path:
    folder = beside / "srv-backup"
    folder.mkdir(mode=0o700)
    return folder


KILLED = """\
import os, signal
from rostersync.__main__ import main
from rostersync.store.backup import backup

def write(url, file, *_):
    assert os.getuid()
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

backup.write = write
main()"""


def test_a_backup_of_root_that_is_killed_leaves_no_file(site: Site, open_path: Path) -> None:
    ok(site, "sync")
    folder = closed_folder(open_path)
    process = site.start("db", "backup", str(folder / "roster.backup"), program=("-c", KILLED))
    process.communicate(timeout=60)
    assert process.returncode == -9
    wait_until(lambda: not list(folder.iterdir()))


def test_a_link_in_the_place_of_the_lock_hands_the_service_no_file_of_root(site: Site) -> None:
    ok(site, "sync")
    treasure = site.folder / "treasure"
    treasure.touch(mode=0o600)
    lock = state(site) / "roster.db-main.lock"
    lock.unlink()
    lock.symlink_to(treasure)
    os.lchown(lock, SERVICE, SERVICE)
    status, _, told = command(site, "sync")
    lock.unlink()
    assert status == 1
    assert f"the lock file {lock} is a symbolic link" in told
    assert treasure.stat().st_uid == 0


def test_a_folder_exchanged_for_a_link_leads_root_to_no_place_of_root(site: Site) -> None:
    """The folder is the service's, and so is the one above it: its user can send the path wherever they like."""
    above, elsewhere = site.folder.parent / "srv", site.folder.parent / "elsewhere"
    above.mkdir(mode=0o755)
    elsewhere.mkdir(mode=0o755)
    (above / "state").symlink_to(elsewhere)
    os.chown(above, SERVICE, SERVICE)
    site.configure(url=f"sqlite:///{above}/state/roster.db", token_file="main-token")
    status, _, told = command(site, "sync")
    assert status == 1
    assert f"users other than root can write to {above}" in told
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_root_makes_nothing_in_a_folder_of_root_that_others_may_write(site: Site, mode: int) -> None:
    os.chown(state(site), 0, SERVICE)  # root's own group would be as good as root
    state(site).chmod(mode)
    result = site.run("sync")
    assert result.exit_code == 1
    unsafe = f"{state(site)} belongs to root, but is not safe"
    assert f"{unsafe}: users other than root can write to {state(site)}" in result.stderr
    assert f"database: {unsafe}" in site.run("check").stdout
    assert not list(state(site).iterdir())


def test_root_stays_root_in_a_folder_of_its_own(site: Site) -> None:
    os.chown(state(site), 0, 0)
    assert site.ok("sync")
    assert {path.stat().st_uid for path in state(site).iterdir()} == {0}
    assert os.geteuid() == 0


def test_a_program_that_the_service_cannot_read_is_named(site: Site) -> None:
    script = f"""\
import sys
from pathlib import Path
from rostersync.cli import ownership
from rostersync.__main__ import main
ownership._PROGRAM = Path({str(site.folder)!r})
main()"""
    process = site.start("sync", program=("-c", script))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"(uid {SERVICE}) cannot read the program in {site.folder}" in told


def test_a_missing_token_is_told_as_ever(site: Site) -> None:
    site.configure(token_file="no-token")
    status, _, told = command(site, "sync")
    assert status == 2
    assert "cannot read" in told


# PostgreSQL ------------------------------------------------------------------------------------------------------

AS_A_SERVICE = """\
from rostersync.cli import ownership
from rostersync.__main__ import main
ownership.SERVICE_USER = {user!r}
main()"""
"""The program on a machine where the unit's user has this name."""


@pytest.fixture
def postgresql_site(open_path: Path, postgres_url: str) -> Iterator[Site]:
    with serve(open_path, postgres_url, 3) as site:
        yield site


def sync_as_root(site: Site, user: str, *words: str) -> str:
    process = site.start("sync", *words, program=("-c", AS_A_SERVICE.format(user=user)))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    return told


def test_with_postgresql_root_keeps_backups_where_only_root_may_read_and_write(
    postgresql_site: Site, open_path: Path, client_programs: Path
) -> None:
    site = postgresql_site
    ok(site, "sync")
    file = closed_folder(open_path) / "roster.backup"
    for words in (("db", "backup"), ("db", "restore", "--yes")):
        process = site.start(*words, str(file), program=("-c", AS_A_SERVICE.format(user="nobody")))
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600)
    ok(site, "verify")


def uid_of_the_hook(site: Site) -> tuple[str, ...]:
    """Let a hook note its user; return the command."""
    noted = site.folder / "noted"
    noted.mkdir(mode=0o777, exist_ok=True)
    noted.chmod(0o777)
    return ("sh", "-c", f"id -u >{noted}/uid; id -G >{noted}/groups; echo $HOME >{noted}/home")


def hooked(site: Site, *command: str, **changes: str) -> None:
    site.configure(f"\n[hooks]\nafter_run = {json.dumps(command)}\n", **changes)


def test_with_postgresql_root_is_the_units_user_before_it_calls_the_hook(postgresql_site: Site) -> None:
    site = postgresql_site
    hooked(site, *uid_of_the_hook(site))
    assert "root_keeps_its_rights" not in sync_as_root(site, "nobody")
    service = pwd.getpwnam("nobody")
    facts = [(site.folder / "noted" / name).read_text().strip() for name in ("uid", "groups", "home")]
    assert facts == [str(service.pw_uid), str(service.pw_gid), service.pw_dir]


def test_without_the_units_user_root_goes_on_with_postgresql_and_says_so_once(postgresql_site: Site) -> None:
    site = postgresql_site
    hooked(site, *uid_of_the_hook(site))
    told = sync_as_root(site, "rostersync-no-such-user")
    assert told.count("root_keeps_its_rights") == 1
    assert (site.folder / "noted" / "uid").read_text() == "0\n"


# The hook of a process that stays root -----------------------------------------------------------------------------


@pytest.fixture
def root_site(open_path: Path) -> Iterator[Site]:
    """A school whose database is in a folder of root's, so that root's commands stay root's."""
    state = open_path / "state"
    state.mkdir(mode=0o700)
    with serve(open_path, f"sqlite:///{state}/roster.db", 3) as site:
        yield site


def hook_file(site: Site) -> Path:
    """Write a hook that only root can change, in a folder of its own."""
    hook = site.folder / "hooks" / "hook"
    hook.parent.mkdir(mode=0o755)
    hook.write_text(f"#!/bin/sh\ntouch {site.folder}/called\n", encoding="utf-8")
    hook.chmod(0o755)
    return hook


def open_the_file(hook: Path) -> Path:
    hook.chmod(0o777)
    return hook


def give_the_file_away(hook: Path) -> Path:
    os.chown(hook, SERVICE, 0)
    return hook


def let_a_group_write_the_file(hook: Path) -> Path:
    os.chown(hook, 0, SERVICE)
    hook.chmod(0o775)
    return hook


def open_the_folder(hook: Path) -> Path:
    hook.parent.chmod(0o777)
    return hook.parent


def give_the_folder_away(hook: Path) -> Path:
    os.chown(hook.parent, SERVICE, 0)
    return hook.parent


def lead_through_an_open_folder(hook: Path) -> Path:
    """Put a link in its place, to the same file in a folder that everybody may write."""
    target = hook.parent.with_name("elsewhere")
    target.mkdir()
    target.chmod(0o777)
    hook.rename(target / "hook")
    hook.symlink_to(target / "hook")
    return target


def lead_through_a_link_of_another_user(hook: Path) -> Path:
    drop = hook.parent.with_name("drop")
    drop.mkdir()
    drop.chmod(0o1777)
    link = drop / "hook"
    hook.rename(hook.with_name("safe"))
    link.symlink_to(hook.with_name("safe"))
    os.lchown(link, SERVICE, SERVICE)
    hook.symlink_to(link)
    return link


OPENINGS = [
    open_the_file,
    give_the_file_away,
    let_a_group_write_the_file,
    open_the_folder,
    give_the_folder_away,
    lead_through_an_open_folder,
    lead_through_a_link_of_another_user,
]


@pytest.mark.parametrize("words", [(), ("sh",)], ids=["by its path", "as a shell's argument"])
@pytest.mark.parametrize("opening", OPENINGS)
def test_root_refuses_a_hook_that_somebody_else_can_write_and_check_reports_it(
    root_site: Site, opening: Callable[[Path], Path], words: tuple[str, ...]
) -> None:
    hook = hook_file(root_site)
    place = opening(hook)
    hooked(root_site, *words, str(hook))
    result = root_site.run("sync")
    assert result.exit_code == 0
    assert not (root_site.folder / "called").exists()
    assert f"refused: users other than root may write {place}" in result.stderr
    checked = root_site.run("check")
    assert checked.exit_code == 1
    assert f"fail  hooks: after_run is refused: users other than root may write {place}" in checked.stdout


def test_root_calls_a_hook_that_only_root_can_write(root_site: Site) -> None:
    hooked(root_site, str(hook_file(root_site)))
    root_site.ok("sync")
    assert (root_site.folder / "called").exists()
    assert "hooks" not in root_site.ok("check")


def test_check_warns_the_services_user_of_a_hook_that_a_third_one_can_write(site: Site) -> None:
    hook = site.folder.parent / "hook"
    hook.touch(mode=0o755)
    for owner, warned in ((0, False), (SERVICE, False), (SERVICE + 1, True)):
        os.chown(hook, owner, 0)
        hooked(site, str(hook), token_file="main-token", allow_writes="true")
        assert (f"warn  hooks: other users may write {hook}" in ok(site, "check")) == warned


def test_check_reports_a_token_file_of_another_user(root_site: Site) -> None:
    token = root_site.folder / "main-token"
    token.touch(mode=0o600)
    token.write_text(TOKEN, encoding="utf-8")
    root_site.configure(token_file="main-token")
    assert "warn" not in root_site.ok("check")
    os.chown(token, SERVICE, SERVICE)
    said = root_site.ok("check")
    assert f"warn  source main: {token} belongs to another user (uid {SERVICE})" in said
    assert f"chown root {token}" in said
