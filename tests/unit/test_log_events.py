"""docs/reference/log-events.md has every event that the code logs, with its levels and keys, and no other."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rostersync.report import Counts, RunKind, RunReport, RunState, Watermarks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "log-events.md"

LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {"exception": "error"}
NOT_KEYS = {"exc_info", "stack_info"}


@dataclass
class Event:
    """What is logged under one name. With `more` there are keys that only the running program knows."""

    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    more: bool = False
    places: list[str] = field(default_factory=list)


# The code --------------------------------------------------------------------------------------------------------


def logged(path: str, text: str, events: dict[str, Event]) -> None:
    """Add the events of a module to `events`. Raises `AssertionError` where the name of one is computed."""
    for call, levels in _log_calls(ast.parse(text)):
        name = call.args[0] if call.args else None
        place = f"{path}:{call.lineno}"
        assert isinstance(name, ast.Constant), f"{place}: write the event as a word in quotes, and values as its keys"
        event = events.setdefault(str(name.value), Event())
        event.levels |= levels
        event.keys |= {key.arg for key in call.keywords if key.arg} - NOT_KEYS
        event.more |= any(key.arg is None for key in call.keywords)
        event.places.append(place)


def _log_calls(tree: ast.Module) -> Iterator[tuple[ast.Call, set[str]]]:
    """Yield each call of the module's logger `log`, with its level.

    A name that its methods are assigned to, as in `write = log.info if good else log.error`, stands for all of them.
    """
    if not any(isinstance(node, ast.Assign) and ast.unparse(node).startswith("log = ") for node in tree.body):
        return
    nodes = list(ast.walk(tree))
    names = {
        target.id: levels
        for node in nodes
        if isinstance(node, ast.Assign) and (levels := _levels(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in names:
            yield call, names[call.func.id]
        elif isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "log":
            yield call, _levels(call.func)


def _levels(value: ast.expr) -> set[str]:
    """Return the levels of the methods of `log` that an expression names."""
    methods = (node for node in ast.walk(value) if isinstance(node, ast.Attribute))
    return {LEVELS[node.attr] for node in methods if ast.unparse(node.value) == "log" and node.attr in LEVELS}


def in_code() -> dict[str, Event]:
    events: dict[str, Event] = {}
    for file in sorted((ROOT / "rostersync").rglob("*.py")):
        logged(str(file.relative_to(ROOT)), file.read_text(encoding="utf-8"), events)
    return events


# The page --------------------------------------------------------------------------------------------------------


def told(page: str) -> dict[str, Event]:
    """Return the events of the page's tables. Raises `AssertionError` where one is there twice, or unexplained."""
    events: dict[str, Event] = {}
    for row in re.findall(r"^\| `.*\|$", page, re.MULTILINE):
        name, levels, keys, meaning, remedy = (cell.strip() for cell in row.strip("|").split("|"))
        name = name.strip("`")
        assert name not in events, f"{name} has two rows"
        assert meaning, f"{name}: what does it mean?"
        assert remedy, f"{name}: what is to be done?"
        events[name] = Event(set(levels.split(", ")), set(re.findall(r"`(\w+)`", keys)))
    return events


def differences(code: dict[str, Event], page: dict[str, Event]) -> list[str]:
    """Return a line for each event that the page tells differently, with what to write."""
    lines = [f"remove the row of `{name}`: nothing logs it" for name in sorted(page.keys() - code.keys())]
    for name, event in sorted(code.items()):
        row = page.get(name)
        if row is None:
            lines.append(f"add a row:  {_row(name, event)}")
        elif row.levels != event.levels or not (event.keys <= row.keys if event.more else event.keys == row.keys):
            lines.append(f"correct the row of `{name}`:  {_row(name, event)}")
    return lines


def _row(name: str, event: Event) -> str:
    levels = ", ".join(level for level in LEVELS if level in event.levels)
    keys = ", ".join([*(f"`{key}`" for key in sorted(event.keys)), *(["(and those in **...)"] if event.more else [])])
    places = ", ".join(event.places)
    return f"| `{name}` | {levels} | {keys} | (what it means) | (what to do) |  (logged in {places})"


# The tests -------------------------------------------------------------------------------------------------------


def test_the_page_has_every_event_with_its_levels_and_keys() -> None:
    lines = differences(in_code(), told(PAGE.read_text(encoding="utf-8")))
    assert not lines, f"in {PAGE.relative_to(ROOT)}:\n" + "\n".join(lines)


def test_the_row_of_a_finished_run_has_the_keys_of_its_report() -> None:
    now = datetime(2026, 3, 2, tzinfo=UTC)
    report = RunReport(1, "main", RunKind.FULL, RunState.FAILED, Counts(), 0, 0, 0.0, Watermarks(), now, now)
    keys = report.to_json().keys() - {"watermarks"} | {"modified_watermark", "deleted_watermark", "hint", "notice"}
    keys |= {"next_try"}
    assert told(PAGE.read_text(encoding="utf-8"))["run_finished"].keys == keys


CODE = """
log = get_logger(__name__)

def work(good):
    log.info("begun", source=1)
    write = {True: log.info}.get(good, log.warning)
    write("ended", run=1, **facts)
    log.exception("crashed", exc_info=error)
"""

ROWS = """
| `begun` | info | `source` | x | y |
| `ended` | info, warning | `run`, `other` | x | y |
| `crashed` | error | | x | y |
"""


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("", "", None),
        ("| `begun` | info", "| `begun` | debug", "correct the row of `begun`:  | `begun` | info | `source` |"),
        ("`source`", "", "correct the row of `begun`:  | `begun` | info | `source` |"),
        ("`source`", "`source`, `id`", "correct the row of `begun`:  | `begun` | info | `source` |"),
        ("`run`, ", "", "correct the row of `ended`:  | `ended` | info, warning | `run`, (and those in **...) |"),
        ("info, warning", "info", "correct the row of `ended`:  | `ended` | info, warning | `run`,"),
        ("| `crashed` | error | | x | y |", "", "add a row:  | `crashed` | error |  | (what it means)"),
        ("| `crashed`", "| `broke` | info | | x | y |\n| `crashed`", "remove the row of `broke`: nothing logs it"),
    ],
)
def test_what_differs_is_told_with_the_row_to_write(before: str, after: str, line: str | None) -> None:
    events: dict[str, Event] = {}
    logged("module.py", CODE, events)
    found = differences(events, told(ROWS.replace(before, after, 1)))
    assert len(found) == (line is not None)
    assert all(text.startswith(line or "") for text in found)


def test_an_event_whose_name_is_computed_is_refused_with_its_place() -> None:
    with pytest.raises(AssertionError, match=r"module\.py:2: write the event as a word in quotes"):
        logged("module.py", 'log = get_logger(__name__)\nlog.info(f"{a}")', {})


@pytest.mark.parametrize("row", ["| `a` | info | | | y |", "| `a` | info | | x | |", "| `a` | info | | x | y |\n" * 2])
def test_a_row_that_explains_nothing_or_is_there_twice_is_refused(row: str) -> None:
    with pytest.raises(AssertionError, match="a"):
        told(row)
