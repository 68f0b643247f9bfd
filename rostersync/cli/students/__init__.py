"""`rostersync students`: read and write students directly in ManageBac."""

from __future__ import annotations

import click

from rostersync.cli.students import reading, writing


@click.group()
def command() -> None:
    """Read and write students directly in ManageBac.

    The commands that read need no database. The commands that write work only if the source has `allow_writes = true`.
    They ask before they send anything. If there is no terminal, they need --yes. They record each write in the audit
    log, and update the replica at once.
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
