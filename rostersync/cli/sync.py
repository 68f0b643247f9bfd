"""`rostersync sync`: run each source once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from rostersync.cli.options import Duration, Natural, configured, json_option, source_option
from rostersync.cli.output import document, progress
from rostersync.cli.reports import explain, show
from rostersync.errors import ConfigError, NoDatabase
from rostersync.report import RunKind, RunRequest, RunState
from rostersync.runs import executor, wiring
from rostersync.runs.batch import Outcome, run_all, worst
from rostersync.store.queue import daemons
from rostersync.store.replica.runs import open_hold, planned_removals
from rostersync.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from rostersync.cli.options import Session
    from rostersync.report import ProgressCallback, RunReport
    from rostersync.store.replica.runs import Hold


@click.command()
@source_option
@click.option("--full", is_flag=True, help="Read the whole roster, not only the changes.")
@click.option("--dry-run", is_flag=True, help="Show what a run would do, and write nothing.")
@click.option("--allow-growth", is_flag=True, help="Read the whole roster, and accept any number of new students.")
@click.option("--approve", type=Natural(), metavar="RUN_ID", help="Carry out the removals of a held run.")
@click.option(
    "--wait",
    type=Duration(),
    default=timedelta(seconds=60),
    help="How long to wait for the source's lock.  [default: 60s]",
)
@json_option
@configured
def command(
    session: Session,
    *,
    names: tuple[str, ...],
    full: bool,
    dry_run: bool,
    allow_growth: bool,
    approve: int | None,
    wait: timedelta,
    as_json: bool,
) -> int:
    """Sync each source once: read what has changed since the last run, and apply it.

    Exit status: 0 if all runs succeeded, 1 if a run failed or is incomplete, 2 if the configuration or the command is
    wrong, 3 if removals are held, 75 if another process holds the source's lock.
    """
    if approve is None:
        kind = RunKind.GROWTH if allow_growth else RunKind.FULL if full else RunKind.INCREMENTAL
        wanted = [RunRequest(source.name, kind, wait=wait) for source in session.chosen(names)]
    elif names or full or allow_growth:
        raise click.UsageError(
            "--approve repeats the held run as it was: it can only be combined with --wait, --dry-run, --json"
        )
    else:
        wanted = [replace(_approval(session, approve), wait=wait)]
    carry = carry_out if approve is None or dry_run else _carry_out_recorded
    outcomes = carry(session, wanted, dry_run=dry_run)
    return show_outcomes(session, outcomes, as_json=as_json)


def carry_out(session: Session, requests: Sequence[RunRequest], *, dry_run: bool = False) -> list[Outcome]:
    """Carry out the requests, and return their outcomes in the same order. On a terminal, show progress bars."""
    wanted = {request.source for request in requests}
    sources = [source for source in session.config.sources if source.name in wanted]
    mistakes = wiring.token_mistakes(sources)
    # If a token is missing here, a daemon that has the token may be in charge of the source.
    elsewhere = set() if dry_run or not mistakes else _in_other_hands(session, mistakes)
    refused = {name: error for name, error in mistakes.items() if name not in elsewhere}
    if len(refused) == len(sources):  # return early, so that no database is created
        return [Outcome(request.source, error=refused[request.source]) for request in requests]
    run = _dry_run(session) if dry_run else _run(session, without_token=mistakes)
    with progress() as progress_of:
        return run_all(
            requests,
            lambda request: run(request, progress_of(request.source)),
            at_once=session.config.sync.sources_at_once,
            scope=session.scope,
            refused=refused,
        )


def _carry_out_recorded(session: Session, requests: Sequence[RunRequest], *, dry_run: bool) -> list[Outcome]:
    """Carry out the approval of a held run, and record who approved it and how it ended."""
    from rostersync.recording import Recorder  # noqa: PLC0415 - only an approval needs this import
    from rostersync.store.audit import Entry  # noqa: PLC0415 - the same
    from rostersync.store.audit import Outcome as Recorded  # noqa: PLC0415 - the same

    (request,) = requests
    assert request.approves is not None, "an approval"
    store = open_store(session.config, session.clock, create=False)
    with store.reading() as connection:
        removals = len(planned_removals(connection, request.approves))
    entry = Entry(request.source, "approve", counts={"run": request.approves, "removals": removals})
    with Recorder(store, session.clock).recorded(entry) as recording:
        (outcome,) = carry_out(session, requests, dry_run=dry_run)
        by_state = {RunState.SUCCEEDED: Recorded.DONE, RunState.INCOMPLETE: Recorded.NOT_TAKEN}
        recording.outcome = by_state.get(outcome.report.state if outcome.report else RunState.FAILED, Recorded.REFUSED)
    return [outcome]


def show_outcomes(session: Session, outcomes: Sequence[Outcome], *, as_json: bool) -> int:
    """Print how the runs ended, and return the worst exit status."""
    if as_json:
        document({"runs": [outcome.report.to_json() for outcome in outcomes if outcome.report]})
    for outcome in outcomes:
        (explain if as_json else show)(outcome, session)
    return worst(outcomes)


def _in_other_hands(session: Session, names: Iterable[str]) -> set[str]:
    """Return the sources among `names` that another process has locked, or that a daemon syncs."""
    try:
        store = open_store(session.config, session.clock, create=False)
    except NoDatabase:
        return set()
    with store.reading() as connection:
        watched = {name for daemon in daemons.alive(connection, session.clock.now()) for name in daemon.sources}
    return {name for name in names if name in watched or store.is_held(name)}


def _run(session: Session, without_token: Collection[str]) -> Callable[[RunRequest, ProgressCallback], RunReport]:
    """Return a function that does one run.

    This process has no token for the sources in `without_token`, so only another process can execute their runs.
    """
    store = open_store(session.config, session.clock, create=True)
    sync_executor = wiring.executor(session.config, store, "rostersync sync")

    def run(request: RunRequest, report: ProgressCallback) -> RunReport:
        return sync_executor.run(request, report, session.scope, may_execute=request.source not in without_token)

    return run


def _dry_run(session: Session) -> Callable[[RunRequest, ProgressCallback], RunReport]:
    """Return a function that does one dry run."""
    config, scope = session.config, session.scope
    policy, connect = wiring.policy(config), wiring.connector(config)

    def run(request: RunRequest, report: ProgressCallback) -> RunReport:
        return executor.dry_run(config.database.url, request, report, scope, policy=policy, connect=connect)

    return run


def _approval(session: Session, run_id: int) -> RunRequest:
    """Return the request that repeats a held run. Raise `ConfigError` if the run has no removals to approve."""
    hold = _hold(session, run_id)
    if hold is None:
        message = f"--approve {run_id}: run {run_id} has no removals waiting for approval"
        raise ConfigError([message], f"see which run does: {session.command('status')}")
    session.chosen([hold.source])
    return RunRequest(hold.source, hold.kind, approves=run_id)


def _hold(session: Session, run_id: int) -> Hold | None:
    try:
        store = open_store(session.config, session.clock, create=False)
    except NoDatabase:
        return None
    with store.reading() as connection:
        return open_hold(connection, run_id)
