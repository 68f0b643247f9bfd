"""`rostersync run`: run the daemon."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from rostersync.cli.options import configured, start_log
from rostersync.cli.signals import on_signals
from rostersync.config import load
from rostersync.daemon.service import Daemon

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.config import Config


@click.command()
@configured
def command(session: Session) -> int:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C.

    The daemon syncs each source at the times in [schedule]. The daemon also carries out the runs that the commands
    `sync`, `resync` and `sync --approve` request. If you start a second daemon, it waits, and takes over when the first
    daemon ends. On SIGHUP, the daemon reads its configuration again. On SIGUSR1, the daemon syncs every source
    immediately.
    """
    start_log(session.config, daemon=True)

    def reload() -> Config:
        config = load(session.path)
        start_log(config, daemon=True)
        return config

    daemon = Daemon(session.config, reload, session.scope)
    with on_signals(session.scope, {signal.SIGHUP: daemon.reload, signal.SIGUSR1: daemon.sync_now}):
        daemon.serve()
    return 0
