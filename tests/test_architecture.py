"""The rooms of the code, and the imports between them: docs/architecture.md draws them, and these tests compare."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


def _drawn() -> dict[str, tuple[str, ...]]:
    """Return the arrows that docs/architecture.md draws: each room, and the rooms that it imports."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    lines = re.sub(r",\n +", ", ", blocks).splitlines()
    arrows = (line.split("->") for line in lines if "->" in line)
    return {_room(start): tuple(map(_room, end.split(","))) for start, end in arrows}


def _room(written: str) -> str:
    return written.strip().removesuffix(".py").replace("/", ".")


ARROWS = _drawn()

# Values, and one door each to settings, errors, logs, time, cancellation and threads. Every room may import them. They
# import only each other.
LEAVES = (
    *("errors", "address", "clock", "cancel", "pool", "secret", "records", "projections", "report", "config", "logger"),
    "words",
    "_version",  # written by the build
)

PARTS = (*ARROWS, *(end for ends in ARROWS.values() for end in ends), *LEAVES)

# Arrows that nobody may draw, with the reason beside each.
NEVER = {
    "managebac": ("store", "sync", "observe"),  # the client works without a database
    "store": ("managebac", "sync", "runs", "observe"),  # and the store without the client
    "observe": ("managebac", "store"),
    "sync": ("managebac",),  # `sync/api.py` says what a run needs from the API
    "simulator": ("store", "sync", "managebac"),  # it stands for ManageBac, so it must not share its mistakes with us
}

# Which parts may import a library. Those not named here are free for all.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "requests": ("managebac",),
    "urllib3": ("managebac",),
    "sqlalchemy": ("store", "migrations", "models", "sync.run"),  # the last names the type of a connection, no more
    "alembic": ("store", "migrations"),
    "psycopg": ("store",),
    "apscheduler": ("daemon",),
    "click": ("cli",),
    "rich": ("cli",),
    "pydantic": ("config",),
    "structlog": ("logger", "observe"),  # by itself it would print what an application never asked for
}

# Time comes in by one door, so that a test can hold it.
CLOCK = "clock"
CLOCK_CALLS = (
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.sleep",
)


@dataclass(frozen=True)
class Module:
    """A file, the name of its module without the package's, and its text."""

    path: str
    name: str
    text: str

    @property
    def part(self) -> str:
        return part_of(self.name)

    def targets(self) -> Iterator[tuple[int, str]]:
        """Yield the line and the full name of everything imported, wherever in the file it is."""
        for node in ast.walk(ast.parse(self.text)):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                prefix = "." * node.level + (node.module or "")
                yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def part_of(name: str) -> str:
    """Return the entry of PARTS that a name falls under; its first word when there is none."""
    fitting = [part for part in PARTS if name == part or name.startswith(f"{part}.")]
    return max(fitting, key=len, default=name.split(".", maxsplit=1)[0])


def modules() -> list[Module]:
    files = [*(ROOT / "rostersync").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]
    return [_module(file) for file in sorted(files)]


def _module(file: Path) -> Module:
    path = file.relative_to(ROOT)
    steps = [step for step in path.with_suffix("").parts if step not in {"rostersync", "__init__"}]
    return Module(str(path), ".".join(steps), file.read_text(encoding="utf-8"))


# The rules -------------------------------------------------------------------------------------------------------


def undrawn_arrows(module: Module) -> list[str]:
    # Migrations are the past of the schema. They stand outside, and may use what the store has.
    own = ARROWS.get(module.part, ())
    allowed = (*own, *LEAVES, module.part, "__version__")
    return [
        f"{module.path}:{line}: {module.part or 'rostersync'} must not import {target}"
        for line, target in module.targets()
        if target.startswith(("rostersync.", "."))
        and part_of(target.removeprefix("rostersync.")) not in allowed
        and not (module.part == "migrations" and target.startswith("rostersync.store."))
    ]


def misplaced_libraries(module: Module) -> list[str]:
    return [
        f"{module.path}:{line}: {target} belongs in {' and '.join(LIBRARIES[library])} only"
        for line, target in module.targets()
        if (library := target.split(".")[0]) in LIBRARIES and not _belongs(module.part, LIBRARIES[library])
    ]


def _belongs(part: str, wings: tuple[str, ...]) -> bool:
    """Return whether a part is one of `wings`, or a folder inside one."""
    return any(part == wing or part.startswith(f"{wing}.") for wing in wings)


def other_clocks(module: Module) -> list[str]:
    if module.name == CLOCK:
        return []
    nodes = ast.walk(ast.parse(module.text))
    used = [(node.lineno, ast.unparse(node)) for node in nodes if isinstance(node, ast.Attribute)]
    return [
        f"{module.path}:{line}: {name} is for rostersync/clock.py only"
        for line, name in sorted([*used, *module.targets()])
        if any(name == call or name.endswith(f".{call}") for call in CLOCK_CALLS)
    ]


Rule = Callable[[Module], list[str]]
RULES: tuple[Rule, ...] = (undrawn_arrows, misplaced_libraries, other_clocks)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_there_are_no(rule: Rule) -> None:
    broken = [line for module in modules() for line in rule(module)]
    assert not broken, "\n" + "\n".join(broken)


def test_every_module_belongs_to_a_room() -> None:
    known = {*PARTS, "migrations", ""}
    strangers = [module.path for module in modules() if module.part not in known]
    assert not strangers, f"give these a line in docs/architecture.md: {strangers}"


@cache
def _imports() -> dict[str, set[str]]:
    """Return the arrows that the code has, without those from a room of the house to a leaf."""
    found: dict[str, set[str]] = {}
    for module in modules():
        targets = {part_of(name.removeprefix("rostersync.")) for _, name in module.targets() if "rostersync." in name}
        ends = targets - {module.part, "__version__"} - (set() if module.part in LEAVES else set(LEAVES))
        if module.part not in {"", "migrations"} and ends:
            found.setdefault(module.part, set()).update(ends)
    return found


def test_the_document_draws_exactly_the_arrows_that_the_code_has() -> None:
    assert {room: sorted(ends) for room, ends in ARROWS.items()} == {
        room: sorted(ends) for room, ends in _imports().items()
    }


def test_no_arrows_form_a_circle() -> None:
    assert list(TopologicalSorter(ARROWS).static_order())


def test_the_arrows_keep_apart_what_must_stay_apart() -> None:
    drawn = {(start.split(".")[0], end.split(".")[0]) for start, ends in ARROWS.items() for end in ends}
    assert not drawn & {(start, end) for start, ends in NEVER.items() for end in ends}
    assert not {end for ends in ARROWS.values() for end in ends} & {"models", "__main__"}
    assert [start for start, ends in ARROWS.items() if "simulator" in ends] == ["cli"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("store.replica.students", "from rostersync.managebac import wire", undrawn_arrows),
        ("store.replica.students", "from rostersync import managebac", undrawn_arrows),
        ("store.replica.students", "def late():\n    import rostersync.cli.main", undrawn_arrows),
        ("store.replica.students", "from . import engine", undrawn_arrows),
        ("sync.watermarks", "from rostersync.sync.run import Run", undrawn_arrows),
        ("sync.watermarks", "from rostersync.store.store import Store", undrawn_arrows),
        ("simulator.app", "from rostersync.store.store import Store", undrawn_arrows),
        ("clock", "from rostersync.store.store import Store", undrawn_arrows),
        ("cli.reports", "from rostersync.models import CurrentStudent", undrawn_arrows),
        ("store.replica.students", "import requests.adapters", misplaced_libraries),
        ("daemon.service", "from rich.table import Table", misplaced_libraries),
        ("records", "from sqlalchemy import Row", misplaced_libraries),
        ("sync.run", "import datetime\nnow = datetime.datetime.now()", other_clocks),
        ("sync.run", "from time import sleep", other_clocks),
        ("sync.run", "wait = time.sleep", other_clocks),
    ],
)
def test_a_rule_names_the_file_and_the_line_that_break_it(name: str, text: str, rule: Rule) -> None:
    path = f"rostersync/{name.replace('.', '/')}.py"
    last = text.count("\n") + 1
    assert [line.split(": ")[0] for line in rule(Module(path, name, text))] == [f"{path}:{last}"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sync.run", "from rostersync.store.replica.commit import commit\nfrom rostersync.sync import guard"),
        ("sync.watermarks", "from rostersync.sync.guard import Hold\nfrom rostersync.records import Query"),
        ("store.database.engine", "import sqlalchemy\nfrom rostersync.errors import StoreError"),
        ("clock", "moment = datetime.now(UTC)"),
        ("cli.main", "import click\nfrom rostersync import __version__"),
    ],
)
def test_what_the_tables_allow_breaks_no_rule(name: str, text: str) -> None:
    assert [line for rule in RULES for line in rule(Module(f"{name}.py", name, text))] == []


def test_a_class_of_values_is_a_dataclass_only_if_its_repr_hides_a_field() -> None:
    wrong = [
        f"{module.path}: {node.name}"
        for module in modules()
        for node in ast.walk(ast.parse(module.text))
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(each) for each in node.decorator_list)
        and "repr=False" not in ast.unparse(node)
    ]
    assert not wrong
