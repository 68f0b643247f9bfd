"""Decide how a run ends: with which state, with which watermarks of the source, and with which notices.

The functions here depend only on their arguments. The module `run` collects the facts, and stores the outcome. The
table in tests/unit/test_outcome.py shows which situation has which consequences.

Three rules decide the watermarks:

1. A watermark moves only if all entries of its feed were read and applied, and the run's first response had a `Date`
   header.
2. A watermark moves to the time when the reading of its list started. In a full run, both watermarks move to the time
   when the reading of the roster started.
3. A watermark never moves back, unless one of the old watermarks is in the future.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from rostersync.errors import AccessDenied
from rostersync.report import RunKind, RunOutcome, RunState, SourceState, UnclearCounts, Watermarks
from rostersync.sync.removals import RemovalOutcome
from rostersync.sync.watermarks import advance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from rostersync.errors import ApiError, RunFailed
    from rostersync.sync.lists import ListResult
    from rostersync.sync.refresh import Fetched

_UNCLEAR = "students who could not be fetched and are left unchanged"


class ListsRead(msgspec.Struct, frozen=True):
    """The two lists read by an incremental or full run."""

    kind: RunKind
    students: ListResult
    """The modified feed, or the roster in a full run."""
    deletions: ListResult
    """The deleted feed."""
    dated: bool = True
    """Whether the run's first response had a `Date` header."""
    watermark_in_future: bool = False
    """Whether one of the old watermarks is ahead of the server's clock by more than the overlap."""

    @property
    def empty(self) -> bool:
        """Whether the roster was empty, which may be a temporary fault."""
        return self.kind is RunKind.FULL and self.students.total == 0

    @property
    def clean_roster(self) -> bool:
        """Whether the roster is clean and not empty, so that it contains every student who has a readable id."""
        return self.kind is RunKind.FULL and self.students.clean and not self.empty

    @property
    def swept(self) -> bool:
        """Whether a student who is absent from the roster becomes a candidate for removal.

        The roster must be clean and not empty, and each of its records must have a readable id.
        """
        return self.clean_roster and not self.students.without_ids


class Facts(msgspec.Struct, frozen=True):
    """The facts that decide how an incremental or full run ends."""

    lists: ListsRead
    started_at: datetime
    finished_at: datetime
    unclear: UnclearCounts = UnclearCounts()
    removals: RemovalOutcome = RemovalOutcome()
    odd_values: Mapping[str, int] = {}
    """For each field, the number of records whose value does not fit the field."""
    assumes_utc: bool = False
    """Whether a list had an `updated_at` without an offset from UTC."""


def outcome_of_failure(kind: RunKind, error: ApiError | RunFailed, source: SourceState) -> RunOutcome:
    """Return the outcome of a run that could not read from the API, or that must not apply what it read."""
    denied = isinstance(error, AccessDenied)
    return RunOutcome(kind, RunState.FAILED, source, error.message, error.hint, was_denied=denied)


def outcome_of_refresh(fetched: Fetched, source: SourceState) -> RunOutcome:
    """Return the outcome of a refresh, which leaves the watermarks and dates of its source unchanged."""
    state = RunState.INCOMPLETE if fetched.unclear else RunState.SUCCEEDED
    error = f"{_UNCLEAR}: {fetched.unclear}" if fetched.unclear else None
    gone = f"students who were not found and are left unchanged until the next run: {fetched.gone}"
    return RunOutcome(RunKind.REFRESH, state, source, error, notices=(gone,) if fetched.gone else ())


def outcome_of_lists(facts: Facts, source: SourceState) -> RunOutcome:
    """Return the outcome of an incremental or a full run.

    `source` has the watermarks and dates as they were before the run, but the keys and the fingerprint as they are
    after the run.
    """
    lists, removals = facts.lists, facts.removals
    incomplete = list(_incomplete_reasons(facts))
    state = RunState.INCOMPLETE if incomplete else RunState.HELD if removals.held else RunState.SUCCEEDED
    return RunOutcome(
        lists.kind,
        state,
        _source_after(facts, source),
        error="; ".join(filter(None, (*incomplete, removals.reason))) or None,
        notices=tuple(_notices(facts)),
        guarded=removals.guarded,
        holds=removals.held > 0,
        closes_plans=_closed_plans(lists) if state is RunState.SUCCEEDED else frozenset(),
        swept=lists.swept,
    )


def _incomplete_reasons(facts: Facts) -> Iterator[str]:
    """Yield the reasons why the run is incomplete, if there are any."""
    lists, incremental = facts.lists, facts.lists.kind is RunKind.INCREMENTAL
    if not lists.students.clean:
        yield f"{'the modified feed' if incremental else 'the roster'} kept changing while it was read"
    if incremental and lists.students.without_ids:
        yield "the modified feed lists records without a readable id"
    if incremental and not lists.deletions.clean:
        yield "the deleted feed kept changing while it was read"
    if lists.deletions.without_ids and not lists.swept:
        yield "the deleted feed lists records without a readable id"
    if facts.unclear.total:
        yield f"{_UNCLEAR}: {facts.unclear.total}"


def _source_after(facts: Facts, source: SourceState) -> SourceState:
    """Return the state of the source after the run."""
    lists, before = facts.lists, source.watermarks
    modified_read, deleted_read = _feeds_read(facts)  # rule 1
    if lists.kind is RunKind.FULL:  # rule 2
        modified = deleted = lists.students.moment.start
    else:
        modified, deleted = lists.students.start, lists.deletions.start
    may_go_back = lists.watermark_in_future  # rule 3
    return replace(
        source,
        watermarks=Watermarks(
            advance(before.modified, modified if modified_read and lists.dated else None, replace=may_go_back),
            advance(before.deleted, deleted if deleted_read and lists.dated else None, replace=may_go_back),
        ),
        last_clean_modified_at=facts.started_at if modified_read else source.last_clean_modified_at,
        last_clean_full_at=facts.finished_at if lists.swept and deleted_read else source.last_clean_full_at,
        history_starts_at=source.history_starts_at or facts.finished_at,
        deleted_feed_ignored=lists.deletions.ignored,
    )


def _feeds_read(facts: Facts) -> tuple[bool, bool]:
    """Return whether all changes, and all deletions, since the last watermarks were read and applied.

    If removals are held, the deletions count as not applied, so the next run reads them again.
    """
    modified, deleted = (_in_full_run if facts.lists.kind is RunKind.FULL else _in_incremental_run)(facts)
    return modified, deleted and not facts.removals.held


def _in_full_run(facts: Facts) -> tuple[bool, bool]:
    """Return whether a full run has read all changes and all deletions.

    A clean roster contains every student who has an id. So a record without an id does not make the changes
    incomplete. The roster reveals all deletions only in a sweep. In other runs, the deleted feed must list the
    deletions. One unclear response makes both incomplete, because both watermarks get the time of the roster.
    """
    lists = facts.lists
    modified = lists.clean_roster and not facts.unclear.total
    return modified, modified and (lists.swept or lists.deletions.complete)


def _in_incremental_run(facts: Facts) -> tuple[bool, bool]:
    """Return whether an incremental run has read all changes and all deletions.

    If the response for an id is unclear, the feed that listed the id counts as incomplete.
    """
    lists, unclear = facts.lists, facts.unclear
    modified = lists.students.complete and not unclear.received
    return modified, lists.deletions.complete and not unclear.in_deleted_feed


def _notices(facts: Facts) -> Iterator[str]:
    """Yield the notices. The notices contain ids, field names and counts, but no values from records."""
    lists = facts.lists
    for student in facts.removals.unproved:
        yield f"student {student} of the approved plan could not be proven gone, and stays in the replica"
    if not lists.dated:
        yield "the server sends no Date: watermarks do not move, and every run reads everything until it does"
    if lists.clean_roster and not lists.swept:
        yield "the roster has a record without a readable id, so only the deleted feed can show who has left"
    if lists.empty:
        yield "the API lists no students: is the token allowed to see them? The next run reads everything again"
    if facts.odd_values:
        by_field = ", ".join(f"{name} {number}" for name, number in sorted(facts.odd_values.items()))
        yield f"some values do not fit their fields and are kept in extra; records by field: {by_field}"
    if facts.assumes_utc:
        yield "the API sends an updated_at without an offset from UTC; it is taken as UTC"


def _closed_plans(lists: ListsRead) -> frozenset[RunKind]:
    """Return the kinds of runs whose open plans a successful run closes, because it would have found the same removals.

    A sweep closes all plans. An incremental run closes the plans of earlier incremental runs, but only if it could use
    the deleted feed. Without that feed, it has not seen again the deletions that an earlier run planned.
    """
    if lists.swept:
        return frozenset(RunKind)
    incremental = lists.kind is RunKind.INCREMENTAL and lists.deletions.complete
    return frozenset({RunKind.INCREMENTAL}) if incremental else frozenset()
