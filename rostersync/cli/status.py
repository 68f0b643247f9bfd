"""`rostersync status`: how fresh each source is, and what needs attention."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import configured, json_option
from rostersync.cli.output import ago, as_json_values, count, document, echo, mark, moment
from rostersync.cli.reports import show_reasons
from rostersync.report import RunState
from rostersync.runs import wiring
from rostersync.store.status import health

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.store import Store
    from rostersync.store.status import Health


@click.command()
@json_option
@configured
def command(session: Session, as_json: bool) -> None:
    """Show how fresh each source is, which process is syncing it, and what needs attention.

    Also shows why its last run failed, which removals wait for approval, and how many records are in quarantine.
    """
    if as_json:
        document({"sources": [_json(source) for source in _sources(session)]})
    else:
        show_all(session)


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    is_configured: bool
    health: Health | None
    holder: str | None


def _sources(session: Session) -> list[_Source]:
    """Return the configured sources, in their order, and behind them those that only the database knows."""
    store = wiring.open_store(session.config, session.clock, create=False)
    with store.reading() as connection:
        known = {row.source: row for row in health(connection)}
    wanted = [source.name for source in session.config.sources]
    names = dict.fromkeys([*wanted, *known])
    return [_Source(name, name in wanted, known.get(name), _holder(store, name, known.get(name))) for name in names]


def _holder(store: Store, name: str, row: Health | None) -> str | None:
    """Return who holds the lock now; None when nobody does."""
    return ((row and row.holder) or "another process") if store.is_held(name) else None


def _json(source: _Source) -> dict[str, Any]:
    facts = asdict(source.health) if source.health else {"source": source.name}
    facts.pop("holder", None)
    return {**as_json_values(facts), "configured": source.is_configured, "lock_holder": source.holder}


def show_all(session: Session) -> None:
    """Print the state of every source. Raises `NoDatabase` where there is none."""
    for source in _sources(session):
        _show_health(source, session)
        if source.holder:
            echo(f"  sync in progress: {source.holder}")


def _show_health(source: _Source, session: Session) -> None:
    row = source.health
    if row and not source.is_configured:
        left = f"; still in the database: {count(row.live_students, 'student')}"
        echo(f"{source.name}: ", mark("no longer configured", "yellow"), left)
    elif row is None or row.last_run_id is None:
        echo(f"{source.name}: ", mark("never run", "yellow"), f"; to begin: {session.command('sync')}")
    else:
        _show_figures(row)
        _show_last_run(row)
        _show_troubles(row, session)


def _show_figures(row: Health) -> None:
    age = "no success yet" if row.age_seconds is None else f"last success {ago(row.age_seconds)}"
    colour = "green" if row.last_state == RunState.SUCCEEDED else "yellow"
    echo(f"{row.source}: {age}; run {row.last_run_id} ", mark(str(row.last_state), colour))
    people = f"{count(row.live_students, 'student')}, {row.deleted_students:,} deleted"
    echo(f"  {people}, {row.quarantined:,} in quarantine")
    echo(f"  watermarks: modified {moment(row.modified_watermark)}, deleted {moment(row.deleted_watermark)}")
    echo(f"  last full read: {moment(row.last_clean_full_at)}")


def _show_last_run(row: Health) -> None:
    """Print why the last run ended as it did, and why its success may not count."""
    show_reasons(row.last_error, row.last_notices or ())
    succeeded = row.last_state in {RunState.SUCCEEDED, RunState.HELD}
    if succeeded and row.last_finished_at != row.last_success_at:
        advice = f" ({moment(row.last_finished_at)}), so it does not count: check the clock of this machine"
        echo(f"  run {row.last_run_id} ended ", mark("in the future", "yellow"), advice)


def _show_troubles(row: Health, session: Session) -> None:
    if row.held_run_id is not None:
        run_id = row.held_run_id
        echo("  ", mark("held", "yellow"), f": the removals of run {run_id} wait for approval")
        echo(f"    to see them:     {session.command(f'runs show {run_id}')}")
        echo(f"    to approve them: {session.command(f'sync --approve {run_id}')}")
    if row.deleted_feed_ignored:
        echo("  the API does not report deletions: only full runs find them")
