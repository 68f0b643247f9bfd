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
    """Create the tables, or upgrade those of an older version; and create views again that were changed by hand."""
    probe.upgrade(session.config.database.url)
    note(f"schema {HEAD}: up to date")


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
