"""`rostersync runs`: what was done lately."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import Natural, configured, json_option
from rostersync.cli.output import document, moment, span, table
from rostersync.cli.reports import figures
from rostersync.clock import to_text
from rostersync.report import RunState
from rostersync.runs import wiring
from rostersync.store.runs import recent

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.report import RunReport

_HEADERS = ("run", "source", "kind", "state", "finished", "took", "outcome")


@click.command()
@click.option("--limit", type=Natural(), default=20, show_default=True, help="How many, newest first.")
@json_option
@configured
def command(session: Session, limit: int, as_json: bool) -> None:
    """List recent runs of all sources, newest first."""
    store = wiring.open_store(session.config, session.clock, create=False)
    with store.reading() as connection:
        reports = recent(connection, limit)
    if as_json:
        document({"runs": [_json(report) for report in reports]})
        return
    table(_HEADERS, [_row(report) for report in reports], folded=("finished", "took", "outcome"))


def _json(report: RunReport) -> dict[str, Any]:
    times = {"started_at": to_text(report.started_at), "finished_at": to_text(report.finished_at)}
    return {**report.to_json(), **times}


def _row(report: RunReport) -> tuple[Any, ...]:
    head = (report.run_id, report.source, report.kind, report.state, moment(report.finished_at))
    return (*head, span(report.duration_s), _outcome(report))


def _outcome(report: RunReport) -> str:
    """Return a run's figures, which a failed one has not, and what was wrong with it."""
    done = "" if report.state is RunState.FAILED else figures(report.counts)
    return "; ".join(filter(None, (done, report.error)))
