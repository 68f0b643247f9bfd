"""`rostersync verify`: check whether the replica matches ManageBac."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured, json_option, source_option
from rostersync.cli.output import document, echo, mark, note, progress
from rostersync.runs import wiring
from rostersync.store.store import open_store
from rostersync.sync.verify import verify
from rostersync.words import count

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.report import Verification

MAX_SHOWN_DIFFERENCES = 20
"""The largest number of differences to print. `--json` prints up to 1,000 differences."""


@click.command()
@source_option
@json_option
@configured
def command(session: Session, names: tuple[str, ...], as_json: bool) -> int:
    """Read all students from ManageBac, compare them with the replica, and change nothing.

    A change in ManageBac since the last run is called pending, and does not count as a difference. For each difference,
    the command prints the student's id and the names of the fields, but no values. The command prints at most 20
    differences, or 1,000 with --json. Exit status: 0 if the replica matches, 1 if it differs or cannot be compared.
    """
    open_store(session.config, session.clock, create=False)  # raises `NoDatabase` if there is no database yet
    policy, connect = wiring.policy(session.config), wiring.connector(session.config)
    with progress() as progress_of:
        results = [
            verify(
                session.config.database.url,
                source.name,
                session.scope,
                policy=policy,
                connect=connect,
                progress=progress_of(source.name),
            )
            for source in session.chosen(names)
        ]
    if as_json:
        document({"sources": [result.to_json() for result in results]})
    else:
        for result in results:
            _show(result)
    return max(result.exit_status for result in results)


def _show(result: Verification) -> None:
    students = count(result.students, "student")
    waits = f"; pending for the next run: {count(result.pending, 'change')}" if result.pending else ""
    if result.found:
        figures = f" in {result.found:,} of {students}{waits}"
        echo(f"{result.source}: ", mark("replica differs", "red"), figures)
        _show_differences(result)
    elif result.error:
        echo(f"{result.source}: ", mark("cannot compare", "yellow"), f": {result.error}")
    else:
        note(f"{result.source}: ", mark("replica matches ManageBac", "green"), f": {students}{waits}")


def _show_differences(result: Verification) -> None:
    for difference in result.differences[:MAX_SHOWN_DIFFERENCES]:
        fields = ", ".join(difference.fields)
        echo(f"  {difference.id}: {_KINDS[difference.kind].format(fields=fields)}")
    if result.found > MAX_SHOWN_DIFFERENCES:
        echo(f"  and {result.found - MAX_SHOWN_DIFFERENCES:,} more")
    if result.error:
        echo(f"  {result.error}")
    if any(difference.kind == "twice" for difference in result.differences):
        echo("  the table of students has lost its primary key: `rostersync db check` shows the remedy")
    echo("  to repair the replica, run: rostersync resync; it repairs everything except rows edited by hand")


_KINDS = {
    "missing": "missing from the replica",
    "surplus": "in the replica, but no longer in ManageBac",
    "differs": "differs in {fields}",
    "twice": "stored more than once",
}
