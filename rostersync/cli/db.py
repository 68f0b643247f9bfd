"""`rostersync db`: the database's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured
from rostersync.cli.output import echo, note
from rostersync.errors import SchemaOutdated, SchemaTooNew, StoreError
from rostersync.store import probe
from rostersync.store.schema import HEAD, Level

if TYPE_CHECKING:
    from rostersync.cli.options import Session


@click.group()
def command() -> None:
    """Set up, upgrade and check the database."""


@command.command()
@click.option(
    "--dry-run", is_flag=True, help="Say which migrations would run and whether readers wait. Change nothing."
)
@configured
def upgrade(session: Session, dry_run: bool) -> None:
    """Create the tables, or upgrade those of an older version; and create views again that were changed by hand."""
    url = session.config.database.url
    if dry_run:
        _show_plan(url)
        return
    begun = session.clock.monotonic()
    before = probe.upgrade(url)
    seconds = session.clock.monotonic() - begun
    if before == HEAD:
        note(f"schema {HEAD}: up to date")
    else:
        was = f"schema {before}" if before else "an empty database"
        note(f"upgraded from {was} to schema {HEAD} in {seconds:.1f} s: up to date")


def _show_plan(url: str) -> None:
    match probe.level(url):
        case Level.EMPTY:
            echo(f"the database is empty: schema {HEAD} would be created")
        case Level.CURRENT:
            echo(f"schema {HEAD}: up to date")
        case Level.NEWER:
            raise SchemaTooNew("a later version of rostersync wrote the schema", "install that version or a later one")
        case Level.OLDER:
            found, steps, views = probe.plan_of_upgrade(url)
            postgresql = url.startswith("postgresql")
            echo(f"schema {found} would be upgraded to {HEAD}:")
            for step in steps:
                waits = " Readers wait until the upgrade ends." if postgresql and step.locks_readers else ""
                echo(f"  {step.revision}: {step.description}{waits}")
            if views:
                echo(f"  views that would be replaced, so that their readers wait: {', '.join(views)}")
            if not postgresql:
                echo("  no reader waits: SQLite shows them the old tables until the upgrade ends")


@command.command()
@configured
def current(session: Session) -> None:
    """Print the schema's revision."""
    echo(probe.revision(session.config.database.url) or "none: the database is empty")


@command.command()
@configured
def check(session: Session) -> int:
    """Compare tables, keys, indexes, views and head counts with what this version makes; exit status 1 if any differs.

    Each difference is one line, followed by its remedy. A head count is the number of students that a source keeps
    beside its rows, for status and the guard.
    """
    url = session.config.database.url
    if probe.level(url) is Level.OLDER:
        raise SchemaOutdated(
            f"the database has the schema of an older version; this version needs schema {HEAD}",
            f"run: {session.command('db upgrade')}",
        )
    found = probe.differences(url)
    for difference, remedy in found:
        echo(f"{difference}; remedy: {remedy}", err=True)
    miscounted = _miscounted(url, known=bool(found))
    for difference in miscounted:
        echo(f"{difference}; remedy: a full run counts them again: {session.command('sync --full')}", err=True)
    if found or miscounted:
        return 1
    note(f"schema {HEAD}: up to date")
    return 0


def _miscounted(url: str, *, known: bool) -> list[str]:
    """Return how head counts differ; nothing if that cannot be asked because of differences that are `known`."""
    try:
        return probe.miscounted(url)
    except StoreError:
        if known:
            return []
        raise
