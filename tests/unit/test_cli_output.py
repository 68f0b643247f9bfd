"""How things look on a terminal and when they are piped, and the words that options take."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from rostersync import __version__, words
from rostersync.cancel import CancelScope
from rostersync.cli import output
from rostersync.cli.options import Duration, Moment, Session
from rostersync.cli.program import VERBS, program
from rostersync.cli.reports import figures, show
from rostersync.clock import SystemClock
from rostersync.config import load
from rostersync.errors import ConfigError
from rostersync.report import Counts, RunKind, RunReport, RunState, Watermarks
from rostersync.runs.batch import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def session(tmp_path: Path, *names: str, named: Path | None = None) -> Session:
    path = tmp_path / "config.toml"
    path.write_text("".join(f'[[sources]]\nname = "{name}"\nbase_url = "https://a.invalid"\n' for name in names))
    return Session(load(path, {}), path, CancelScope(SystemClock()), named)


# Tables ----------------------------------------------------------------------------------------------------------


def test_a_piped_table_is_plain_with_numbers_at_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "count"), [("Zorla", 5), (None, 1200)])
    assert capsys.readouterr().out == "name   count\nZorla      5\n        1200\n"


def test_on_a_narrow_terminal_only_the_columns_that_may_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    output.table(("a header", "outcome"), [("two words", "word " * 20)], folded=("outcome",))
    shown = click.unstyle(terminal.getvalue())
    lines = shown.splitlines()
    assert "a header" in lines[0]
    assert "two words" in lines[2]
    assert len(re.findall(r"\bword\b", shown)) == 20
    assert max(map(len, lines)) <= 40


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "count"), [])
    assert capsys.readouterr().out == "name  count\n"


def test_on_a_terminal_nothing_in_a_cell_is_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.table(("name",), [("[bold]Zorla[/bold]",)])
    assert "[bold]Zorla[/bold]" in terminal.getvalue()


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\nb", "a\tb", "a\x07b", "a\u202eb"])
def test_characters_that_steer_a_terminal_are_replaced(text: str) -> None:
    cleaned = output.clean(text)
    assert cleaned.isprintable()
    assert (cleaned[0], cleaned[-1]) == ("a", "b")


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [(0.25, "0.25 s"), (8, "8 s"), (59, "59 s"), (61, "1 min"), (3600 * 3 + 1200, "3 h 20 min"), (90000, "1 d 1 h")],
)
def test_durations_are_told_in_their_two_largest_units(seconds: float, spelled: str) -> None:
    assert words.span(seconds) == spelled


@pytest.mark.parametrize(("seconds", "said"), [(0, "just now"), (8, "8 s ago"), (12000, "3 h 20 min ago")])
def test_an_age_is_told_as_people_say_it(seconds: int, said: str) -> None:
    assert words.ago(seconds) == said


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "request", "1 request"),
        (0, "retry", "0 retries"),
        (1, "retry", "1 retry"),
        (1200, "student", "1,200 students"),
    ],
)
def test_a_number_of_things_is_told_with_the_noun_in_its_right_form(number: int, noun: str, said: str) -> None:
    assert words.count(number, noun) == said


def test_a_progress_bar_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with output.progress() as watch:
            watch("main")("roster", 30, 120)
    assert "30/120" in terminal.getvalue()
    assert pipe.getvalue() == ""


def test_the_figures_of_a_run_leave_out_what_is_nought() -> None:
    counts = Counts(fetched=5, inserted=2, unchanged=3, deleted=1)
    assert figures(counts) == "5 received: 2 inserted, 3 unchanged; 1 removed"
    assert figures(Counts()) == "no changes"
    assert figures(Counts(fetched=1200, inserted=1200)) == "1,200 received: 1,200 inserted"
    assert figures(Counts(removals_held=1)) == "1 removal held"
    assert figures(Counts(removals_held=8, stale=1)) == "8 removals held; 1 received stale"


def dry_run(counts: Counts, status: int) -> RunReport:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    head = (None, "main", RunKind.FULL, RunState.DRY_RUN, counts, 3, 0, 0.5, Watermarks(), now, now)
    return RunReport(*head, error="so it is" if status else None, exit_status=status)


@pytest.mark.parametrize(
    ("counts", "status", "ending"),
    [
        (Counts(fetched=1, inserted=1), 0, "dry run"),
        (Counts(), 1, "dry run failed"),
        (Counts(fetched=1, inserted=1), 1, "dry run, would be incomplete"),
        (Counts(removals_held=8), 3, "dry run, would be held"),
    ],
)
def test_a_dry_run_says_how_the_run_itself_would_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: Counts, status: int, ending: str
) -> None:
    show(Outcome("main", dry_run(counts, status)), session(tmp_path, "main"))
    said = capsys.readouterr()
    assert f"main: full {ending} in 0.50 s\n" in said.out
    assert (figures(counts) in said.out) == (ending != "dry run failed")
    assert said.err.splitlines()[:1] == ([f"main: {ending}: so it is"] if status else [])


# Words -----------------------------------------------------------------------------------------------------------


def test_a_duration_is_read_and_what_is_none_is_refused_with_examples() -> None:
    assert Duration().convert("1h30m", None, None) == timedelta(minutes=90)
    with pytest.raises(click.BadParameter, match="such as 90s, 10m or 1h30m"):
        Duration().convert("soon", None, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T08:00:00Z", datetime(2026, 3, 1, 8, tzinfo=UTC)),
        ("2026-03-01T08:00:00+02:00", datetime(2026, 3, 1, 6, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_with_its_offset_and_a_day_begins_at_midnight_utc(text: str, moment: datetime) -> None:
    assert Moment().convert(text, None, None) == moment


@pytest.mark.parametrize("text", ["yesterday", "2026-03-01T08:00:00", "2026-13-01", ""])
def test_a_time_that_cannot_be_placed_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time such as"):
        Moment().convert(text, None, None)


@pytest.mark.parametrize(("asked", "chosen"), [((), ["a", "b"]), (("b",), ["b"]), (("b", "a", "b"), ["b", "a"])])
def test_sources_are_chosen_by_name_each_once(tmp_path: Path, asked: Sequence[str], chosen: list[str]) -> None:
    assert [source.name for source in session(tmp_path, "a", "b").chosen(asked)] == chosen


def test_unknown_sources_are_all_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        session(tmp_path, "main", "annex").chosen(["mian", "zzz"])
    first, second = caught.value.mistakes
    assert first == "--source mian: no such source; known: main, annex; did you mean main?"
    assert second.startswith("--source zzz")


def test_commands_to_be_typed_name_the_configuration_where_it_was_named(tmp_path: Path) -> None:
    assert session(tmp_path, "a").command("status") == "rostersync status"
    named = session(tmp_path, "a", named=Path("my school.toml"))
    assert named.command("status") == "rostersync status -c 'my school.toml'"


# The program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_takes_the_configuration(verb: str) -> None:
    result = CliRunner().invoke(program, [verb, "--help"])
    assert result.exit_code == 0
    if verb not in {"db", "service", "source", "students"}:  # groups, whose commands take it
        assert "--config" in result.stdout


def test_the_configuration_may_be_named_before_the_verb_as_well(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.toml")
    for line in (["-c", missing, "status"], ["status", "-c", missing]):
        assert f"no configuration at {missing}" in CliRunner().invoke(program, line).stderr


@pytest.mark.parametrize("words", [["run", "-c", "nowhere.toml"], ["rnu"]])
def test_in_the_journal_the_error_that_ends_a_process_has_its_priority(tmp_path: Path, words: list[str]) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as journal:
        found = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        command = [sys.executable, "-m", "rostersync", *words]
        done = subprocess.run(command, cwd=ROOT, env=environ, stderr=journal, check=False)
        journal.seek(0)
        told = journal.read().splitlines()
    assert done.returncode == 2
    assert len(told) >= 2
    assert [line for line in told if not line.startswith("<3>")] == []


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(program, ["--version"]).stdout == f"rostersync {__version__}\n"


def test_the_list_of_verbs_waits_for_no_library() -> None:
    script = (
        "import sys\n"
        "from rostersync.cli.program import program\n"
        "try: program.main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'sqlalchemy', 'alembic', 'requests', 'apscheduler', 'pydantic', 'rich'}\n"
        "print('slow:', sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("slow: []\n")
