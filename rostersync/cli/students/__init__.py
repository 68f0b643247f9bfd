"""`rostersync students`: read and write students directly in ManageBac."""

from __future__ import annotations

import click

from rostersync.cli.students import reading, writing


@click.group()
def command() -> None:
    """Read and write students directly in ManageBac.

    Reading needs no database. Writing is possible only if the source has `allow_writes = true`. A command that writes
    asks before it sends anything. Without a terminal, the command needs --yes. Each write is recorded in the audit log,
    and the replica is updated at once.
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
