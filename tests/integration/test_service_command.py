"""`service install` and `uninstall`, on a machine that is a folder, beside a systemd that only keeps a few words."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from canary import TOKEN, heard
from click.testing import CliRunner

from rostersync.cli import output, service
from rostersync.cli.program import program
from rostersync.config import load_content
from rostersync.daemon import places
from rostersync.daemon.places import CONFIG, Machine, Program, this_program
from rostersync.daemon.unit import is_unedited, shipped
from rostersync.errors import ServiceError

if TYPE_CHECKING:
    from click.testing import Result

OTHER = f"{TOKEN}-another"

SYSTEMCTL = """#!/bin/sh
cd "$(dirname "$0")/state"
echo "systemctl $*" >>calls
case $1 in
show)
    [ ! -e broken ] || { echo "System has not been booted with systemd" >&2; exit 1; }
    echo "ActiveState=$(cat active 2>/dev/null || echo inactive)"
    echo "SubState=$(cat sub 2>/dev/null)"
    echo "UnitFileState=$(cat enabled 2>/dev/null)"
    echo LoadState=loaded
    echo "NeedDaemonReload=$(cat reload 2>/dev/null || echo no)"
    echo "StatusText=main: in step"
    ;;
daemon-reload) rm -f reload ;;
reset-failed) rm -f active sub ;;
enable) echo enabled >enabled ;;
restart)
    echo active >active
    cp starts-as/* . 2>/dev/null
    exit 0
    ;;
disable) rm -f enabled active ;;
esac
"""

SYSUSERS = """#!/bin/sh
echo "systemd-sysusers $*" >>"$(dirname "$0")/state/calls"
echo "rostersync:x:990:990::/:/usr/sbin/nologin" >>"$(dirname "$0")/../etc/passwd"
"""

START = ["systemctl daemon-reload", "systemctl enable rostersync", "systemctl restart rostersync"]


class Server:
    """A machine in a folder, and what was asked of its systemd."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "bin" / "state"
        self.state.mkdir(parents=True)
        self.etc = folder / "etc"
        (self.etc / "systemd" / "system").mkdir(parents=True)
        self.own = self.etc / "rostersync"
        self.config, self.token = self.own / "config.toml", self.own / "main-token"
        self.unit = self.etc / "systemd" / "system" / "rostersync.service"
        self.sysusers = self.etc / "sysusers.d" / "rostersync.conf"
        for name, text in (("systemctl", SYSTEMCTL), ("systemd-sysusers", SYSUSERS)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def run(self, *words: str, given: str | None = None) -> Result:
        return heard(words, CliRunner().invoke(program, ["service", *words], input=given))

    def install(self, *words: str, given: str | None = f"{TOKEN}\n") -> str:
        result = self.run("install", *words, given=given)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def refused(self, *words: str, status: int = 1, given: str | None = f"{TOKEN}\n") -> str:
        """Run what must be refused with one line and a hint, and change nothing; return both."""
        before = self.files()
        result = self.run(*words, given=given)
        assert result.exit_code == status, result.output
        assert len(result.stderr.splitlines()) == 2, result.stderr
        assert (self.files(), self.changes()) == (before, [])
        return result.stderr

    def changes(self) -> list[str]:
        """Return what systemd was told to do since this was asked last."""
        calls = self.state / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith("systemctl show")]

    def files(self) -> dict[str, tuple[int, int, str]]:
        """Return each file of the machine: its mode, its inode and its content."""
        found = {path: path.lstat() for path in self.folder.rglob("*") if self.state not in path.parents}
        return {
            str(path): (facts.st_mode, facts.st_ino, path.read_text() if path.is_file() else "")
            for path, facts in found.items()
        }

    def write(self, path: Path, text: str, mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{server.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "MACHINE", Machine(server.folder))
    monkeypatch.setattr(service, "this_program", lambda: Program(("/opt/rostersync/bin/rostersync",), (Path("/opt"),)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return server


def config(*names: str, url: str = "sqlite:////var/lib/rostersync/roster.db", more: str = "") -> str:
    tables = (f'[[sources]]\nname = "{name}"\nbase_url = "https://api.managebac.invalid"\n{more}' for name in names)
    return f'[database]\nurl = "{url}"\n{"".join(tables)}'


def lines(text: str, directive: str) -> list[str]:
    return re.findall(rf"^{directive}=(.*)$", text, re.MULTILINE)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# A fresh machine -------------------------------------------------------------------------------------------------


def test_install_writes_all_that_the_service_needs_and_starts_it(server: Server) -> None:
    told = server.install("--base-url", "https://api.managebac.cn")

    assert (mode(server.own), mode(server.config), mode(server.token)) == (0o755, 0o644, 0o600)
    assert (mode(server.unit), mode(server.sysusers)) == (0o644, 0o644)
    assert server.token.read_text() == f"{TOKEN}\n"
    assert server.changes() == [f"systemd-sysusers {server.sysusers}", *START]
    assert told.endswith("state of the service: active (main: in step)\n")
    assert not (server.folder / "var").exists()  # the state's folder is made by systemd


def test_the_configuration_that_it_writes_leads_to_database_and_token(server: Server) -> None:
    server.install("--base-url", "https://api.managebac.cn")
    written = load_content(server.config.read_bytes(), Path(CONFIG))
    (source,) = written.sources
    assert written.database.url == "sqlite:////var/lib/rostersync/roster.db"
    assert (source.name, source.base_url) == ("main", "https://api.managebac.cn")
    assert source.token_file == Path("/etc/rostersync/main-token")


def test_the_unit_is_the_shipped_one_with_this_installations_program(server: Server) -> None:
    server.install()
    written, original = server.unit.read_text(), shipped("rostersync.service")
    assert lines(written, "ExecStart") == [
        "/opt/rostersync/bin/rostersync run --config ${CONFIGURATION_DIRECTORY}/config.toml"
    ]
    changed = set(written.splitlines()) ^ set(original.splitlines())
    assert {line.split("=")[0] for line in changed if not line.startswith("#")} == {"ExecStart", "ExecReload"}
    assert lines(written, "ExecReload")[1].startswith("/opt/rostersync/bin/rostersync check --config-only ")
    assert is_unedited(written)


def test_a_dry_run_shows_every_text_but_the_token_and_touches_nothing_even_without_root(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = server.files()
    told = server.install("--dry-run", given=None)
    assert (server.files(), server.changes()) == (before, [])
    assert f"would write {server.token} (0600): the token from standard input" in told
    assert "    ExecStart=/opt/rostersync/bin/rostersync run" in told
    assert '    token_file = "/etc/rostersync/main-token"' in told
    assert [line.removeprefix("would run ") for line in told.splitlines()][-3:] == START


def test_a_dry_run_does_not_show_a_token_that_it_has(server: Server, tmp_path: Path) -> None:
    given = server.write(tmp_path / "given-token", f"{TOKEN}\n", 0o600)
    told = server.install("--dry-run", "--token-file", str(given))
    assert f"would write {server.token} (0600): the token in {given}\nwould write {server.unit}" in told
    assert TOKEN not in told


def test_a_dry_run_and_the_installation_take_the_same_steps(server: Server) -> None:
    shown = [line for line in server.install("--dry-run").splitlines() if line.startswith("would ")]
    done = server.install().splitlines()[:-1]
    past = {"write": "wrote", "make": "made", "run": "ran"}
    assert done == [" ".join([past[line.split()[1]], *line.split()[2:]]) for line in shown]


def test_on_a_terminal_the_token_is_asked_for_without_showing_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(service, "ask_secret", lambda question: asked.append(question) or TOKEN)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True, raising=False)
    server.install(given="")
    assert asked == ["Token of the source main (not shown)"]
    assert server.token.read_text() == f"{TOKEN}\n"


def test_what_is_asked_for_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, object] = {}
    monkeypatch.setattr(output.click, "prompt", lambda _question, **given: options.update(given) or "x")
    assert output.ask_secret("Token") == "x"
    assert options["hide_input"] is True


def test_a_token_in_the_environment_is_taken_and_none_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTERSYNC_TOKEN", TOKEN)
    server.install(given=None)
    assert server.token.read_text() == f"{TOKEN}\n"


# Again -----------------------------------------------------------------------------------------------------------


def test_a_second_time_changes_nothing_asks_nothing_and_says_so(server: Server) -> None:
    server.install("--base-url", "https://api.managebac.cn")
    before, _ = server.files(), server.changes()
    told = server.install("--base-url", "https://api.managebac.cn", given=None)
    assert (server.files(), server.changes()) == (before, [])
    assert told == "installed already: nothing to change\nstate of the service: active (main: in step)\n"


@pytest.mark.parametrize("lost", ["active", "enabled"])
def test_a_service_that_is_stopped_or_disabled_is_put_right(server: Server, lost: str) -> None:
    server.install()
    server.changes()
    (server.state / lost).unlink()
    server.install(given=None)
    assert server.changes() == (START[2:] if lost == "active" else START[1:])


@pytest.mark.parametrize(("name", "text"), [("active", "failed\n"), ("sub", "auto-restart\n")])
def test_a_service_that_failed_is_started_again_whatever_the_number_of_its_failures(
    server: Server, name: str, text: str
) -> None:
    server.install()
    server.changes()
    (server.state / name).write_text(text)
    told = server.install(given=None)
    assert server.changes() == ["systemctl reset-failed rostersync", START[2]]
    assert told.endswith("state of the service: active (main: in step)\n")


def test_an_installation_that_ended_before_systemd_read_the_unit_is_completed(server: Server) -> None:
    server.install()
    server.changes()
    (server.state / "reload").write_text("yes\n")
    server.install(given=None)
    assert server.changes() == [START[0], START[2]]


def test_a_token_file_replaces_the_token_and_the_service_is_restarted(server: Server, tmp_path: Path) -> None:
    server.install()
    server.changes()
    rotated = server.write(tmp_path / "new-token", f"{OTHER}\n", 0o600)
    server.install("--token-file", str(rotated))
    assert (server.token.read_text(), mode(server.token)) == (f"{OTHER}\n", 0o600)
    assert server.changes() == START[2:]
    server.install("--token-file", str(rotated))
    assert server.changes() == []


def test_a_token_that_others_could_read_and_a_folder_that_they_could_write_are_made_roots_alone(server: Server) -> None:
    server.install()
    server.token.chmod(0o644)
    server.own.chmod(0o777)
    server.install(given=None)
    assert (mode(server.token), mode(server.own), server.token.read_text()) == (0o600, 0o755, f"{TOKEN}\n")


def test_a_unit_of_an_earlier_installation_is_brought_up_to_date(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.install()
    server.changes()
    moved = Program(("/srv/python/bin/python3", "-m", "rostersync"), (Path("/srv"),))
    monkeypatch.setattr(service, "this_program", lambda: moved)
    server.install(given=None)
    assert lines(server.unit.read_text(), "ExecStart")[0].startswith("/srv/python/bin/python3 -m rostersync run ")
    assert server.changes() == [START[0], START[2]]


# A configuration that is there -----------------------------------------------------------------------------------


def test_a_configuration_in_its_place_is_used_as_it_is_with_a_credential_for_each_source(server: Server) -> None:
    written = server.write(server.config, config("north", "south"))
    for name in ("north", "south"):
        server.write(server.own / f"{name}-token", f"{TOKEN}-{name}\n", 0o600)
    told = server.install(given=None)
    assert written.read_text() == config("north", "south")
    assert lines(server.unit.read_text(), "LoadCredential") == [
        f"{name}-token:/etc/rostersync/{name}-token" for name in ("north", "south")
    ]
    assert 'source south: for commands outside the service add token_file = "/etc/rostersync/south-token"' in told


def test_one_that_is_named_is_copied_and_its_tokens_are_taken(server: Server, tmp_path: Path) -> None:
    server.write(tmp_path / "secret-token", f"{TOKEN}\n", 0o600)
    text = config("main", more=f'token_file = "{tmp_path}/secret-token"\n')
    server.install("-c", str(server.write(tmp_path / "mine.toml", text)), given=None)
    assert server.config.read_text() == text
    assert server.token.read_text() == f"{TOKEN}\n"


@pytest.mark.parametrize(
    ("url", "after"),
    [
        ("postgresql+psycopg://rostersync@/roster", True),
        ("postgresql+psycopg://rostersync@localhost/roster", True),
        ("postgresql+psycopg://rostersync@127.0.0.1:5433/roster", True),
        ("postgresql+psycopg://rostersync@/roster?host=/run/postgresql", True),
        ("postgresql+psycopg://rostersync@db.school.invalid/roster", False),
        ("sqlite:////var/lib/rostersync/roster.db", False),
    ],
)
def test_the_service_starts_behind_a_postgresql_on_the_same_machine(server: Server, url: str, after: bool) -> None:
    server.write(server.config, config("main", url=url))
    server.install()
    assert lines(server.unit.read_text(), "After") == ["network-online.target", *["postgresql.service"] * after]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (config("main", url="sqlite:///roster.db"), "the service cannot write /etc/rostersync/roster.db"),
        (config("main", url="sqlite:////var/lib/rostersync/../x.db"), "the service cannot write"),
        (config("main", more='token_file = "here.txt"\n'), "source main: token_file is relative to"),
        (config("main", url="postgresql+psycopg://rostersync:hunter2@localhost/x"), "has a password"),
    ],
)
def test_a_named_one_that_the_service_could_not_use_is_refused(
    server: Server, tmp_path: Path, text: str, told: str
) -> None:
    said = server.refused("install", "-c", str(server.write(tmp_path / "mine.toml", text)))
    assert told in said
    assert "hunter2" not in said


def test_a_named_one_never_replaces_another_that_is_there(server: Server, tmp_path: Path) -> None:
    server.write(server.config, config("main"))
    named = str(server.write(tmp_path / "mine.toml", config("other")))
    assert f"{server.config} exists and differs from {named}" in server.refused("install", "-c", named)


def test_one_that_the_service_could_not_read_is_refused(server: Server) -> None:
    server.write(server.config, config("main"), 0o600)
    assert "the service cannot read" in server.refused("install")


def test_another_base_url_than_that_of_the_configuration_is_refused(server: Server) -> None:
    server.write(server.config, config("main"))
    assert "has another base_url" in server.refused("install", "--base-url", "https://api.managebac.cn")


def test_mistakes_in_the_configuration_are_told_and_nothing_is_written(server: Server) -> None:
    server.write(server.config, config("main", more="allow_wirtes = true\n"))
    assert "allow_writes" in server.refused("install", status=2)


# What is refused -------------------------------------------------------------------------------------------------


def test_without_root_nothing_is_done(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for verb in ("install", "uninstall"):
        assert server.refused(verb).startswith(f"service {verb} needs root\nhint: run it with sudo")


@pytest.mark.parametrize("place", ["/home/somebody/venv", "/root", "/tmp/venv", "/opt/../home/venv"])
def test_a_program_that_the_service_cannot_see_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    hidden = Program((f"{place}/bin/rostersync",), (Path("/opt"), Path(place)))
    monkeypatch.setattr(service, "this_program", lambda: hidden)
    told = server.refused("install")
    assert "homes and temporary folders are hidden" in told
    assert "/opt/rostersync" in told


def test_a_link_from_or_to_a_place_that_the_service_cannot_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, seen = tmp_path / "home", tmp_path / "seen"
    home.mkdir()
    seen.mkdir()
    (seen / "link").symlink_to(home)
    (home / "link").symlink_to(seen)
    monkeypatch.setattr(places, "_HIDDEN", (home,))
    Program((), (seen,)).require_visible()
    for link in (seen / "link", home / "link"):
        with pytest.raises(ServiceError, match="the service cannot see"):
            Program((), (link,)).require_visible()


def test_this_program_needs_its_interpreter_its_environment_and_its_package() -> None:
    found = this_program()
    assert {Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix)} < set(found.needs)
    assert Path(service.__file__).parents[1] in found.needs
    assert Path(found.words[0]).is_absolute()


def test_without_a_console_script_the_module_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert this_program().words == (str(tmp_path / "python3"), "-P", "-m", "rostersync")
    (tmp_path / "rostersync").touch()
    assert this_program().words == (str(tmp_path / "rostersync"),)


def test_a_path_that_a_unit_cannot_hold_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Program(("/opt/my rostersync/%n",), (Path("/opt"),))
    monkeypatch.setattr(service, "this_program", lambda: odd)
    assert "contains characters that a unit cannot hold" in server.refused("install")


@pytest.mark.parametrize("name", ["unit", "sysusers"])
def test_a_file_that_somebody_edited_is_not_overwritten(server: Server, name: str) -> None:
    server.install()
    server.changes()
    path: Path = getattr(server, name)
    path.write_text(path.read_text() + "# ours\n")
    told = server.refused("install")
    assert f"{path} was edited" in told
    assert "systemctl edit rostersync" in told


def test_a_unit_that_somebody_else_wrote_or_a_masked_one_is_not_overwritten(server: Server) -> None:
    server.write(server.unit, shipped("rostersync.service"))
    assert "was edited, or written by somebody else" in server.refused("install")
    server.unit.unlink()
    server.unit.symlink_to("/dev/null")
    assert "was edited, or written by somebody else" in server.refused("install")


@pytest.mark.parametrize("name", ["token", "own"])
def test_nothing_is_written_through_a_link(server: Server, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path: Path = getattr(server, name)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(elsewhere)
    assert str(path) in server.refused("install")
    assert list(elsewhere.iterdir()) == []


def test_a_machine_without_systemd_is_told_so_before_anything_is_written(server: Server) -> None:
    (server.state / "broken").touch()
    assert "System has not been booted with systemd" in server.refused("install")
    server.install("--dry-run")


@pytest.mark.parametrize(
    "found",
    [{"active": "failed\n"}, {"active": "activating\n", "sub": "auto-restart\n"}],
    ids=["failed", "tried again"],
)
def test_a_service_that_does_not_start_ends_with_where_to_look(server: Server, found: dict[str, str]) -> None:
    for name, text in found.items():
        server.write(server.state / "starts-as" / name, text)
    result = server.run("install", given=f"{TOKEN}\n")
    assert result.exit_code == 1
    assert (
        result.stderr == "state of the service: failed (main: in step)\nhint: see why: journalctl -u rostersync -n 20\n"
    )


@pytest.mark.parametrize("given", ["", "two words\n", "x" * 5000])
def test_what_is_no_token_is_refused_before_anything_is_written(server: Server, given: str) -> None:
    server.refused("install", status=2, given=given)


def test_one_token_for_several_sources_is_refused_with_the_files_that_are_missing(server: Server) -> None:
    server.write(server.config, config("north", "south"))
    told = server.refused("install", status=2)
    assert "/etc/rostersync/north-token and /etc/rostersync/south-token" in told


# Taking away -----------------------------------------------------------------------------------------------------


def test_uninstall_takes_away_what_install_wrote_and_leaves_configuration_and_data(server: Server) -> None:
    server.install()
    server.changes()
    data = server.write(server.folder / "var/lib/rostersync/roster.db", "students")
    written = server.config.read_text()

    shown = server.run("uninstall", "--dry-run").stdout
    assert (server.changes(), server.unit.exists()) == ([], True)
    told = server.run("uninstall").stdout

    assert shown.replace("would run", "ran").replace("would remove", "removed") == told
    assert server.changes() == ["systemctl disable --now rostersync", "systemctl daemon-reload"]
    assert not any(path.exists() for path in (server.unit, server.sysusers, server.token))
    assert (data.read_text(), server.config.read_text()) == ("students", written)
    assert (
        f"the configuration stays: {server.config}\nthe data stays: {data.parent}\nthe user rostersync stays\n" in told
    )


def test_of_a_service_that_failed_systemd_keeps_no_trace(server: Server) -> None:
    server.install()
    server.changes()
    (server.state / "active").write_text("failed\n")
    server.run("uninstall")
    assert server.changes()[0] == "systemctl reset-failed rostersync"


def test_a_second_uninstall_has_nothing_to_take_away_and_says_so(server: Server) -> None:
    server.install()
    server.run("uninstall")
    server.changes()
    result = server.run("uninstall")
    assert (result.exit_code, server.changes()) == (0, [])
    assert result.stdout.startswith("no service here: nothing to take away\n")


def test_uninstall_leaves_an_edited_unit_and_names_it(server: Server) -> None:
    server.install()
    server.changes()
    server.unit.write_text(f"{server.unit.read_text()}# ours\n")
    result = server.run("uninstall")
    assert (result.exit_code, server.unit.exists(), server.token.exists()) == (0, True, False)
    assert server.changes()[0] == "systemctl disable --now rostersync"
    assert f"left: {server.unit}, which was edited" in result.stdout


def test_what_was_taken_away_is_installed_again_with_the_configuration_that_stayed(server: Server) -> None:
    server.install("--base-url", "https://api.managebac.cn")
    before = server.files().keys()
    server.run("uninstall")
    server.install()
    assert server.files().keys() == before
    assert 'base_url = "https://api.managebac.cn"' in server.config.read_text()
