"""`rostersync grant-reader`: a role of PostgreSQL that may read the views, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured
from rostersync.cli.output import note
from rostersync.errors import ConfigError
from rostersync.runs.recording import Recorder
from rostersync.store import open_store, readers
from rostersync.store.audit import Entry
from rostersync.store.engine import sqlite_path

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.store import Store


@click.command()
@click.argument("role")
@click.option(
    "--view",
    "views",
    multiple=True,
    metavar="NAME",
    type=click.Choice(readers.NAMES),
    help="Only this view; may be repeated.",
)
@configured
def command(session: Session, role: str, views: tuple[str, ...]) -> None:
    """Let a role of PostgreSQL read the views, or those that --view names, and nothing else of rostersync's.

    The role must exist. What it was granted before and is not named now is taken away, on the tables too. Upgrades keep
    what it may read, and add no view of a later version; run this again for that.
    """
    store = open_postgresql(session, "grant-reader")
    entry = Entry("*", "grant-reader", fields=(role, *(views or readers.NAMES)))
    with Recorder(store, session.clock).recorded(entry), store.writing() as connection:
        readable = readers.grant(connection, role, views)
    note(f"role {role} can read {', '.join(readable)}")


def open_postgresql(session: Session, verb: str) -> Store:
    """Return the configured database. Raises `ConfigError` for SQLite, which has no roles."""
    if sqlite_path(session.config.database.url):
        hint = "to let others read, use PostgreSQL, or give them a copy of the file"
        raise ConfigError([f"{verb}: database.url is an SQLite file, which has no roles"], hint)
    return open_store(session.config, session.clock, create=False)
