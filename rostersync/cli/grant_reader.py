"""`rostersync grant-reader`: let a PostgreSQL role read the views and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured
from rostersync.cli.output import note
from rostersync.errors import ConfigError
from rostersync.recording import Recorder
from rostersync.store.audit import Entry
from rostersync.store.database.engine import sqlite_path
from rostersync.store.schema import readers
from rostersync.store.store import open_store

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.store.store import Store


@click.command()
@click.argument("role")
@click.option(
    "--view",
    "views",
    multiple=True,
    metavar="NAME",
    type=click.Choice(readers.NAMES),
    help="Let the role read only this view; may be repeated.",
)
@configured
def command(session: Session, role: str, views: tuple[str, ...]) -> None:
    """Let a PostgreSQL role read rostersync's views and nothing else.

    With --view, the role can read only the named views. The role must exist. The command revokes earlier grants on
    other views and on the tables. An upgrade keeps the role's grants. If a later version adds a view, run this command
    again to let the role read that view.
    """
    store = open_postgresql(session, "grant-reader")
    entry = Entry("*", "grant-reader", fields=(role, *(views or readers.NAMES)))
    with Recorder(store, session.clock).recorded(entry), store.writing() as connection:
        readable = readers.grant(connection, role, views)
    note(f"role {role} can read {', '.join(readable)}")


def open_postgresql(session: Session, verb: str) -> Store:
    """Open the configured database. Raise `ConfigError` if the database is SQLite, which has no roles."""
    if sqlite_path(session.config.database.url):
        hint = "to let other users read, use PostgreSQL, or give them a copy of the file"
        raise ConfigError([f"{verb}: database.url is an SQLite file, which has no roles"], hint)
    return open_store(session.config, session.clock, create=False)
