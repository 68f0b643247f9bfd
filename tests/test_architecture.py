"""The shape of the code: arrows run downwards only. To allow or forbid something, change the tables."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

# Values, and one door each to settings, failures, logs, time and threads. Everybody may import them; they import each
# other only.
LEAVES = (
    *("errors", "address", "clock", "pool", "secret", "records", "projections", "report", "config", "logger", "words"),
    "_version",  # written by the build
)

# What each part may import besides itself and the leaves. The longest name that fits a module decides.
PARTS: dict[str, tuple[str, ...]] = {
    "__main__": ("cli",),
    "models": ("store",),  # for reports in Python: no part of the program imports it
    "cli": (
        "daemon",
        "runs",
        "sync.run",
        "sync.verify",
        "sync",
        "managebac",
        "store",
        "observe",
        "simulator",
    ),
    "daemon": ("runs", "sync.run", "sync", "managebac", "store", "observe"),
    "runs": ("sync.run", "sync", "managebac", "store", "observe"),
    "sync.verify": ("sync.run", "sync", "store.stage", "store", "observe"),  # a run's reading, compared and not written
    "sync.run": ("sync", "managebac", "store.stage", "store", "observe"),  # where vendor and SQL meet
    "sync": ("store.stage",),  # of SQL it knows the stage only
    "managebac": (),
    "store.stage": ("store",),
    "store": ("store.stage",),
    "observe": (),
    "simulator": (),
    **dict.fromkeys(LEAVES, ()),
}

# Which parts may import a library. Those not named here are free for all.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "requests": ("managebac",),
    "urllib3": ("managebac",),
    "sqlalchemy": (
        "store",
        "store.stage",
        "migrations",
        "models",
        "sync.run",
    ),  # the last names the type of a connection, no more
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


def upward_arrows(module: Module) -> list[str]:
    # Migrations are SQL's past: they stand outside, and may use what the store has.
    own = PARTS.get(module.part, ("store",) if module.part == "migrations" else ())
    allowed = (*own, *LEAVES, module.part, "__version__")
    return [
        f"{module.path}:{line}: {module.part or 'rostersync'} must not import {target}"
        for line, target in module.targets()
        if target.startswith(("rostersync.", ".")) and part_of(target.removeprefix("rostersync.")) not in allowed
    ]


def misplaced_libraries(module: Module) -> list[str]:
    return [
        f"{module.path}:{line}: {target} belongs in {' and '.join(LIBRARIES[library])} only"
        for line, target in module.targets()
        if (library := target.split(".")[0]) in LIBRARIES and module.part not in LIBRARIES[library]
    ]


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
RULES: tuple[Rule, ...] = (upward_arrows, misplaced_libraries, other_clocks)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_there_are_no(rule: Rule) -> None:
    broken = [line for module in modules() for line in rule(module)]
    assert not broken, "\n" + "\n".join(broken)


def test_every_module_belongs_to_a_part() -> None:
    known = {*PARTS, "migrations", ""}
    strangers = [module.path for module in modules() if module.part not in known]
    assert not strangers, f"give these a line in PARTS: {strangers}"


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("store.students", "from rostersync.managebac import wire", upward_arrows),
        ("store.students", "from rostersync import managebac", upward_arrows),
        ("store.students", "def late():\n    import rostersync.cli.main", upward_arrows),
        ("store.students", "from . import engine", upward_arrows),
        ("sync.plan", "from rostersync.sync.run import Run", upward_arrows),
        ("sync.plan", "from rostersync.store import Store", upward_arrows),
        ("simulator.app", "from rostersync.store import Store", upward_arrows),
        ("clock", "from rostersync.store import Store", upward_arrows),
        ("cli.reports", "from rostersync.models import CurrentStudent", upward_arrows),
        ("store.students", "import requests.adapters", misplaced_libraries),
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
        ("sync.run", "from rostersync.store.runs import finish\nfrom rostersync.sync import plan"),
        ("sync.plan", "from rostersync.sync.guard import Hold\nfrom rostersync.records import Query"),
        ("store.engine", "import sqlalchemy\nfrom rostersync.errors import StoreError"),
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
