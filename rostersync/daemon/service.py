"""Run the daemon: start, do the work that is due until asked to stop, and keep systemd informed."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from rostersync.daemon.condition import Condition
from rostersync.daemon.dispatcher import PURPOSE, Dispatcher
from rostersync.daemon.systemd import Systemd
from rostersync.errors import ConfigError, Stopped, StoreError
from rostersync.logger import get_logger
from rostersync.runs import wiring
from rostersync.store import probe
from rostersync.store.database import tls
from rostersync.store.database.holders import this_process
from rostersync.store.queue import daemons
from rostersync.store.queue.failures import THE_DAEMON, failures_file
from rostersync.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.cancel import CancelScope
    from rostersync.config import Config
    from rostersync.store.store import Store

log = get_logger(__name__)

TICK_S = 0.5
"""How often, in seconds, the daemon looks for work."""

REPORT_EVERY_S = 10.0
"""How often, in seconds, the daemon writes into the database that it is alive."""

DATABASE_RETRY_S = 5.0
"""How long, in seconds, the daemon waits before it tries an unusable database again."""


class Daemon:
    """Keeps the configured sources in step until its scope is cancelled."""

    def __init__(self, config: Config, load: Callable[[], Config], scope: CancelScope) -> None:
        """`load` reads the configuration again, and raises `ConfigError` if it has mistakes."""
        self._config, self._load = config, load
        self._scope, self._clock = scope, scope.clock
        self._systemd = Systemd(scope.clock)
        self._condition = Condition(self._clock, failures_file(config.database.url))
        self._wants_reload, self._wants_sync = threading.Event(), threading.Event()
        self._dispatcher: Dispatcher | None = None  # until the database is open
        self._is_changed = True  # whether the configuration is still to be checked and given to the dispatcher
        self._rests_until = self._reported_at = float("-inf")

    def reload(self) -> None:
        """Request that the configuration is read again, and return at once."""
        self._wants_reload.set()

    def sync_now(self) -> None:
        """Request a sync of every source, and return at once."""
        self._wants_sync.set()

    def serve(self) -> None:
        """Run the sources when they are due or requested, until the scope is cancelled.

        A run in progress is then stopped, and leaves nothing half done. While the database cannot be used, the daemon
        waits for it. Raises `ConfigError` if no source has a token, or if the connection to the database would not be
        protected.
        """
        _require_a_token(self._config)
        tls.require(self._config.database.url)
        self._systemd.ready("opening the database")  # now: a start, and so a boot, must not wait for the database
        try:
            while True:
                self._do_one_round()
        except Stopped as stopped:
            log.info("stopping", signal=stopped.signal)
        self._systemd.stopping()
        if self._dispatcher is not None:
            self._dispatcher.stop()
            _delete_own_row(self._dispatcher.store)
            self._dispatcher.store.close()
        log.info("stopped")

    def _do_one_round(self) -> None:
        """Do one round of the daemon's loop. If the database fails, do no other work for `DATABASE_RETRY_S`."""
        if _was_set(self._wants_reload):
            self._reload()
        if self._clock.monotonic() >= self._rests_until:
            try:
                self._work()
            except StoreError as error:
                self._condition.failed(THE_DAEMON, error)
                self._rests_until = self._clock.monotonic() + DATABASE_RETRY_S
            else:
                self._condition.recovered(THE_DAEMON)
        self._notify_systemd()
        self._scope.sleep(TICK_S)

    def _work(self) -> None:
        """Do the work that is due, with the latest configuration. Raise `StoreError` if the database is unusable."""
        if self._dispatcher is None:
            store = open_store(self._config, self._clock, create=True, keep_sessions=True)
            self._dispatcher = Dispatcher(self._config, self._scope, store, self._condition)
            log.info("started", sources=[source.name for source in self._config.sources])
        elif self._is_changed:
            self._dispatcher.configure(self._config)
        if self._is_changed:
            # The check opens its own session: a run's session has the tables of its stage.
            self._condition.checked(probe.differences(self._config.database.url))
            self._is_changed = False
        if _was_set(self._wants_sync):
            self._dispatcher.sync_now()
        self._dispatcher.tick()
        self._report_to_database(self._dispatcher)

    def _reload(self) -> None:
        """Read the configuration again and use it from now on. If it has mistakes, keep the old one."""
        self._systemd.reloading()
        try:
            config = self._load()
            _require_same_database(self._config, config)
            _require_a_token(config)
        except ConfigError as error:
            hint = "the daemon continues with the old configuration"
            log.exception("reload_failed", error="; ".join(error.mistakes), hint=hint)
            self._condition.refused(error.mistakes)
        else:
            for source, mistake in wiring.token_mistakes(config.sources).items():
                log.warning("token_missing", source=source, error=mistake.message, hint=mistake.hint)
            self._config, self._is_changed = config, True
            self._condition.refused(())
            log.info("reloaded", sources=[source.name for source in config.sources])

    def _report_to_database(self, dispatcher: Dispatcher) -> None:
        if self._clock.monotonic() - self._reported_at < REPORT_EVERY_S:
            return
        with dispatcher.store.writing() as connection:
            daemons.tell(connection, this_process(PURPOSE), dispatcher.watches(), self._clock.now())
        self._reported_at = self._clock.monotonic()

    def _notify_systemd(self) -> None:
        """Send the status line to systemd, and a sign of life to its watchdog.

        If a run hangs, send no sign of life, so that the watchdog restarts the service. A long run does not hang.
        """
        self._systemd.ready(self._status_line())
        watchdog = self._systemd.watchdog_s
        hung = self._dispatcher.hung(watchdog) if self._dispatcher and watchdog else []
        if hung:
            log.error("run_hangs", sources=hung, hint="systemd's watchdog will restart the service")
        else:
            self._systemd.alive()

    def _status_line(self) -> str:
        watches = self._dispatcher.watches() if self._dispatcher else {}
        due = {
            source: min(watch.next_runs.values(), default=None)
            for source, watch in watches.items()
            if not watch.standby
        }
        holders = self._dispatcher.holders() if self._dispatcher else {}
        return self._condition.status_line(due, holders, self._config.schedule)


def _was_set(wish: threading.Event) -> bool:
    was_set = wish.is_set()
    wish.clear()
    return was_set


def _require_a_token(config: Config) -> None:
    """Raise `ConfigError` if no source has a token. If only some lack one, only their own runs fail."""
    mistakes = wiring.token_mistakes(config.sources)
    if len(mistakes) == len(config.sources):
        lines = [line for error in mistakes.values() for line in error.mistakes]
        raise ConfigError(lines, next(iter(mistakes.values())).hint)


def _require_same_database(old: Config, new: Config) -> None:
    if old.database.url != new.database.url:
        raise ConfigError(["database.url has changed, which needs a restart: systemctl restart rostersync"])


def _delete_own_row(store: Store) -> None:
    # If this fails, others count the daemon as gone as soon as its row is old.
    with suppress(StoreError), store.writing() as connection:
        daemons.forget(connection, this_process(PURPOSE))
