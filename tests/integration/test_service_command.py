"""`service token` and `service ready`: what the service needs besides its package."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING

import pytest
from canary import TOKEN, heard
from click.testing import CliRunner
from daemons import logged, started, wait_until
from school_site import Site, serve

from rostersync.cli import output, service
from rostersync.cli.program import program
from rostersync.config import load
from rostersync.simulator.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

OTHER = f"{TOKEN}-another"
STRANGER = 64_242
"""A uid and gid that nobody on this machine has."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


class Host(Site):
    """A school whose configuration names a folder of tokens."""

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def token(self) -> Path:
        return self.tokens / "main-token"

    def configure(self, more: str = "", *, sources: tuple[str, ...] = ("main",), **changes: str) -> None:
        super().configure(more, sources=sources, **changes)
        self.path.write_text(f'tokens_dir = "tokens"\n{self.path.read_text()}')

    def store(self, *words: str, given: str = f"{TOKEN}\n", status: int = 0) -> str:
        """Run `service token`, and return what it printed."""
        words = ("service", "token", *(words or ("main",)), "-c", str(self.path))
        result: Result = heard(words, CliRunner().invoke(program, list(words), input=given))
        assert result.exit_code == status, result.output
        return result.output

    def lacks(self, *, status: int = 1) -> list[str]:
        """Run `service ready`, and return what it says is missing."""
        result = self.run("service", "ready")
        assert (result.exit_code, result.stdout) == (status, "")
        return result.stderr.splitlines()


@pytest.fixture
def host(tmp_path: Path, sqlite_url: str) -> Iterator[Host]:
    with serve(tmp_path, sqlite_url, 3) as site:
        host = Host(site.folder, site.database_url, site.base_url, site.app)
        host.environ = {}
        host.tokens.mkdir(mode=0o700)
        yield host


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# service token ---------------------------------------------------------------------------------------------------


def test_a_token_from_standard_input_is_stored_for_its_owner_and_found(host: Host) -> None:
    told = host.store()
    assert told == f"stored the token in {host.token}; now run: systemctl reload-or-restart rostersync\n"
    assert (host.token.read_text(), mode(host.token)) == (f"{TOKEN}\n", 0o600)
    assert load(host.path, {}).sources[0].token({}).reveal() == TOKEN
    assert "run 1 succeeded" in host.ok("sync")


def test_a_token_from_a_file_replaces_the_one_before(host: Host) -> None:
    host.store()
    before = host.token.stat().st_ino
    (host.folder / "new-token").write_text(OTHER)
    host.store("main", "--token-file", str(host.folder / "new-token"), given="")
    assert host.token.read_text() == f"{OTHER}\n"
    assert host.token.stat().st_ino != before  # at no time there was a part of it
    assert list(host.tokens.iterdir()) == [host.token]


def test_on_a_terminal_the_token_is_asked_for_without_showing_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    options: dict[str, object] = {}
    monkeypatch.setattr(service.sys, "stdin", _Terminal())
    monkeypatch.setattr(
        output.click, "prompt", lambda question, **given: asked.append(question) or options.update(given) or TOKEN
    )
    assert service._given("main").reveal() == TOKEN
    assert asked == ["Token of the source main (not shown)"]
    assert options["hide_input"] is True


class _Terminal:
    def isatty(self) -> bool:
        return True


@needs_root
@pytest.mark.parametrize(("folder", "file", "group"), [(0o750, 0o640, STRANGER), (0o700, 0o600, 0), (0o755, 0o600, 0)])
def test_the_group_of_the_folder_may_read_the_token_if_the_folder_is_for_this_group(
    host: Host, folder: int, file: int, group: int
) -> None:
    os.chown(host.tokens, 0, STRANGER)
    host.tokens.chmod(folder)
    host.store()
    assert (mode(host.token), host.token.stat().st_gid) == (file, group)


@needs_root
def test_the_services_group_may_read_it_even_if_others_may_list_the_folder(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "service_group", lambda: STRANGER)
    os.chown(host.tokens, 0, STRANGER)
    host.tokens.chmod(0o755)
    host.store()
    assert (mode(host.token), host.token.stat().st_gid) == (0o640, STRANGER)


def test_a_link_in_its_place_is_not_followed(host: Host) -> None:
    treasure = host.folder / "treasure"
    treasure.write_text("mine")
    host.token.symlink_to(treasure)
    assert f"{host.token} is a symbolic link" in host.store(status=1)
    assert treasure.read_text() == "mine"
    assert host.token.is_symlink()


def test_a_folder_that_others_may_write_is_refused(host: Host) -> None:
    host.tokens.chmod(0o777)
    assert f"other users may write {host.tokens}" in host.store(status=1)
    assert not host.token.exists()


def test_a_folder_that_is_not_there_is_told_with_what_makes_it(host: Host) -> None:
    host.tokens.rmdir()
    assert f"create the folder: install -d -m 700 {host.tokens}" in host.store(status=1)


def test_a_user_who_may_not_enter_the_folder_is_told_who_may(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(service, "is_plain", refuse)
    said = (
        f"cannot use {host.tokens}: Permission denied\nhint: run it as a user who may write {host.tokens}, such as root"
    )
    assert said in host.store(status=1)


def test_only_a_configured_source_has_a_token(host: Host) -> None:
    told = host.store("mian", status=2)
    assert "mian: no such source; known: main; did you mean main?" in told
    assert list(host.tokens.iterdir()) == []


def test_without_tokens_dir_it_says_what_to_set(host: Host) -> None:
    host.path.write_text(host.path.read_text().removeprefix('tokens_dir = "tokens"\n'))
    assert f"tokens_dir is not set in {host.path}\nhint: set it before the first [table]" in host.store(status=2)


@pytest.mark.parametrize("given", ["", "\n", "a token\n", "x" * 5000])
def test_what_cannot_be_a_token_leaves_the_old_one(host: Host, given: str) -> None:
    host.store()
    host.store(given=given, status=2)
    assert host.token.read_text() == f"{TOKEN}\n"


def test_a_running_service_uses_a_new_token_after_a_reload(host: Host) -> None:
    host.store()
    with started(host) as start:
        process = start("run")
        wait_until(lambda: host.has_database() and "run 1 succeeded" in host.run("status").stdout)
        host.app._tokens = Tokens(OTHER)
        host.store(given=OTHER)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "run 2 succeeded" in host.run("status").stdout)
        process.terminate()
        _, told = process.communicate(timeout=20)
    assert "reloaded" in [event["event"] for event in logged(told)]


# service ready ---------------------------------------------------------------------------------------------------


def test_with_an_address_and_a_token_nothing_is_missing(host: Host) -> None:
    host.store()
    assert host.lacks(status=0) == []


def test_a_new_installation_lacks_an_address_and_a_token(host: Host) -> None:
    host.path.write_text('tokens_dir = "tokens"\n[[sources]]\nname = "main"\n')
    assert host.lacks() == [
        f"source main: base_url is missing: set it in {host.path}",
        f"source main: no token yet: there is no {host.token}; run: rostersync service token main",
    ]


def test_without_a_configuration_the_service_is_not_ready(host: Host) -> None:
    host.path.unlink()
    assert host.lacks() == [f"no configuration at {host.path}"]


def test_one_source_with_a_token_is_enough(host: Host) -> None:
    host.configure(sources=("main", "annex"))
    assert len(host.lacks()) == 2
    host.store()
    assert host.lacks(status=0) == []


@pytest.mark.parametrize("fault", ["unknown = 1", "[[sources]]\nname = 'annex'", "[["])
def test_a_wrong_configuration_fails_the_start_itself(host: Host, fault: str) -> None:
    host.store()
    host.path.write_text(f"{host.path.read_text()}\n{fault}\n")
    assert host.lacks(status=0) == []
    assert host.run("run").exit_code == 2


def test_a_token_that_cannot_be_used_fails_the_start_itself(host: Host) -> None:
    host.token.write_text("a b")
    assert host.lacks(status=0) == []
    assert host.run("run").exit_code == 2
