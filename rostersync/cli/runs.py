"""`rostersync runs`: list recent runs, or show one run and its removals that wait for approval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from rostersync.cli.options import Natural, common_options, configured, json_option
from rostersync.cli.output import as_json_values, document, echo, table
from rostersync.cli.reports import figures, show_reasons, show_run
from rostersync.errors import RostersyncError
from rostersync.report import RunState
from rostersync.store.replica.runs import recent
from rostersync.store.schema.tables import DeletionSource, PlanState
from rostersync.store.status import run_details
from rostersync.store.store import open_store
from rostersync.words import count, moment, span

if TYPE_CHECKING:
    from pathlib import Path

    from rostersync.cli.options import Session
    from rostersync.report import RunReport
    from rostersync.store.status import RunDetails

_HEADERS = ("run", "source", "kind", "state", "finished", "took", "outcome")


@click.group(invoke_without_command=True)
@click.option("--limit", type=Natural(), default=20, show_default=True, help="How many runs to list.")
@json_option
@common_options
@click.pass_context
def command(ctx: click.Context, named: Path | None, limit: int, as_json: bool) -> None:
    """List the recent runs of all sources, newest first, or show one run."""
    if ctx.invoked_subcommand is None:
        _list(named=named, limit=limit, as_json=as_json)


@configured
def _list(session: Session, limit: int, as_json: bool) -> None:
    store = open_store(session.config, session.clock, create=False)
    with store.reading() as connection:
        reports = recent(connection, limit)
    if as_json:
        document({"runs": [_json(report) for report in reports]})
        return
    table(_HEADERS, [_row(report) for report in reports], folded=("finished", "took", "outcome"))


def _json(report: RunReport) -> dict[str, Any]:
    times = {"started_at": report.started_at, "finished_at": report.finished_at}
    return {**report.to_json(), **as_json_values(times)}


def _row(report: RunReport) -> tuple[Any, ...]:
    head = (report.run_id, report.source, report.kind, report.state, moment(report.finished_at))
    return (*head, span(report.duration_s), _outcome(report))


def _outcome(report: RunReport) -> str:
    """Return a run's counts and its error. The counts of a failed run are left out."""
    done = "" if report.state is RunState.FAILED else figures(report.counts)
    return "; ".join(filter(None, (done, report.error)))


# One run ---------------------------------------------------------------------------------------------------------

_NOTICED: dict[str, str] = {
    DeletionSource.STREAM: "the feed of deleted students lists the student",
    DeletionSource.SWEEP: "the last full run did not find them",
}
_HELD_HEADERS = ("id", "last name", "first name", "known since", "deleted in ManageBac", "noticed")
_CLOSED: dict[str, str] = {
    PlanState.APPROVED: "nothing is waiting for approval: this run's removals were approved",
    PlanState.SUPERSEDED: "nothing is waiting for approval: a later run has replaced this run's removals",
}


@command.command()
@click.argument("run_id", type=Natural())
@json_option
@configured
def show(session: Session, run_id: int, as_json: bool) -> None:
    """Show one run. If the run is held, list each student that it would remove.

    Use the list to decide whether to approve the removals. For each student, the list has the name, how rostersync
    noticed the removal, and since when the removal is known.
    """
    store = open_store(session.config, session.clock, create=False)
    with store.reading() as connection:
        details = run_details(connection, run_id)
    if details is None:
        raise RostersyncError(f"there is no run {run_id}", f"list the runs: {session.command('runs')}")
    approval = session.command(f"sync --approve {run_id}") if details.plan == PlanState.OPEN else None
    before = click.get_current_context().parent
    if as_json or (before and before.params["as_json"]):  # so that --json also works before the word "show"
        document({"run": _details_json(details, approval)})
    else:
        _show(details, approval)


def _details_json(details: RunDetails, approval: str | None) -> dict[str, Any]:
    return {
        **_json(details.report),
        "notices": list(details.report.notices),
        "plan": details.plan,
        "removals": [as_json_values(asdict(student)) for student in details.held],
        "approve_with": approval,
    }


def _show(details: RunDetails, approval: str | None) -> None:
    report = details.report
    show_run(report)
    echo(f"  finished {moment(report.finished_at)}")
    show_reasons(report.error, report.notices)
    if details.plan in _CLOSED:
        echo(f"  {_CLOSED[details.plan]}")
    if approval is None:
        return
    echo()
    echo(f"{count(len(details.held), 'removal')} waiting for approval:")
    rows = [
        (s.id, s.last_name, s.first_name, moment(s.known_since), s.deleted_at and moment(s.deleted_at), noticed)
        for s in details.held
        for noticed in [_NOTICED[s.deletion_source]]
    ]
    table(_HELD_HEADERS, rows, folded=("known since", "deleted in ManageBac", "noticed"))
    echo()
    echo(f"if these students have really left, approve their removal: {approval}")
