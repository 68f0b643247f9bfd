"""`rostersync students`: read and write students directly at the API."""

from __future__ import annotations

import click

from rostersync.cli.students import reading, writing


@click.group()
def command() -> None:
    """Read and write students directly at the API.

    Reading needs no database. Writing needs `allow_writes = true` for the source. A write command asks before it sends
    anything, or needs --yes if there is no terminal. It is recorded in the audit log, and the replica is updated at
    once.
    """


for verb in (
    reading.list_students,
    reading.get,
    writing.create,
    writing.update,
    writing.archive,
    writing.unarchive,
    writing.set_avatar,
    writing.delete_avatar,
):
    command.add_command(verb)
