"""-v and -q: every command takes them, before its name and after it, and means the same by them."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner
from school_site import Site, serve
from sqlalchemy import text

from rostersync.cli import output
from rostersync.cli.program import print_error, print_stderr, program
from rostersync.cli.verbosity import is_quiet, log_level, verbosity_options
from rostersync.errors import RostersyncError
from rostersync.report import ignore_progress
from rostersync.store.database.engine import open_engine, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url) as site:
        yield site


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("rostersync")]
    handlers, levels = list(loggers[0].handlers), [logger.level for logger in loggers]
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command that does something."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield path
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from leaves(below, *path, name)


@pytest.mark.parametrize("words", list(leaves(program)), ids=" ".join)
def test_every_command_takes_them(words: tuple[str, ...]) -> None:
    told = CliRunner().invoke(program, [*words, "--help"]).stdout
    assert "-v, --verbose" in told
    assert "-q, --quiet" in told
    assert ("-c, --config" in told) is (words != ("service", "uninstall"))  # which needs none


# What they mean --------------------------------------------------------------------------------------------------


@click.group()
@verbosity_options
def group() -> None:
    pass


@group.command()
@verbosity_options
def command() -> None:
    click.echo(f"{log_level('warning')} {log_level('info')} {is_quiet()}")
    output.note("done")
    print_stderr("by the way", logging.WARNING)
    print_error(RostersyncError("it failed", "try it again"))


def told(words: str) -> list[str]:
    result = CliRunner().invoke(group, words.split())
    assert result.exit_code == 0, result.output
    return [*result.stdout.splitlines(), *result.stderr.splitlines()]


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        ("command", "warning info False"),
        ("command -v", "info debug False"),
        ("-v command", "info debug False"),
        ("command -vv", "debug debug False"),
        ("-v command --verbose", "debug debug False"),
        ("-vv command -v", "debug debug False"),
        ("command -q", "error error True"),
        ("-q command", "error error True"),
        ("-qq command --quiet", "error error True"),
        ("-q command -v", "warning info False"),
    ],
)
def test_levels_of_the_log_and_quietness_add_up_before_and_after_the_command(words: str, levels: str) -> None:
    assert told(words)[0] == levels


def test_quiet_leaves_errors_and_their_hints_and_no_note() -> None:
    assert told("command")[1:] == ["done", "by the way", "it failed", "hint: try it again"]
    assert told("-q command")[1:] == ["it failed", "hint: try it again"]


def test_quiet_shows_no_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    @click.command()
    @verbosity_options
    def crawl() -> None:
        monkeypatch.setattr("sys.stderr", Terminal())
        with output.progress() as progress_of:
            assert (progress_of("main") is ignore_progress) == is_quiet()

    for words in ([], ["-q"]):
        result = CliRunner().invoke(crawl, words)
        assert result.exit_code == 0, result.exception


# The commands ----------------------------------------------------------------------------------------------------


def test_quiet_commands_that_succeed_say_nothing_and_answers_stay(site: Site) -> None:
    for words in ("db upgrade", "sync", "resync", "verify", "check", "db check", "--quiet sync"):
        result = site.run(*words.split(), "-q")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", ""), words
    for words in ("status", "runs", "runs show 1", "db current", "students list"):
        result = site.run(*words.split(), "-q")
        assert (result.exit_code, result.stdout) == (0, site.ok(*words.split())), words
        assert result.stderr == ""
    assert site.json("sync", "-q")["runs"][0]["state"] == "succeeded"
    assert "dry run" in site.ok("sync", "--dry-run", "-q")


def test_a_quiet_command_that_fails_says_why(site: Site) -> None:
    site.configure(base_url="http://127.0.0.1:9")
    result = site.run("sync", "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("main: failed: ")
    assert "fail" in site.run("check", "-q").stdout
    assert "  ok" not in site.run("check", "-q").stdout


def test_a_quiet_verify_names_what_differs(site: Site) -> None:
    site.ok("sync")
    with open_engine(site.database_url).connect() as connection, writing(connection):
        connection.execute(text("UPDATE student SET last_name = 'Invented' WHERE id = (SELECT min(id) FROM student)"))
    loud, quiet = site.run("verify"), site.run("verify", "-q")
    assert "differs in last_name" in quiet.stdout
    assert (quiet.exit_code, quiet.stdout) == (loud.exit_code, loud.stdout)


@pytest.mark.parametrize(("words", "levels"), [("", set()), ("-v", {"info"}), ("-vv", {"info", "debug"})])
def test_a_command_that_a_person_watches_logs_what_verbose_asks_for(site: Site, words: str, levels: set[str]) -> None:
    site.configure('[logging]\nformat = "json"')
    lines = site.run("sync", *words.split()).stderr.splitlines()
    logged: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
    assert {event["level"] for event in logged} == levels
