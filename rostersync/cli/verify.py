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
    from rostersync.report import Verdict

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
    policy, connect = wiring.policy(session.config), wiring.connector(session.config, session.clock)
    with progress() as progress_of:
        verdicts = [
            verify(
                session.config.database.url,
                source.name,
                policy=policy,
                connect=connect,
                progress=progress_of(source.name),
            )
            for source in session.chosen(names)
        ]
    if as_json:
        document({"sources": [verdict.to_json() for verdict in verdicts]})
    else:
        for verdict in verdicts:
            _show(verdict)
    return max(verdict.exit_status for verdict in verdicts)


def _show(verdict: Verdict) -> None:
    students = count(verdict.students, "student")
    waits = f"; pending for the next run: {count(verdict.pending, 'change')}" if verdict.pending else ""
    if verdict.found:
        figures = f" in {verdict.found:,} of {students}{waits}"
        echo(f"{verdict.source}: ", mark("replica differs", "red"), figures)
        _show_differences(verdict)
    elif verdict.error:
        echo(f"{verdict.source}: ", mark("cannot compare", "yellow"), f": {verdict.error}")
    else:
        note(f"{verdict.source}: ", mark("replica matches ManageBac", "green"), f": {students}{waits}")


def _show_differences(verdict: Verdict) -> None:
    for difference in verdict.differences[:MAX_SHOWN_DIFFERENCES]:
        fields = ", ".join(difference.fields)
        echo(f"  {difference.id}: {_KINDS[difference.kind].format(fields=fields)}")
    if verdict.found > MAX_SHOWN_DIFFERENCES:
        echo(f"  and {verdict.found - MAX_SHOWN_DIFFERENCES:,} more")
    if verdict.error:
        echo(f"  {verdict.error}")
    if any(difference.kind == "twice" for difference in verdict.differences):
        echo("  the table of students has lost its primary key: `rostersync db check` shows the remedy")
    echo("  to repair the replica, run: rostersync resync; it repairs everything except rows edited by hand")


_KINDS = {
    "missing": "missing from the replica",
    "surplus": "in the replica, but no longer in ManageBac",
    "differs": "differs in {fields}",
    "twice": "stored more than once",
}
