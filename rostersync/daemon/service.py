"""The daemon: start, run what is due until asked to stop, stop in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rostersync.daemon.schedule import LastRuns, scheduler
from rostersync.errors import TRY_AGAIN_LATER, ConfigError, RostersyncError, Stopped
from rostersync.logger import get_logger
from rostersync.pool import SHUTDOWN_S, DaemonExecutor
from rostersync.report import RunRequest, RunState, ignore_progress
from rostersync.runs import wiring
from rostersync.store.status import health

if TYPE_CHECKING:
    from rostersync.clock import Clock
    from rostersync.config import Config
    from rostersync.report import RunKind, RunReport
    from rostersync.store import Store

log = get_logger(__name__)

_WHILE = 3600.0


def serve(config: Config, clock: Clock) -> None:
    """Run the configured sources when they are due, until the clock is stopped; then return, with nothing half done.

    Raises `StoreError` when the database cannot be used at the start, `ConfigError` when no source has a token.
    """
    mistakes = wiring.token_mistakes(config.sources)
    if len(mistakes) == len(config.sources):
        lines = [line for error in mistakes.values() for line in error.mistakes]
        raise ConfigError(lines, next(iter(mistakes.values())).hint)
    store = wiring.open_store(config, clock, create=True)
    pool = DaemonExecutor("run", config.sync.sources_at_once)
    runner = Runner(config, clock, store)
    planned = scheduler(config.schedule, _past(config, store), clock.now(), pool, runner.run)
    planned.start()
    log.info("started", sources=[source.name for source in config.sources])
    try:
        while True:
            clock.sleep(_WHILE)
    except Stopped as stopped:
        log.info("stopping", signal=stopped.signal)
    planned.shutdown(wait=False)  # and with it the pool
    if not pool.join(SHUTDOWN_S):
        log.warning("shutdown_timed_out")
    log.info("stopped")


def _past(config: Config, store: Store) -> dict[str, LastRuns]:
    with store.reading() as connection:
        known = {row.source: LastRuns(row.last_success_at, row.last_clean_full_at) for row in health(connection)}
    return {source.name: known.get(source.name, LastRuns()) for source in config.sources}


class Runner:
    """Carries out runs, and logs how each of them ended: a failure is a line in the log, never the daemon's end."""

    def __init__(self, config: Config, clock: Clock, store: Store) -> None:
        self._executor = wiring.executor(config, clock, store, "rostersync run")
        self._wait = config.sync.run_deadline  # for another run of the same source, which may be in progress
        self._clock = clock

    def run(self, source: str, kind: RunKind) -> None:
        """Run `source`, here or in the process that holds its lock; raises nothing."""
        try:
            self._clock.check()  # it may have waited for its place until the process was to end
            _log_report(self._executor.run(RunRequest(source, kind, wait=self._wait), ignore_progress))
        except Stopped:
            log.info("run_stopped", source=source, kind=str(kind))
        except RostersyncError as error:
            log.exception(
                "run_failed", source=source, kind=str(kind), error=error.message, hint=_daemon_hint(error.hint)
            )
        except Exception:  # whatever it is, there is another slot
            log.exception("run_crashed", source=source, kind=str(kind))


def _log_report(report: RunReport) -> None:
    """Log a run in one line: ids and counts, no more."""
    write = {RunState.SUCCEEDED: log.info, RunState.FAILED: log.error}.get(report.state, log.warning)
    facts = report.to_json()
    marks = facts.pop("watermarks")
    facts |= {f"{stream}_watermark": mark for stream, mark in marks.items()}
    write("run_finished", **{key: value for key, value in facts.items() if value is not None}, **_advice(report))


def _advice(report: RunReport) -> dict[str, str]:
    if report.counts.removals_held:
        see, approve = (f"rostersync {verb} {report.run_id}" for verb in ("runs show", "sync --approve"))
        return {"hint": f"see which students: {see}; if they are gone, approve: {approve}"}
    if report.notices:
        return {"notice": "; ".join(report.notices)}
    return {"hint": _daemon_hint(report.hint)} if report.hint else {}


def _daemon_hint(hint: str) -> str:
    """Return a hint as it fits the log of a daemon, which tries again by itself."""
    return "will try again at the next slot" if hint == TRY_AGAIN_LATER else hint
