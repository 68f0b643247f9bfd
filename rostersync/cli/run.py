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
    """Run the daemon in the foreground: sync each source as [schedule] says, until SIGTERM or Ctrl-C.

    While it runs, it also carries out what `sync`, `resync` and `sync --approve` ask for. A second daemon waits, and
    takes over when the first one ends. On SIGHUP, the daemon reads its configuration again. On SIGUSR1, it syncs every
    source at once.
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
