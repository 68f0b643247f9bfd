"""`rostersync verify`: whether the replica is what the API serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured, json_option, source_option
from rostersync.cli.output import document, mark, progress
from rostersync.runs import wiring
from rostersync.sync.verify import verify

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.report import Verdict


@click.command()
@source_option
@json_option
@configured
def command(session: Session, names: tuple[str, ...], as_json: bool) -> int:
    """Read upstream in full, compare it with the replica, and change nothing.

    What changed upstream since the last run is pending, and no difference. Differences are told as ids and names of
    fields, never as values. Exit status: 0 equal, 1 different, or nobody can tell.
    """
    wiring.open_store(session.config, session.clock, create=False)  # says so where there is no database yet
    with progress() as watch:
        verdicts = [
            verify(
                session.config.database.url,
                source.name,
                policy=wiring.policy(session.config),
                connect=wiring.connector(session.config, session.clock),
                progress=watch(source.name),
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
    if verdict.error and not verdict.found:
        click.echo(f"{verdict.source}: {mark('cannot tell', 'yellow')}: {verdict.error}")
        return
    waits = f"; {verdict.pending} changes wait for the next run" if verdict.pending else ""
    if not verdict.found:
        click.echo(f"{verdict.source}: {mark('equal', 'green')}: {verdict.students} students{waits}")
        return
    click.echo(f"{verdict.source}: {mark('differs', 'red')} in {verdict.found} of {verdict.students} students{waits}")
    for difference in verdict.differences:
        names = f": {', '.join(difference.fields)}" if difference.fields else ""
        click.echo(f"  {difference.id} {difference.kind}{names}")
    if verdict.found > len(verdict.differences):
        click.echo(f"  and {verdict.found - len(verdict.differences)} more")
    if verdict.error:
        click.echo(f"  {verdict.error}")
    click.echo(
        "  `rostersync resync` reads everything anew, and mends all but what was changed in the database by hand"
    )
