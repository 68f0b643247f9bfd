"""`rostersync run`: the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured, start_log
from rostersync.daemon.service import serve

if TYPE_CHECKING:
    from rostersync.cli.options import Session


@click.command()
@configured
def command(session: Session) -> int:
    """Run the daemon, in the foreground: sync each source on the [schedule], until SIGTERM or Ctrl-C."""
    start_log(session.config, daemon=True)
    serve(session.config, session.clock)
    return 0
