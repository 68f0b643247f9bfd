"""Run the daemon: until the process is asked to stop, do the work that is due and report to systemd."""

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
"""The number of seconds between two checks for work to do."""

REPORT_EVERY_S = 10.0
"""The number of seconds after which the daemon updates its row in the database to show that it is still running."""

DATABASE_RETRY_S = 5.0
"""The number of seconds to wait after a database error before the daemon uses the database again."""


class Daemon:
    """Keeps the replicas of the configured sources up to date until the scope is cancelled."""

    def __init__(self, config: Config, load: Callable[[], Config], scope: CancelScope) -> None:
        """Create a daemon that does not use the database yet.

        Args:
            config: The configuration.
            load: A function that reads the configuration again, and raises `ConfigError` if it has mistakes.
            scope: The scope of the daemon. The daemon stops when the scope is cancelled.

        """
        self._config, self._load = config, load
        self._scope, self._clock = scope, scope.clock
        self._systemd = Systemd(scope.clock)
        self._condition = Condition(self._clock, failures_file(config.database.url))
        self._wants_reload, self._wants_sync = threading.Event(), threading.Event()
        self._dispatcher: Dispatcher | None = None  # None until the database is open
        self._is_changed = True  # whether the dispatcher still has to receive this configuration
        self._rests_until = self._reported_at = float("-inf")

    def reload(self) -> None:
        """Ask the daemon to reload the configuration, and return at once."""
        self._wants_reload.set()

    def sync_now(self) -> None:
        """Request a sync of every source, and return at once."""
        self._wants_sync.set()

    def serve(self) -> None:
        """Until the scope is cancelled, sync each source whenever a run is due or requested.

        When the scope is cancelled, runs in progress stop. If a run is stopped, it has applied either everything or
        nothing. If the database is unavailable, the daemon waits until it is available again. Raises `ConfigError` if
        no source has a token, or if the connection to the database would not be protected by TLS.
        """
        _require_a_token(self._config)
        tls.require(self._config.database.url)
        self._systemd.ready("opening the database")  # before opening it, so that the boot does not wait for it
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
        """Do one iteration of the main loop. After a database error, do not use the database for `DATABASE_RETRY_S`."""
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
        """Do the work that is due, with the latest configuration. Raise `StoreError` if the database cannot be used."""
        if self._dispatcher is None:
            store = open_store(self._config, self._clock, create=True, keep_sessions=True)
            self._dispatcher = Dispatcher(self._config, self._scope, store, self._condition)
            log.info("started", sources=[source.name for source in self._config.sources])
        elif self._is_changed:
            self._dispatcher.configure(self._config)
        if self._is_changed:
            # The check opens its own session, because the session of a run also contains the temporary tables of the
            # stage.
            self._condition.checked(probe.differences(self._config.database.url))
            self._is_changed = False
        if _was_set(self._wants_sync):
            self._dispatcher.sync_now()
        self._dispatcher.tick()
        self._report_to_database(self._dispatcher)

    def _reload(self) -> None:
        """Reload the configuration. If the new configuration has mistakes, keep the old one."""
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
        """Send the status line to systemd, and a keep-alive message to systemd's watchdog.

        If a run hangs, send no keep-alive message, so that the watchdog restarts the service. A run that merely takes a
        long time does not count as hung.
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
    """Raise `ConfigError` if no source has a token. If only some sources have a token, the runs of the others fail."""
    mistakes = wiring.token_mistakes(config.sources)
    if len(mistakes) == len(config.sources):
        lines = [line for error in mistakes.values() for line in error.mistakes]
        raise ConfigError(lines, next(iter(mistakes.values())).hint)


def _require_same_database(old: Config, new: Config) -> None:
    if old.database.url != new.database.url:
        raise ConfigError(["database.url has changed, which needs a restart: systemctl restart rostersync"])


def _delete_own_row(store: Store) -> None:
    # If this fails, other processes assume that the daemon is gone once its row is more than a minute old.
    with suppress(StoreError), store.writing() as connection:
        daemons.forget(connection, this_process(PURPOSE))
