"""`rostersync source`: purge a source's rows from the database when the source is no longer configured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured
from rostersync.cli.output import confirm, echo, note
from rostersync.errors import ConfigError
from rostersync.recording import Recorder
from rostersync.store.audit import Entry
from rostersync.store.forget import forget, holdings
from rostersync.store.store import open_store
from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rostersync.cli.options import Session


@click.group()
def command() -> None:
    """Manage the sources in the database."""


@command.command("forget")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Show what would be purged, and purge nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@configured
def forget_source(session: Session, name: str, dry_run: bool, yes: bool) -> None:
    """Purge every row of a source that is no longer configured, including its history and its runs.

    Only a backup can restore these rows.
    """
    if name in {source.name for source in session.config.sources}:
        hint = f"remove the source {name} from {session.path} first"
        raise ConfigError(
            [f"source forget {name}: the source is configured, so the next run would bring it back"], hint
        )
    store = open_store(session.config, session.clock, create=False)
    with store.reading() as connection:
        kept = holdings(connection, name)
    if kept is None:
        hint = f"list the sources: {session.command('status')}"
        raise ConfigError([f"source forget {name}: no such source in the database"], hint)
    figures = _figures(kept)
    if dry_run:
        echo(f"{name}: would purge {figures}")
        return
    _confirm(name, figures, yes=yes)
    with (
        Recorder(store, session.clock).recorded(Entry(name, "forget")) as recording,
        store.lease(name, "rostersync source forget") as lease,
    ):
        purged = forget(lease)
        recording.count(purged)
    note(f"{name}: purged {_figures(purged)}")


def _figures(rows: Mapping[str, int]) -> str:
    return ", ".join(count(number, kind) for kind, number in rows.items() if number) or "nothing"


def _confirm(name: str, figures: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError([f"source forget {name}: without a terminal it needs --yes"], "try it with --dry-run first")
    confirm(f"Purge {figures} of source {name}?")
