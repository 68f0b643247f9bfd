"""`rostersync demo`: show what rostersync does, with invented students and without any setup."""

from __future__ import annotations

import os
import random
import secrets
import shlex
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rostersync.cli.options import Session, common_options, start_log
from rostersync.cli.output import echo, mark, table
from rostersync.cli.simulator import serving
from rostersync.cli.status import show_all
from rostersync.cli.sync import carry_out, show_outcomes
from rostersync.clock import to_text
from rostersync.config import load
from rostersync.errors import RostersyncError
from rostersync.report import RunKind, RunRequest
from rostersync.simulator import App, School, churn

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from rostersync.cancel import CancelScope
    from rostersync.report import RunReport

_CONFIG = """\
[database]
url = "sqlite:///roster.db"

[[sources]]
name = "demo"
base_url = "{base_url}"
token_file = "demo-token"
"""

_DONE = {
    "create": "{} enrolled",
    "update": "{} changed in some field",
    "clear": "{} had a field cleared",
    "archive": "{} archived (withdrawn, graduated or without a reason)",
    "unarchive": "{} unarchived",
    "delete": "{} deleted",
    "restore": "{} restored after a deletion",
    "login": "{} logged in, which does not change the roster",
}
_SHARE_OF_A_DAY = 20  # on any given day, one student in 20 changes


@click.command()
@click.option(
    "--students", type=click.IntRange(100, 100_000), default=1200, show_default=True, help="The number of students."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same school.")
@common_options
@click.pass_obj
def command(scope: CancelScope, /, *, students: int, seed: int, named: Path | None) -> int:  # noqa: ARG001 - all commands accept it
    """Show how rostersync works: sync invented students, change some, sync again, and run a few queries."""
    folder = Path(tempfile.mkdtemp(prefix="rostersync-demo-"))
    school = School(seed, students, scope.clock)
    token = secrets.token_hex(16)
    with serving(App(school, token)) as base_url:
        session = _session(folder, base_url, token, scope)
        _title(f"A school of {students:,} invented students, served by a stand-in ManageBac on {base_url}")
        before = _sync(session)
        _title("A day at school")
        _show_churn(_day(school, random.Random(seed), students // _SHARE_OF_A_DAY))  # noqa: S311 - the demo must be repeatable
        _title("The next sync reads only what changed")
        after = _sync(session)
        _title("rostersync status")
        show_all(session)
    _ask(folder / "roster.db", before, after)
    _title("To look around")
    echo(f"sqlite3 {folder}/roster.db '{_EXAMPLE}'")
    echo(f"{_program()} {session.command('runs').removeprefix('rostersync ')}")
    echo(f"rm -r {folder}   # to clean up")
    return 0


def _program() -> str:
    """Return a command that starts rostersync in the current folder, even if rostersync is not installed."""
    if shutil.which("rostersync"):
        return "rostersync"
    here = Path.cwd()
    if Path(__file__).parents[2] == here and os.access("dev", os.X_OK):
        return "./dev run"
    python = Path(sys.executable)
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{shlex.quote(str(shown))} -P -m rostersync"


def _session(folder: Path, base_url: str, token: str, scope: CancelScope) -> Session:
    """Set up a school as a user would: write a configuration and a token into `folder`."""
    path = folder / "config.toml"
    path.write_text(_CONFIG.format(base_url=base_url), encoding="utf-8")
    (folder / "demo-token").touch(mode=0o600)
    (folder / "demo-token").write_text(token, encoding="utf-8")
    config = load(path)
    start_log(config)
    return Session(config, path, scope, named=path)


def _title(text: str) -> None:
    echo()
    echo(mark(text, "cyan"))


def _sync(session: Session) -> RunReport:
    (outcome,) = carry_out(session, [RunRequest("demo", RunKind.INCREMENTAL)])
    show_outcomes(session, [outcome], as_json=False)
    if outcome.exit_status or outcome.report is None:
        raise RostersyncError("the demo's sync did not succeed", "see its message above")
    return outcome.report


def _day(school: School, rng: random.Random, things: int) -> Counter[str]:
    """Make `things` changes in the school. If there is no deleted student after these changes, delete one."""
    done = churn(school, rng, things)
    if not school.deleted() and (key := school.pick(rng, lambda version: version.living)):
        school.delete(key)
        done["delete"] += 1
    return done


def _show_churn(done: Counter[str]) -> None:
    for action, words in _DONE.items():
        if done[action]:
            echo("  " + words.format(done[action]))


# Questions -------------------------------------------------------------------------------------------------------

_YEAR_GROUPS = """\
SELECT year_group_id AS year_group, count(*) AS students
  FROM enrolled_student GROUP BY year_group_id ORDER BY year_group_id"""

_LEFT = """\
SELECT id, last_name, first_name, op AS what, status
  FROM student_history
 WHERE run_id = :run AND (op = 'delete' OR (status <> 'enrolled' AND changed_fields LIKE '%"archived"%'))
 ORDER BY what, id"""

_NATIONALITIES = """\
SELECT nationality, count(*) AS students
  FROM enrolled_student JOIN student_nationality USING (source, id)
 GROUP BY nationality ORDER BY students DESC, nationality LIMIT 5"""

_EXAMPLE = "SELECT * FROM enrolled_student LIMIT 5"

_CHANGED = """\
SELECT id FROM student_history
 WHERE run_id = :run AND op = 'update' AND changed_fields LIKE '%"year_group_id"%' AND status = 'enrolled'
 ORDER BY id LIMIT 1"""

_AS_OF = """\
SELECT :t AS as_of, last_name, first_name, year_group_id, status
  FROM student_history
 WHERE id = :id AND op <> 'delete' AND valid_from <= :t AND (valid_to IS NULL OR valid_to > :t)"""


def _ask(database: Path, before: RunReport, after: RunReport) -> None:
    """Run queries that a school might run. Any program that can query SQLite can run these queries."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        run = {"run": after.run_id}
        _answer(connection, "How many students are enrolled in each year group?", _YEAR_GROUPS, {})
        _answer(connection, "Who left today?", _LEFT, run)
        _answer(connection, "What are the most common nationalities?", _NATIONALITIES, {})
        if changed := connection.execute(_CHANGED, run).fetchone():
            question = f"Which values did student {changed[0]} have before today, and which values now?"
            times = [to_text(report.finished_at) for report in (before, after)]
            _answer(connection, question, _AS_OF, *({"id": changed[0], "t": time} for time in times))


def _answer(connection: sqlite3.Connection, question: str, query: str, *parameters: Mapping[str, object]) -> None:
    _title(question)
    for line in query.splitlines():
        echo(mark(f"  {line}", "bright_black"))
    echo()
    cursors = [connection.execute(query, values) for values in parameters]
    table([column[0] for column in cursors[0].description], [row for cursor in cursors for row in cursor])
