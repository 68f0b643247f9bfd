"""Print how runs ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rostersync.cli.output import echo, mark
from rostersync.cli.program import print_error, print_stderr
from rostersync.cli.verbosity import is_quiet
from rostersync.report import Counts, RunState
from rostersync.words import count, moment, span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rostersync.cli.options import Session
    from rostersync.errors import RostersyncError
    from rostersync.report import RunReport
    from rostersync.runs.batch import Outcome

COLOURS = {RunState.SUCCEEDED: "green", RunState.FAILED: "red", RunState.DRY_RUN: "cyan"}

_PARTS = ("inserted", "updated", "unchanged", "restored", "quarantined", "ignored")


def show(outcome: Outcome, session: Session) -> None:
    """Print how a source's run ended, with its figures on standard output and its problems on standard error.

    With -q, the figures are printed only for a dry run.
    """
    if outcome.report is not None:
        if not is_quiet() or outcome.report.state is RunState.DRY_RUN:  # the user starts a dry run to see its figures
            show_run(outcome.report)
        explain(outcome, session)
    elif outcome.error is not None:
        _print_error(outcome.error, outcome.source)


def show_run(report: RunReport) -> None:
    """Print how a run ended, its counts, its watermarks, and how many requests it made."""
    state = mark(_ending(report), _colour(report))
    what = report.kind if report.run_id is None else f"{report.kind} run {report.run_id}"
    echo(f"{report.source}: {what} ", state, f" in {span(report.duration_s)}")
    if not _has_failed(report):
        echo(f"  {figures(report.counts)}")
    marks = report.watermarks
    echo(f"  watermarks: modified {moment(marks.modified)}, deleted {moment(marks.deleted)}")
    echo(f"  {count(report.requests, 'request')}, {count(report.retries, 'retry')}")


def show_reasons(error: str | None, notices: Iterable[str]) -> None:
    """Print a run's error, if it has one, and its notices."""
    if error:
        echo(f"  why: {error}")
    for notice in notices:
        echo(f"  note: {notice}")


def explain(outcome: Outcome, session: Session) -> None:
    """Print a run's notices, its error and what to do next on standard error."""
    report = outcome.report
    if report is None:
        if outcome.error is not None:
            _print_error(outcome.error, outcome.source)
        return
    for notice in report.notices:
        print_stderr(f"{report.source}: {notice}", logging.WARNING)
    if outcome.exit_status:
        print_stderr(f"{report.source}: {_ending(report)}: {report.error or 'for an unknown reason'}")
        if hint := _hint(report, session):
            print_stderr(f"hint: {hint}")


def _print_error(error: RostersyncError, source: str) -> None:
    print_error(error, "" if f"source {source}" in error.message else source)


def _hint(report: RunReport, session: Session) -> str:
    if report.counts.removals_held and report.run_id is not None:
        see, approve = (session.command(f"{verb} {report.run_id}") for verb in ("runs show", "sync --approve"))
        return f"see which students: {see}; if these students have really left, approve their removal: {approve}"
    if report.state is RunState.INCOMPLETE:
        return "the records that could be read were applied; the next run reads the rest"
    return report.hint


def _ending(report: RunReport) -> str:
    """Return a description of how a run ended. For a dry run, describe how a real run would have ended."""
    if report.state is not RunState.DRY_RUN:
        return str(report.state)
    if not report.exit_status:
        return "dry run"
    if _has_failed(report):
        return "dry run failed"
    would_be = RunState.HELD if report.exit_status == RunState.HELD.exit_status else RunState.INCOMPLETE
    return f"dry run, would be {would_be}"


def _has_failed(report: RunReport) -> bool:
    """Return whether a run failed. A dry run failed if its exit status means failure and all its counts are 0."""
    if report.state is RunState.DRY_RUN:
        return report.exit_status == RunState.FAILED.exit_status and report.counts == Counts()
    return report.state is RunState.FAILED


def _colour(report: RunReport) -> str:
    if report.state is RunState.DRY_RUN and report.exit_status:
        return "red" if _has_failed(report) else "yellow"
    return COLOURS.get(report.state, "yellow")


def figures(counts: Counts) -> str:
    """Return a run's counts in words. Counts that are 0 are left out."""
    parts = [f"{getattr(counts, name):,} {name}" for name in _PARTS if getattr(counts, name)]
    received = [f"{counts.fetched:,} received: {', '.join(parts)}"] if parts else []
    return "; ".join([*received, *_other_figures(counts)]) or "no changes"


def _other_figures(counts: Counts) -> list[str]:
    """Describe the counts of removed students, held removals and stale rows. Counts that are 0 are left out."""
    words = (
        (counts.deleted, f"{counts.deleted:,} removed"),
        (counts.removals_held, f"{count(counts.removals_held, 'removal')} held"),
        (counts.stale, f"{counts.stale:,} received stale"),
    )
    return [text for number, text in words if number]
