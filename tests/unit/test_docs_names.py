"""The documents name only what there is: every module, class and function in backticks exists."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
import sqlalchemy.orm

from rostersync.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("docs/*.md"), *(ROOT / page for page in ("README.md", "CONTRIBUTING.md", "tests/README.md"))]
FOREIGN = (builtins, sqlalchemy, sqlalchemy.orm, requests)
NOT_PYTHON = {"Date"}  # a header of HTTP

CODE = re.compile(r"`([^`\n]+)`")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
IN_FILE = re.compile(r"`([\w.]+)`(?: and `([\w.]+)`)?(?: in | \()`([\w/]+\.py)`")
"""`name` in `file.py`, and `name` (`file.py`)."""


@cache
def definitions() -> dict[str, set[str]]:
    """Return the names that each of our Python files defines, methods and attributes as `Class.name`."""
    files = [file for folder in ("rostersync", "tests", "docs", "migrations") for file in (ROOT / folder).rglob("*.py")]
    return {str(file.relative_to(ROOT)): set(_defined(ast.parse(file.read_text("utf-8")).body)) for file in files}


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _defined(node.body, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.Assign(targets=targets):
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name


def defined_in(paths: list[str], name: str) -> bool:
    """Return whether one of these files defines `name`, by itself or in a class."""
    return any(found == name or found.endswith(f".{name}") for path in paths for found in definitions()[path])


def files_called(text: str, folder: str = "") -> list[str]:
    """Return our Python files, below `folder` if it is given, whose path ends like this."""
    return [path for path in definitions() if path.startswith(folder) and f"/{path}".endswith(f"/{text}")]


def names_in(code: str) -> list[str]:
    """Return what is to be looked up of a text in backticks: of a command, the Python files that it names."""
    is_command = " " in code and "(" not in code
    return [word for word in code.split() if re.fullmatch(r"[\w/]+\.py", word)] if is_command else [code]


def is_missing(text: str, row: str) -> bool:
    """Return whether `text`, which stands in backticks in the line `row`, names something of ours that is not there.

    What is not spelled like a Python name is no matter for this: a column, a setting, a command, an event of the log.
    """
    if re.fullmatch(r"[\w./]+\.py", text):
        return not files_called(text, folder_of(row))
    if re.fullmatch(r"rostersync(\.\w+)+", text):
        return not can_be_imported(text)
    if re.fullmatch(r"[A-Z]\w*[a-z]\w*(\.\w+)*", text):
        return not (text in NOT_PYTHON or defined_in(list(definitions()), text) or is_foreign(text))
    if re.fullmatch(r"_[a-z]\w*|[a-z]\w*\(.*\)", text):
        return not defined_in(list(definitions()), text.partition("(")[0])
    if match := re.fullmatch(r"([a-z]\w*)\.(\w+)", text):
        module, name = match.groups()
        homes = files_called(f"{module}.py")
        return bool(homes) and not (defined_in(homes, name) or is_setting(module, name))
    return False


def folder_of(row: str) -> str:
    """Return the folder that a row of the table of rooms is about."""
    match = re.match(r"\| `(rostersync/[\w/]+/)`", row)
    return match[1] if match else ""


def is_setting(section: str, key: str) -> bool:
    field = Config.model_fields.get(section)
    return field is not None and key in getattr(field.annotation, "model_fields", {})


def can_be_imported(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)


def is_foreign(name: str) -> bool:
    first, _, attribute = name.partition(".")
    found = [getattr(module, first) for module in FOREIGN if hasattr(module, first)]
    return any(not attribute or hasattr(value, attribute) for value in found)


def wrong_names(page: str) -> list[str]:
    text = FENCED.sub("", page)
    named = [(name, row) for row in text.splitlines() for code in CODE.findall(row) for name in names_in(code)]
    missing = [name for name, row in named if is_missing(name, row)]
    misplaced = [
        f"{name} in {file}"
        for *names, file in IN_FILE.findall(text)
        for name in names
        if name and files_called(file) and not defined_in(files_called(file), name)
    ]
    return [*missing, *misplaced]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_class_and_function_that_a_page_names_exists(page: Path) -> None:
    assert wrong_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("`rostersync/gone.py`", ["rostersync/gone.py"]),
        ("| `rostersync/sync/` | `http.py` and `guard.py`", ["http.py"]),
        ("`ignores_deleted_since` in `managebac/students.py`", ["ignores_deleted_since in managebac/students.py"]),
        ("`_gone` and `commit` in `store/replica/commit.py`", ["_gone", "_gone in store/replica/commit.py"]),
        ("`REVISIONS` (`store/schema/views.py`)", ["REVISIONS in store/schema/views.py"]),
        ("`Gone2Again`, `Students.expel`, `Session.merges`", ["Gone2Again", "Students.expel", "Session.merges"]),
        ("`guard.gone`, `sync.gone`, `to_nowhere(id)`", ["guard.gone", "sync.gone", "to_nowhere(id)"]),
        ("`./dev test tests/unit/test_gone.py -k it`", ["tests/unit/test_gone.py"]),
        ("`rostersync.managebac.Gone3`, `rostersync.gone`", ["rostersync.managebac.Gone3", "rostersync.gone"]),
        ("```python\n`Gone2Again`\n```\n`Session.merge`", []),
        ("`sync.overlap`, `api.managebac.com`, `created_at`, `COPY`, `rostersync status`", []),
    ],
)
def test_a_name_that_is_wrong_is_found_and_what_is_no_name_of_ours_is_not(page: str, wrong: list[str]) -> None:
    assert wrong_names(page) == wrong
