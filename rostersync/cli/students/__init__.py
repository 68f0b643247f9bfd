"""`rostersync students`: the API's students themselves, read and written."""

from __future__ import annotations

import click

from rostersync.cli.students import reading, writing


@click.group()
def command() -> None:
    """Read and write students straight at the API.

    Reading needs no database. Writing needs `allow_writes = true` on the source, asks before it sends anything (without
    a terminal it needs --yes), is noted in the audit log, and is in the replica at once.
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
