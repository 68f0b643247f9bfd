"""Report the daemon's condition in the log, in the output of `systemctl status`, and in a file of failures.

After some failures, such as a full disk, no run is recorded in the database, so only the log would show the failure. We
therefore remember the failure until the next run of that source ends. Until that run ends, the status line shows the
failure, and `rostersync status` reads it from a small file.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec

from rostersync.clock import to_text
from rostersync.daemon.freshness import fresh_until
from rostersync.errors import TRY_AGAIN_LATER, reported
from rostersync.logger import get_logger
from rostersync.report import RunState
from rostersync.store.queue.failures import THE_DAEMON, Failure, write_failures
from rostersync.words import ago, count, some_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from rostersync.clock import Clock
    from rostersync.config import Schedule
    from rostersync.report import RunReport
    from rostersync.store.schema.drift import Drift
    from rostersync.store.status import Health

log = get_logger(__name__)

MOST_SOURCES = 3
"""The largest number of sources that the status line shows one by one. If there are more, it shows a summary."""

_IN_STEP = (RunState.SUCCEEDED, RunState.HELD)


class _Source(msgspec.Struct, frozen=True):
    students: int = 0
    in_step_at: datetime | None = None
    trouble: str = ""


class Condition:
    """What is known about the state of the daemon and its sources. Several threads may use this object."""

    def __init__(self, clock: Clock, file: Path | None) -> None:
        """Create an object that knows no sources and no failures yet.

        Args:
            clock: The clock from which the time of a failure is taken.
            file: The file for the failures, or None if the failures should not be written to a file.

        """
        self._clock, self._file = clock, file
        self._sources: dict[str, _Source] = {}
        self._failures: dict[str, Failure] = {}
        self._lock = threading.Lock()
        self._began = False
        self._drift: list[Drift] = []
        self._mistakes: Sequence[str] = ()

    def refused(self, mistakes: Sequence[str]) -> None:
        """Show the mistakes of a rejected configuration in the status line. An empty list removes the old mistakes."""
        self._mistakes = mistakes

    def checked(self, found: list[Drift]) -> None:
        """Log the differences between the database and this version's schema, and show them in the status line."""
        self._drift = found
        for drift in found:
            log.warning("schema_differs", difference=drift.difference, hint=drift.remedy)

    def began(self) -> None:
        """Overwrite the failures that an earlier daemon wrote to the file. Later calls do nothing."""
        if not self._began:
            self._began = True
            self._write()

    def known(self, source: str, row: Health | None) -> None:
        """Remember the state of a source that is stored in the database. `row` is None if the source has had no run."""
        if row is None:
            return
        good = row.last_state in {None, RunState.SUCCEEDED}
        trouble = "" if good else f"{row.last_state}: {row.last_error}"
        self._sources[source] = _Source(row.live_students, row.last_success_at, trouble)

    def ended(self, report: RunReport, students: int, next_try: datetime | None = None) -> None:
        """Log a run in one line, and remember how the run ended.

        Args:
            report: The report of the run.
            students: The number of students in the replica after the run.
            next_try: The time when a failed run will be retried. None if the run did not fail, or if it is not retried
                before its next slot.

        """
        _log_report(report, next_try)
        at = report.finished_at if report.state in _IN_STEP else self._source(report.source).in_step_at
        trouble = "" if report.state is RunState.SUCCEEDED else f"{report.state}: {report.error}"
        self._sources[report.source] = _Source(students, at, trouble)
        self.recovered(report.source)

    def failed(self, source: str, error: Exception) -> None:
        """Log and remember a failure because of which no run could be recorded. `source` may be `THE_DAEMON`."""
        shown = reported(error)
        known = self._failures.get(source)
        if known is None or known.error != shown.message:  # log a lasting failure once, when it begins
            log.error("run_failed", source=source or None, error=shown.message, hint=_hint(shown.hint), exc_info=error)
        with self._lock:
            self._failures[source] = Failure(source, self._clock.now(), shown.message, _hint(shown.hint))
            self._write()

    def recovered(self, source: str) -> None:
        """Clear the recorded failure of a source. `source` may be `THE_DAEMON`."""
        with self._lock:
            if self._failures.pop(source, None):
                self._write()

    def status_line(
        self, sources: Mapping[str, datetime | None], standing_by: Mapping[str, str], schedule: Schedule
    ) -> str:
        """Return the line that `systemctl status` shows.

        The status line begins with the mistakes of a rejected configuration. If the database cannot be used, or differs
        from this version's schema, the status line shows that problem instead of the state of the sources.

        Args:
            sources: The sources that this daemon syncs, each with the time of its next run.
            standing_by: The sources whose locks other processes hold, each with the process that holds the lock.
            schedule: The configured schedule.

        """
        refused = [f"configuration refused: {some_of(self._mistakes, 1)}"] if self._mistakes else []
        return "; ".join([*refused, self._general_trouble() or self._sources_line(sources, standing_by, schedule)])

    def _general_trouble(self) -> str:
        """Return a description of a problem that affects all sources, or "" if no such problem is known."""
        if failure := self._failures.get(THE_DAEMON):
            return f"waiting for the database: {failure.error}" + (f" ({failure.hint})" if failure.hint else "")
        if self._drift:
            found = some_of([drift.difference for drift in self._drift], 1)
            return f"{found}: run `rostersync db check`, repair it, and reload the service"
        return ""

    def _sources_line(
        self, sources: Mapping[str, datetime | None], standing_by: Mapping[str, str], schedule: Schedule
    ) -> str:
        parts = [f"{source}: standing by: {holder}" for source, holder in standing_by.items()]
        parts += [f"{source}: {self._source_part(source, schedule)}" for source in sources]
        if len(parts) > MOST_SOURCES:
            parts = [self._summary(sources, len(standing_by), schedule)]
        due = min((at for at in sources.values() if at), default=None)
        return "; ".join([*parts, *([f"next {_time(due, schedule.timezone)}"] if due else [])])

    def _source(self, name: str) -> _Source:
        return self._sources.get(name, _Source())

    def _source_part(self, source: str, schedule: Schedule) -> str:
        known, now = self._source(source), self._clock.now()
        if known.in_step_at is None:
            in_step = "never synced"
        else:
            stale = "stale: " if self._is_stale(source, schedule) else ""
            in_step = f"{count(known.students, 'student')}, {stale}in step {_minutes_ago(known.in_step_at, now)}"
        return ", ".join(filter(None, (in_step, self._trouble(source))))

    def _trouble(self, source: str) -> str:
        failure = self._failures.get(source)
        return failure.error if failure else self._source(source).trouble

    def _is_stale(self, source: str, schedule: Schedule) -> bool:
        """Return whether a source's last successful run was too long ago. Return False if no run has succeeded yet."""
        at = self._source(source).in_step_at
        return at is not None and self._clock.now() > fresh_until(schedule, at)

    def _summary(self, sources: Iterable[str], standing_by: int, schedule: Schedule) -> str:
        names = list(sources)
        troubled = [f"{name}: {self._trouble(name)}" for name in names if self._trouble(name)]
        stale = [name for name in names if self._is_stale(name, schedule)]
        never = [name for name in names if self._source(name).in_step_at is None]
        wrong = [
            *([f"{len(troubled)} in trouble: {troubled[0]}"] if troubled else []),
            *([f"{len(stale)} stale: {some_of(stale)}"] if stale else []),
            *([f"{len(never)} never synced: {some_of(never)}"] if never else []),
        ]
        parts = [count(len(names), "source"), *([f"standing by for {standing_by}"] if standing_by else [])]
        successes = [at for name in names if (at := self._source(name).in_step_at)]
        oldest = [f"the oldest success {_minutes_ago(min(successes), self._clock.now())}"] if successes else []
        return ", ".join([*parts, *(wrong or ["all in step"]), *oldest])

    def _write(self) -> None:
        if self._file is not None:
            write_failures(self._file, self._failures.values())


def _minutes_ago(at: datetime, now: datetime) -> str:
    return ago((now - at).total_seconds() // 60 * 60)  # in whole minutes, so that the status line changes less often


def _time(at: datetime, zone: str) -> str:
    return f"{at.astimezone(ZoneInfo(zone)):%H:%M} {zone}"


def _log_report(report: RunReport, next_try: datetime | None) -> None:
    """Log a run in one line that contains ids and counts, but no names."""
    write = {RunState.SUCCEEDED: log.info, RunState.FAILED: log.error}.get(report.state, log.warning)
    facts = report.to_json()
    marks = facts.pop("watermarks")
    facts |= {f"{stream}_watermark": mark for stream, mark in marks.items()}
    facts["next_try"] = next_try and to_text(next_try)
    facts = {key: value for key, value in facts.items() if value is not None}
    write("run_finished", **facts, **_advice(report, next_try))


def _advice(report: RunReport, next_try: datetime | None) -> dict[str, str]:
    if report.counts.removals_held:
        see, approve = (f"rostersync {verb} {report.run_id}" for verb in ("runs show", "sync --approve"))
        return {"hint": f"see which students: {see}; if they are gone, approve: {approve}"}
    if report.notices:
        return {"notice": "; ".join(report.notices)}
    return {"hint": _hint(report.hint, "by itself" if next_try else "at the next slot")} if report.hint else {}


def _hint(hint: str, when: str = "by itself") -> str:
    """Return the hint for the daemon's log. If it says to try again later, say that the daemon will try again."""
    return f"will try again {when}" if hint == TRY_AGAIN_LATER else hint
