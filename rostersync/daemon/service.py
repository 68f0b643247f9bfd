"""The daemon: start, do what is due until asked to stop, stop in order; and what systemd is told meanwhile."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from rostersync.clock import WatchedClock
from rostersync.daemon.condition import Condition
from rostersync.daemon.dispatcher import PURPOSE, Dispatcher
from rostersync.daemon.systemd import Systemd
from rostersync.errors import ConfigError, Stopped, StoreError
from rostersync.logger import get_logger
from rostersync.runs import wiring
from rostersync.store import daemons, open_store, probe, tls
from rostersync.store.failures import THE_DAEMON, failures_file
from rostersync.store.holders import this_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.clock import Clock
    from rostersync.config import Config
    from rostersync.store import Store

log = get_logger(__name__)

TICK_S = 0.5
"""How often the daemon looks what there is to do."""

TELL_EVERY_S = 10.0
"""How often it tells in the database that it is there."""

DATABASE_RETRY_S = 5.0
"""How long it waits for a database that cannot be used."""


class Daemon:
    """Keeps the configured sources in step, until its clock is stopped."""

    def __init__(self, config: Config, load: Callable[[], Config], clock: Clock) -> None:
        """`load` reads the configuration again, and raises `ConfigError` when it is wrong."""
        self._config, self._load = config, load
        self._clock = WatchedClock(clock)
        self._systemd = Systemd(clock)
        self._condition = Condition(self._clock, failures_file(config.database.url))
        self._wants_reload, self._wants_sync = threading.Event(), threading.Event()
        self._dispatcher: Dispatcher | None = None  # until the database is open
        self._is_changed = True  # whether the dispatcher has yet to get the configuration
        self._rests_until = self._told_at = float("-inf")

    def reload(self) -> None:
        """Ask for the configuration to be read again; returns at once."""
        self._wants_reload.set()

    def sync_now(self) -> None:
        """Ask for a sync of every source; returns at once."""
        self._wants_sync.set()

    def serve(self) -> None:
        """Run the sources when they are due, or when somebody asks; return when the clock is stopped.

        Nothing is half done then. While the database cannot be used, the daemon waits for it. Raises `ConfigError` if
        no source has a token, or if the way to the database is not protected.
        """
        _require_a_token(self._config)
        tls.require(self._config.database.url)
        self._systemd.ready("opening the database")  # a start, and so a boot, does not wait for it
        try:
            while True:
                self._do_what_there_is()
        except Stopped as stopped:
            log.info("stopping", signal=stopped.signal)
        self._systemd.stopping()
        if self._dispatcher is not None:
            self._dispatcher.stop()
            _take_row_away(self._dispatcher.store)
            self._dispatcher.store.close()
        log.info("stopped")

    def _do_what_there_is(self) -> None:
        """Do one round. If the database fails in it, the next one is tried some seconds later."""
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
        self._tell_systemd()
        self._clock.sleep(TICK_S)

    def _work(self) -> None:
        """Do what is due, with the latest configuration. Raises `StoreError` where the database cannot be used."""
        if self._dispatcher is None:
            store = open_store(self._config, self._clock, create=True, keep_sessions=True)
            self._dispatcher = Dispatcher(self._config, self._clock, store, self._condition)
            log.info("started", sources=[source.name for source in self._config.sources])
        elif self._is_changed:
            self._dispatcher.configure(self._config)
        if self._is_changed:
            self._condition.checked(probe.differences(self._config.database.url))  # not in a session with a stage
            self._is_changed = False
        if _was_set(self._wants_sync):
            self._dispatcher.sync_now()
        self._dispatcher.tick()
        self._tell_database(self._dispatcher)

    def _reload(self) -> None:
        """Go on with the configuration as it is in the file now; with the old one, where that is wrong."""
        self._systemd.reloading()
        try:
            config = self._load()
            _require_same_database(self._config, config)
            _require_a_token(config)
        except ConfigError as error:
            log.exception("reload_failed", error="; ".join(error.mistakes), hint="the daemon goes on as before")
            self._condition.refused(error.mistakes)
        else:
            for source, mistake in wiring.token_mistakes(config.sources).items():
                log.warning("token_missing", source=source, error=mistake.message, hint=mistake.hint)
            self._config, self._is_changed = config, True
            self._condition.refused(())
            log.info("reloaded", sources=[source.name for source in config.sources])

    def _tell_database(self, dispatcher: Dispatcher) -> None:
        if self._clock.monotonic() - self._told_at < TELL_EVERY_S:
            return
        with dispatcher.store.writing() as connection:
            daemons.tell(connection, this_process(PURPOSE), dispatcher.watches(), self._clock.now())
        self._told_at = self._clock.monotonic()

    def _tell_systemd(self) -> None:
        """Keep the status line, and the watchdog: a run that hangs lets it end this process, a long one does not."""
        self._systemd.ready(self._status_line())
        watchdog = self._systemd.watchdog_s
        hung = self._dispatcher.hung(watchdog) if self._dispatcher and watchdog else []
        if hung:
            log.error("run_hangs", sources=hung, hint="the watchdog of systemd restarts the service")
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
    """Raise `ConfigError` when no source has a token; one that lacks its own fails alone, in each of its slots."""
    mistakes = wiring.token_mistakes(config.sources)
    if len(mistakes) == len(config.sources):
        lines = [line for error in mistakes.values() for line in error.mistakes]
        raise ConfigError(lines, next(iter(mistakes.values())).hint)


def _require_same_database(old: Config, new: Config) -> None:
    if old.database.url != new.database.url:
        raise ConfigError(["database.url has changed, which needs a restart: systemctl restart rostersync"])


def _take_row_away(store: Store) -> None:
    with suppress(StoreError), store.writing() as connection:  # else it is known to be gone a minute later
        daemons.forget(connection, this_process(PURPOSE))
