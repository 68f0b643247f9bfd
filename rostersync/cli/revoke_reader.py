"""`rostersync revoke-reader`: revoke a PostgreSQL role's right to read the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.grant_reader import open_postgresql
from rostersync.cli.options import configured
from rostersync.cli.output import echo, note
from rostersync.recording import Recorder
from rostersync.store.audit import Entry
from rostersync.store.schema import readers

if TYPE_CHECKING:
    from rostersync.cli.options import Session


@click.command()
@click.argument("role")
@configured
def command(session: Session, role: str) -> int:
    """Revoke all grants of a PostgreSQL role on rostersync's views and tables.

    Exit status: 0 if the role can no longer read any view, 1 if it can still read one through another role or a grant
    to PUBLIC.
    """
    store = open_postgresql(session, "revoke-reader")
    entry = Entry("*", "revoke-reader", fields=(role,))
    with Recorder(store, session.clock).recorded(entry), store.writing() as connection:
        left = readers.revoke(connection, role)
    if left:
        echo(f"role {role} can still read {', '.join(left)}: through another role, or a grant to PUBLIC")
        return 1
    note(f"role {role} can read no view")
    return 0
