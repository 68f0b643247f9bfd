"""`rostersync db`: the database's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured
from rostersync.cli.output import echo, note
from rostersync.errors import SchemaOutdated, StoreError
from rostersync.store import probe
from rostersync.store.schema import HEAD, Level

if TYPE_CHECKING:
    from rostersync.cli.options import Session


@click.group()
def command() -> None:
    """Set up, upgrade and check the database."""


@command.command()
@configured
def upgrade(session: Session) -> None:
    """Create the tables, or upgrade those of an older version."""
    probe.upgrade(session.config.database.url)
    note(f"schema {HEAD}: up to date")


@command.command()
@configured
def current(session: Session) -> None:
    """Print the schema's revision."""
    echo(probe.revision(session.config.database.url) or "none: the database is empty")


@command.command()
@configured
def check(session: Session) -> None:
    """Check that the schema is up to date and unchanged, and that the head counts are right; else exit status 1.

    A head count is the number of students that a source keeps beside its rows, for status and the guard.
    """
    url = session.config.database.url
    if probe.level(url) is Level.OLDER:
        raise SchemaOutdated(
            f"the database has the schema of an older version; this version needs schema {HEAD}",
            f"run: {session.command('db upgrade')}",
        )
    if drift := probe.drift(url):
        raise StoreError(f"tables were changed by hand: {'; '.join(drift)}", "undo these changes")
    if miscounted := probe.miscounted(url):
        raise StoreError("; ".join(miscounted), f"a full run counts them again: {session.command('sync --full')}")
    note(f"schema {HEAD}: up to date")
