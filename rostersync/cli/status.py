"""`rostersync status`: show how fresh each source is, who syncs it, which runs are due, and what needs attention."""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import asdict

from rostersync.cli import nagios
from rostersync.cli.options import Duration, configured, json_option
from rostersync.cli.output import as_json_values, document, echo, mark
from rostersync.cli.program import print_stderr
from rostersync.cli.reports import show_reasons
from rostersync.daemon.freshness import fresh_until
from rostersync.errors import ConfigError, StoreError
from rostersync.report import RequestState, RunState
from rostersync.store import probe
from rostersync.store.queue import daemons, requests
from rostersync.store.queue.failures import THE_DAEMON, failures_file, read_failures
from rostersync.store.status import health
from rostersync.store.store import open_store
from rostersync.words import ago, count, moment, some_of, span

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from rostersync.cli.options import Session
    from rostersync.config import Schedule
    from rostersync.store.queue.daemons import Watch
    from rostersync.store.queue.failures import Failure
    from rostersync.store.queue.requests import OpenRequest
    from rostersync.store.status import Health
    from rostersync.store.store import Store

_FRESH, _STALE, _NEVER = "fresh", "stale", "never synced"

_MOST_IN_FULL = 20
"""If there are more sources than this, show only the sources with problems, unless --all or --source is given."""


@click.command(cls=nagios.MonitoredCommand)
@click.option(
    "--max-age",
    type=Duration(),
    help="Exit with 1 if a configured source was never synced, or if its last success is older than this.",
)
@click.option(
    "--source", "globs", multiple=True, metavar="GLOB", help="Show only sources with a matching name; may be repeated."
)
@click.option("--all", "show_each", is_flag=True, help="Show each source in full, even if there are more than 20.")
@click.option(
    "--nagios",
    "for_monitor",
    is_flag=True,
    help="Print one line with perfdata, and exit with the status of a Nagios plugin.",
)
@json_option
@configured
def command(
    session: Session,
    *,
    max_age: timedelta | None,
    globs: tuple[str, ...],
    show_each: bool,
    for_monitor: bool,
    as_json: bool,
) -> int:
    """Show how fresh each source is, which process is syncing it, what is queued and due, and what needs attention.

    The command also shows why the last run failed, which removals wait for approval, and how many records are in
    quarantine. If there are more than 20 sources, only a summary and the sources with problems are shown. A source is
    stale if its last success is older than the limit, which is two slots of the schedule plus the jitter plus one hour.
    --max-age sets another limit. Exit status: 0. With --max-age, the exit status is 1 if a configured source is stale
    or was never synced, or if the database differs from this version's schema. With --nagios, the exit status is 0 if
    everything is OK, 1 if a source is in trouble or the schema differs, 2 if a source is stale or was never synced, 3
    if the state is unknown.
    """
    if for_monitor and as_json:
        raise ConfigError(["--nagios and --json cannot be combined"])
    sources = _chosen(_sources(session, max_age), globs)
    differences = _differences(session)
    if for_monitor:
        return _answer_monitor([source for source in sources if source.is_configured], differences, max_age)
    if as_json:
        document({"sources": [_json(source) for source in sources], "schema_differences": differences})
    else:
        _show(sources, differences, session, in_full=show_each or bool(globs))
    return 0 if max_age is None else _judge(sources, differences, max_age)


class _Source(msgspec.Struct, frozen=True):
    name: str
    is_configured: bool
    health: Health | None
    freshness: str
    holder: str | None
    """The process that holds the source's lock now."""
    daemons: dict[str, Watch]
    """The daemons that are responsible for this source, by name. One of these daemons may hold the source, and the
    other daemons are standing by.
    """
    requests: tuple[OpenRequest, ...]
    failure: Failure | None

    @property
    def is_troubled(self) -> bool:
        """Whether the source is configured and in trouble.

        A source is in trouble if its last run did not succeed, if removals wait for approval, or if the daemon fails.
        """
        row = self.health
        unwell = row and (row.last_state not in {None, RunState.SUCCEEDED} or row.held_run_id is not None)
        return self.is_configured and bool(unwell or self.failure)

    @property
    def daemon(self) -> str | None:
        """The daemon that holds the source's lock, or None if no daemon holds it."""
        return self.holder if self.holder in self.daemons else None

    @property
    def standing_by(self) -> list[str]:
        """The daemons that are standing by for the source."""
        return [name for name, watch in self.daemons.items() if watch.standby and name != self.holder]

    @property
    def next_runs(self) -> dict[str, datetime]:
        """The time of the next run of each kind, earliest first."""
        watch = self.daemons.get(self.holder or "")
        due = sorted(watch.next_runs.items(), key=lambda run: run[1]) if watch else []
        return {str(kind): at for kind, at in due}


def _chosen(sources: list[_Source], globs: tuple[str, ...]) -> list[_Source]:
    """Return the sources with a name that matches one of the patterns. If `globs` is empty, return all sources.

    Raises `ConfigError` if a pattern matches no source.
    """
    unmatched = [glob for glob in globs if not any(fnmatchcase(source.name, glob) for source in sources)]
    if unmatched:
        raise ConfigError([f"--source {glob}: no source has such a name" for glob in unmatched])
    return [source for source in sources if not globs or any(fnmatchcase(source.name, glob) for glob in globs)]


def _sources(session: Session, max_age: timedelta | None = None) -> list[_Source]:
    """Return the configured sources in their order, followed by the sources that only the database knows.

    A source is stale if its last success is older than `max_age`. If `max_age` is None, the limit depends on the
    schedule. Raises `StoreError` if the database cannot be used. If the daemon has failed too, its failure is printed
    first, because both may have the same cause.
    """
    failures = {failure.source: failure for failure in read_failures(failures_file(session.config.database.url))}
    try:
        return _gather(session, open_store(session.config, session.clock, create=False), failures, max_age)
    except StoreError:
        if THE_DAEMON in failures:
            print_stderr(_failed(failures[THE_DAEMON], session.clock.now()))
        raise


def _differences(session: Session) -> list[str]:
    """Return how the database differs from this version's schema, or an empty list if a comparison is impossible."""
    with suppress(StoreError):  # the comparison creates tables, which is impossible on a standby server, for example
        return [found.difference for found in probe.differences(session.config.database.url)]
    return []


def _gather(session: Session, store: Store, failures: dict[str, Failure], max_age: timedelta | None) -> list[_Source]:
    now = session.clock.now()
    with store.reading() as connection:
        known = {row.source: row for row in health(connection)}
        watches, waiting = daemons.alive(connection, now), requests.open_requests(connection, now)
    wanted = [source.name for source in session.config.sources]
    return [
        _Source(
            name,
            name in wanted,
            known.get(name),
            _freshness(known.get(name), session.config.schedule, max_age),
            _holder(store, name, known.get(name)),
            daemons={daemon.name: daemon.sources[name] for daemon in watches if name in daemon.sources},
            requests=tuple(request for request in waiting if request.source == name),
            failure=failures.get(name) or failures.get(THE_DAEMON),
        )
        for name in dict.fromkeys([*wanted, *known])
    ]


def _freshness(row: Health | None, schedule: Schedule, max_age: timedelta | None) -> str:
    """Return `fresh`, `stale` or `never synced`. `row.age_seconds` comes from the database's clock."""
    if row is None or row.last_success_at is None or row.age_seconds is None:
        return _NEVER
    limit = max_age or fresh_until(schedule, row.last_success_at) - row.last_success_at
    return _STALE if row.age_seconds > limit.total_seconds() else _FRESH


def _holder(store: Store, name: str, row: Health | None) -> str | None:
    """Return the process that holds the source's lock now, or None if the lock is free."""
    return ((row and row.holder) or "another process") if store.is_held(name) else None


def _json(source: _Source) -> dict[str, Any]:
    facts = asdict(source.health) if source.health else {"source": source.name}
    facts.pop("holder", None)
    return {
        **as_json_values(facts),
        "configured": source.is_configured,
        "freshness": source.freshness,
        "lock_holder": source.holder,
        "daemon": source.daemon,
        "standing_by": source.standing_by,
        "next_runs": as_json_values(source.next_runs),
        "requests": [as_json_values(asdict(request)) for request in source.requests],
        "failure": as_json_values(asdict(source.failure)) if source.failure else None,
    }


def _judge(sources: list[_Source], differences: list[str], max_age: timedelta) -> int:
    """Print the configured sources that are stale or were never synced, and return the exit status."""
    status, limit = int(bool(differences)), max_age.total_seconds()
    for source in sources:
        age = source.health.age_seconds if source.health else None
        if source.is_configured and source.freshness != _FRESH:
            how = "it was never synced" if age is None else f"last success {ago(age)}"
            print_stderr(f"{source.name}: older than {span(int(limit))}: {how}")
            status = 1
    return status


def _answer_monitor(sources: list[_Source], differences: list[str], max_age: timedelta | None) -> int:
    """Print the state of the configured sources in the format of a Nagios plugin, and return the exit status."""
    if not sources:
        return nagios.answer(nagios.UNKNOWN, "no configured source has such a name")
    wrong, in_step = _wrong(sources), sum(source.freshness == _FRESH for source in sources)
    figures = {"sources": len(sources), "in_step": in_step}
    figures |= {word.replace(" ", "_"): len(names) for word, names in wrong.items()}
    perfdata = [f"{label}={number};;;0" for label, number in figures.items()]
    ages = [source.health.age_seconds for source in sources if source.health and source.health.age_seconds is not None]
    if ages:
        perfdata.append(f"oldest_success={max(ages)}s;;{int(max_age.total_seconds()) if max_age else ''};0")
    parts = [f"{count(len(sources), 'source')}: {in_step} in step"]
    parts += [f"{len(names)} {word}: {some_of(names)}" for word, names in wrong.items() if names]
    parts += [f"schema differs: {some_of(differences, 1)}"] if differences else []
    in_trouble = nagios.WARNING if len(parts) > 1 else nagios.OK
    return nagios.answer(nagios.CRITICAL if in_step < len(sources) else in_trouble, ", ".join(parts), perfdata)


def show_all(session: Session) -> None:
    """Print the state of every source. Raise `NoDatabase` if there is no database yet."""
    _show(_sources(session), _differences(session), session, in_full=True)


def _show(sources: list[_Source], differences: list[str], session: Session, *, in_full: bool) -> None:
    now = session.clock.now()
    if differences:
        echo(mark("schema differs", "yellow"), f": {some_of(differences, 1)}; see: {session.command('db check')}")
    _show_summary([source for source in sources if source.is_configured])
    in_full = in_full or len(sources) <= _MOST_IN_FULL
    wrong = [s for s in sources if s.is_configured and (s.is_troubled or s.freshness != _FRESH)]
    for source in sources if in_full else wrong:
        _show_health(source, session)
        if source.failure:
            echo("  ", mark("failing", "red"), f": {_failed(source.failure, now)}")
        _show_work(source, now)
    if not in_full:
        left = len(sources) - len(wrong)
        echo(f"other sources: {left}; to see them: {session.command('status --all')}")


def _show_summary(sources: list[_Source]) -> None:
    """Print how many sources are in step, and the names of the sources that are not in step or are in trouble."""
    if len(sources) < 2:  # noqa: PLR2004 - one source needs no summary
        return
    echo(f"{count(len(sources), 'source')}: {sum(source.freshness == _FRESH for source in sources)} in step")
    for word, names in _wrong(sources).items():
        if names:
            echo("  ", mark(word, "yellow"), f" ({len(names)}): {', '.join(names)}")


def _wrong(sources: list[_Source]) -> dict[str, list[str]]:
    """Return the names of the sources that need attention, under the keys `stale`, `never synced` and `in trouble`."""
    late = {word: [source.name for source in sources if source.freshness == word] for word in (_STALE, _NEVER)}
    return late | {"in trouble": [source.name for source in sources if source.is_troubled]}


def _failed(failure: Failure, now: datetime) -> str:
    advice = f" (hint: {failure.hint})" if failure.hint else ""
    return f"the daemon, {ago((now - failure.at).total_seconds())}: {failure.error}{advice}"


def _show_work(source: _Source, now: datetime) -> None:
    """Print which process syncs the source, what is queued, and when the next runs are due."""
    if source.daemon:
        due = [
            f"next {kind} run {_in(at, now)}" for kind, at in sorted(source.next_runs.items(), key=lambda due: due[1])
        ]
        echo("  ", "; ".join([f"daemon: {source.daemon}", *due]))
    elif source.holder:
        echo(f"  sync in progress: {source.holder}")
    for daemon in source.standing_by:
        echo(f"  standing by: {daemon}")
    for request in source.requests:
        state = "in progress" if request.state == RequestState.TAKEN else "queued"
        asked = f"request {request.request_id}, {ago((now - request.requested_at).total_seconds())}"
        echo(f"  {state}: {request.kind} run ({asked})")


def _in(at: datetime, now: datetime) -> str:
    seconds = int((at - now).total_seconds())
    return f"in {span(seconds)}" if seconds > 0 else "now"


def _show_health(source: _Source, session: Session) -> None:
    row = source.health
    if row and not source.is_configured:
        left = f"; still in the database: {count(row.live_students, 'student')}"
        echo(f"{source.name}: ", mark("no longer configured", "yellow"), left)
    elif row is None or row.last_run_id is None:
        echo(f"{source.name}: ", mark("never run", "yellow"), f"; to begin: {session.command('sync')}")
    else:
        _show_figures(row, stale=source.freshness == _STALE)
        _show_last_run(row)
        _show_troubles(row, session)


def _show_figures(row: Health, *, stale: bool) -> None:
    age = "no success yet" if row.age_seconds is None else f"last success {ago(row.age_seconds)}"
    colour = "green" if row.last_state == RunState.SUCCEEDED else "yellow"
    aged = (", ", mark("stale", "yellow")) if stale else ()
    echo(f"{row.source}: {age}", *aged, f"; run {row.last_run_id} ", mark(str(row.last_state), colour))
    people = f"{count(row.live_students, 'student')}, {row.deleted_students:,} deleted"
    echo(f"  {people}, {row.quarantined:,} in quarantine")
    echo(f"  watermarks: modified {moment(row.modified_watermark)}, deleted {moment(row.deleted_watermark)}")
    echo(f"  last full read: {moment(row.last_clean_full_at)}")


def _show_last_run(row: Health) -> None:
    """Print the last run's error and notices. If the run's success is ignored, print the reason."""
    show_reasons(row.last_error, row.last_notices or ())
    succeeded = row.last_state in {RunState.SUCCEEDED, RunState.HELD}
    if succeeded and row.last_finished_at != row.last_success_at:
        advice = "so the run does not count as a success: check the clock of this machine"
        when = f" ({moment(row.last_finished_at)}), {advice}"
        echo(f"  run {row.last_run_id} ended ", mark("in the future", "yellow"), when)


def _show_troubles(row: Health, session: Session) -> None:
    if row.held_run_id is not None:
        run_id = row.held_run_id
        echo("  ", mark("held", "yellow"), f": the removals of run {run_id} wait for approval")
        echo(f"    to see them:     {session.command(f'runs show {run_id}')}")
        echo(f"    to approve them: {session.command(f'sync --approve {run_id}')}")
    if row.details_waiting:
        waiting = count(row.details_waiting, "student")
        reason, most = "ManageBac's lists lack some fields", "each run requests up to sync.details_per_run"
        echo(f"  {waiting} still to be requested one by one, because {reason}; {most}")
    if row.deleted_feed_ignored:
        echo("  the API does not report deletions: only full runs find them")
