"""Report the daemon's condition: a log line for each run, the line in `systemctl status`, and a file of failures.

Some failures, such as a full disk, leave no run in the database. They would show only in the log. So we keep such a
failure, show it in the status line, and write it to a small file for `rostersync status`, until the next run of that
source has ended.
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
"""If there are more sources than this, the status line has a summary instead of a part for each source."""

_IN_STEP = (RunState.SUCCEEDED, RunState.HELD)


class _Source(msgspec.Struct, frozen=True):
    students: int = 0
    in_step_at: datetime | None = None
    trouble: str = ""


class Condition:
    """What we know about the daemon and its sources. Several threads may use it."""

    def __init__(self, clock: Clock, file: Path | None) -> None:
        """`file` is the file that failures are written to. If it is None, they are not written."""
        self._clock, self._file = clock, file
        self._sources: dict[str, _Source] = {}
        self._failures: dict[str, Failure] = {}
        self._lock = threading.Lock()
        self._began = False
        self._drift: list[Drift] = []
        self._mistakes: Sequence[str] = ()

    def refused(self, mistakes: Sequence[str]) -> None:
        """Keep the mistakes of a refused configuration for the status line; an empty list clears them."""
        self._mistakes = mistakes

    def checked(self, found: list[Drift]) -> None:
        """Log how the database differs from this version's schema, and keep it for the status line."""
        self._drift = found
        for drift in found:
            log.warning("schema_differs", difference=drift.difference, hint=drift.remedy)

    def began(self) -> None:
        """Replace the failures that an earlier daemon has written. Calls after the first one do nothing."""
        if not self._began:
            self._began = True
            self._write()

    def known(self, source: str, row: Health | None) -> None:
        """Remember what the database knows about a source. `row` is None if the source never ran."""
        if row is None:
            return
        good = row.last_state in {None, RunState.SUCCEEDED}
        trouble = "" if good else f"{row.last_state}: {row.last_error}"
        self._sources[source] = _Source(row.live_students, row.last_success_at, trouble)

    def ended(self, report: RunReport, students: int, next_try: datetime | None = None) -> None:
        """Log a run in one line, and remember how it ended.

        `students` is the number of students in the replica now. `next_try` is when a failed run is tried again, or None
        if that is at its next slot.
        """
        _log_report(report, next_try)
        at = report.finished_at if report.state in _IN_STEP else self._source(report.source).in_step_at
        trouble = "" if report.state is RunState.SUCCEEDED else f"{report.state}: {report.error}"
        self._sources[report.source] = _Source(students, at, trouble)
        self.recovered(report.source)

    def failed(self, source: str, error: Exception) -> None:
        """Log and keep a failure that left no run in the database. `source` may be `THE_DAEMON`."""
        shown = reported(error)
        known = self._failures.get(source)
        if known is None or known.error != shown.message:  # log a lasting failure once, when it begins
            log.error("run_failed", source=source or None, error=shown.message, hint=_hint(shown.hint), exc_info=error)
        with self._lock:
            self._failures[source] = Failure(source, self._clock.now(), shown.message, _hint(shown.hint))
            self._write()

    def recovered(self, source: str) -> None:
        """Forget the failure of a source, or of the daemon itself."""
        with self._lock:
            if self._failures.pop(source, None):
                self._write()

    def status_line(
        self, sources: Mapping[str, datetime | None], standing_by: Mapping[str, str], schedule: Schedule
    ) -> str:
        """Return the line that `systemctl status` shows.

        `sources` are the sources that the daemon holds, with the time of their next run. `standing_by` are the other
        sources, with the process that holds each. A refused configuration is reported first. If the database cannot be
        used, or differs from this version's schema, the line says that instead of the sources' condition.
        """
        refused = [f"configuration refused: {some_of(self._mistakes, 1)}"] if self._mistakes else []
        return "; ".join([*refused, self._general_trouble() or self._sources_line(sources, standing_by, schedule)])

    def _general_trouble(self) -> str:
        """Return the trouble that concerns all sources, or "" if all is well."""
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
        """Return whether a source's last success is no longer fresh. False if the source was never synced."""
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
    return ago((now - at).total_seconds() // 60 * 60)  # in whole minutes, so that the line does not change every second


def _time(at: datetime, zone: str) -> str:
    return f"{at.astimezone(ZoneInfo(zone)):%H:%M} {zone}"


def _log_report(report: RunReport, next_try: datetime | None) -> None:
    """Log a run in one line that holds ids and counts, but no names."""
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
    """Return a hint for the daemon's log. A hint to try again later becomes a note that the daemon will do so."""
    return f"will try again {when}" if hint == TRY_AGAIN_LATER else hint
