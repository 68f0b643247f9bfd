"""The documents say what the program does: its commands as click has them, its views, and the fields of a student."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import and_, bindparam, column, exists, literal_column, or_, select, table

from rostersync import errors
from rostersync.cli.program import VERBS
from rostersync.managebac.fields import READ_ONLY
from rostersync.records import FIELDS, Kind
from rostersync.store.schema.views import VIEWS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "generate.py"


def loaded(script: Path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(script), run_name="generate"))


@pytest.fixture(scope="module")
def generate() -> SimpleNamespace:
    return loaded(SCRIPT)


# The pages of this checkout --------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date_whatever_the_terminal_and_the_folder(tmp_path: Path) -> None:
    narrow = {**os.environ, "COLUMNS": "30", "HOME": str(tmp_path), "TERM": "dumb"}
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, cwd=tmp_path, env=narrow, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_reference_has_every_verb_in_the_order_of_help_and_every_view(generate: SimpleNamespace) -> None:
    pages = generate.pages()
    verbs = [line.removeprefix("## ") for line in pages["command-line.md"].splitlines() if line.startswith("## ")]
    views = [line.removeprefix("## ") for line in pages["views.md"].splitlines() if line.startswith("## ")]
    assert verbs == ["rostersync", *(f"rostersync {verb}" for verb in VERBS)]
    assert views == [view.name for view in VIEWS]


def test_a_page_that_is_out_of_date_is_named_with_the_command_that_writes_it_again(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path)
    main, pages, terminal = loaded(tmp_path / SCRIPT.name).main, tmp_path / "reference", CliRunner()

    assert terminal.invoke(main).exit_code == 0
    assert terminal.invoke(main, ["--check"]).exit_code == 0

    (pages / "views.md").write_text("something else\n", encoding="utf-8")
    stale = terminal.invoke(main, ["--check"])
    assert stale.exit_code == 1
    assert stale.stderr == "Error: out of date in docs/reference: views.md; run ./dev docs\n"

    assert terminal.invoke(main).output == "written: docs/reference/views.md\n"
    assert terminal.invoke(main, ["--check"]).exit_code == 0


# How a command is shown ------------------------------------------------------------------------------------------


@click.group()
def farm() -> None:
    """Keep animals."""


@farm.command()
@click.argument("animal", metavar="NAME", help="Whom to feed.")
@click.argument("pails", type=int, required=False)
@click.option("--food", type=click.Choice(["hay", "oats"]), default="hay", show_default=True, help="<Not> `a|b`.")
@click.option("--times", metavar="TIMES", type=click.IntRange(1, 3))
@click.option("--secret", hidden=True)
def feed(**_: object) -> None:
    """Feed an animal. It says thanks.

    Not more than 2 * 3 times.

    \b
    morning   hay
    evening   oats
    """


@farm.command(hidden=True)
def sell() -> None:
    """Never shown."""


def test_a_command_is_shown_with_usage_help_arguments_and_options(generate: SimpleNamespace) -> None:
    page = generate.command_line(farm, "farm")
    assert page.partition("## farm feed\n")[2] == FEED


FEED = r"""
```text
farm feed [OPTIONS] NAME [PAILS]
```

Feed an animal. It says thanks.

Not more than 2 \* 3 times.

```text
morning   hay
evening   oats
```

| argument | meaning |
| --- | --- |
| `NAME` | Whom to feed. |
| `[PAILS]` | integer |

| option | meaning |
| --- | --- |
| `--food [hay\|oats]` | \<Not> `a\|b`. [default: hay] |
| `--times TIMES` | [1\<=x\<=3] |
"""


def test_commands_are_listed_with_links_and_hidden_ones_are_not(generate: SimpleNamespace) -> None:
    page = generate.command_line(farm, "farm")
    assert "| [farm feed](#farm-feed) | Feed an animal. |" in page
    assert "sell" not in page
    assert page.count("--help") == 2  # once in the text above, once among the options of all commands


# The fields of a student -----------------------------------------------------------------------------------------

CLEARED_WITH = {
    Kind.TEXT: '`""`',
    Kind.TEXTS: "`[]`",
    Kind.INTEGERS: "`[]`",
    Kind.INTEGER: "`null`",
    Kind.DATE: "`null`",
}


# The statements of the vendor's page -----------------------------------------------------------------------------

ENDPOINTS = {
    "GET /v2p1/students",
    "GET /v2p1/students/{id}",
    "POST /v2p1/students",
    "PATCH /v2p1/students/{id}",
    "PUT /v2p1/students/{id}/archive",
    "PUT /v2p1/students/{id}/unarchive",
    "PUT /v2p1/students/{id}/avatar",
    "DELETE /v2p1/students/{id}/avatar",
}
PARAMETERS = {
    *("ids[]", "archived", "status", "modified_since", "deleted_since", "page", "per_page", "q", "auth_token"),
    *("year_group_ids", "year_group_ids[]", "homeroom_advisor_ids", "homeroom_advisor_ids[]"),
}


def test_each_statement_of_the_vendors_page_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "managebac-api.md").read_text(encoding="utf-8")
    table = re.findall(r"^\|.*\|$", text.partition("## Each statement")[2], re.MULTILINE)
    parts: dict[str, set[str]] = {}
    for statement, _, shown_by in ([cell.strip() for cell in row.split("|")[1:-1]] for row in table[2:]):
        if heading := re.fullmatch(r"\*\*(.+)\*\*", statement):
            statements = parts[heading[1]] = set()
            continue
        statements.add(statement.strip("`"))
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown_by)
        assert tests, statement
        for path, name in tests:
            assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"
    assert parts["Endpoints"] == ENDPOINTS
    assert parts["Parameters of the list"] == PARAMETERS
    assert {"Authorisation", "Prose"} < parts.keys()


ATTEMPTS = (
    "An attacker who impersonates ManageBac or listens to the traffic",
    "A reader of the logs, or of an error tracker's reports",
    "Another user of the machine",
    "A person who sends a malicious CSV file",
    "An attacker who has taken over the service's user",
    "PostgreSQL",
)


def test_the_tests_that_the_page_about_security_names_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.(?:py|sh))(?:::(test_\w+))?`", text)
    assert len(named) > 30
    for path, name in named:
        assert not name or f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("heading", ATTEMPTS)
def test_each_attempt_names_its_tests(heading: str) -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}")[2].partition("\n##")[0]
    rows = re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]
    assert rows
    assert [row for row in rows if not re.search(r"Tested in `tests/", row)] == []


def test_the_page_about_the_api_has_every_field_and_what_clears_those_that_can_be_written() -> None:
    text = (ROOT / "docs" / "managebac-api.md").read_text(encoding="utf-8")
    section = text.partition("## The fields of a student\n")[2].partition("\n### ")[0]
    writable, read_only, _ = (table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE))
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in writable]
    cleared_with = {name: cell[2] for cell in cells for name in re.findall(r"`(\w+)`", cell[1])}
    refused = {name for row in read_only for name in re.findall(r"`(\w+)`", row)}

    assert refused == set(READ_ONLY)
    assert cleared_with.pop("password") == "cannot be cleared"
    assert cleared_with == {field.name: CLEARED_WITH[field.kind] for field in FIELDS if field.name not in READ_ONLY}


def test_the_tree_of_errors_has_each_class_below_its_base() -> None:
    tree: dict[str, str] = {}
    branch: list[str] = ["Exception"]
    for indent, name in re.findall(r"^((?: {4})+)(\w+)", errors.__doc__ or "", re.MULTILINE):
        branch[len(indent) // 4 :] = [name]
        tree[name] = branch[-2]
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert tree == {cls.__name__: cls.__base__.__name__ for cls in classes if cls.__base__}


# How a statement is shown ----------------------------------------------------------------------------------------


def test_a_statement_is_shown_without_brackets_around_exists_and_with_all_others(generate: SimpleNamespace) -> None:
    pupil, house = table("pupil", column("id"), column("kind")), table("house", column("id"), column("kind"))
    known = exists().where(house.c.id == pupil.c.id, house.c.kind == literal_column("'of a long name'"))
    query = select(pupil.c.id).where(pupil.c.kind == "new", or_(and_(known, ~known), pupil.c.id > bindparam("last")))
    assert (
        generate.sql(query)
        == """\
SELECT pupil.id
FROM pupil
WHERE pupil.kind = 'new'
    AND (
        EXISTS (SELECT * FROM house WHERE house.id = pupil.id AND house.kind = 'of a long name')
                AND NOT EXISTS (SELECT * FROM house WHERE house.id = pupil.id AND house.kind = 'of a long name')
            OR pupil.id > :last
    )"""
    )
