"""`rostersync db`: the database's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured
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
    """Set the database up, or bring an older one up to date."""
    probe.upgrade(session.config.database.url)
    click.echo(f"the database has schema {HEAD}")


@command.command()
@configured
def current(session: Session) -> None:
    """Print the schema's revision."""
    click.echo(probe.revision(session.config.database.url) or "none: the database is still empty")


@command.command()
@configured
def check(session: Session) -> None:
    """Tell whether the schema is up to date and as this version defines it; exit status 1 when it is not."""
    url = session.config.database.url
    if probe.level(url) is Level.OLDER:
        raise SchemaOutdated("the database has the schema of an older version", f"run: {session.command('db upgrade')}")
    if drift := probe.drift(url):
        raise StoreError(f"the tables are not as this version defines them: {'; '.join(drift)}", "undo what was done")
    click.echo(f"the database has schema {HEAD}, as this version defines it")
