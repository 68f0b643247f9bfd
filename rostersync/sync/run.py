"""One run of a source: read, stage, reconcile, guard, and commit once.

`Run.execute` has the steps. Other modules document what a step relies on: `lists` for reading, `removals` for the proof
of removals, `watermarks` for the times that a run reads from, and `store.replica.commit` for the one transaction.
Only this module and `verify` bring the API and the database together.
"""

from __future__ import annotations

import secrets
from collections import Counter
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from rostersync.clock import to_milliseconds
from rostersync.errors import AccessDenied, ApiError, RunFailed
from rostersync.logger import get_logger
from rostersync.records import Query, Rejected, Student
from rostersync.report import Counts, RunKind, RunReport, RunState, SourceState, Watermarks
from rostersync.store.replica import runs
from rostersync.store.replica.commit import RunResult
from rostersync.store.replica.comparison import Comparison
from rostersync.store.replica.state import (
    live_students,
    quarantined,
    recent_removals,
    some_living,
    source_state,
    with_digests,
)
from rostersync.sync import guard, refresh, watermarks
from rostersync.sync.api import ask, fetch_stale, stage_living
from rostersync.sync.details import Details
from rostersync.sync.lists import ListReader
from rostersync.sync.removals import Removals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from rostersync.clock import Clock
    from rostersync.records import Page
    from rostersync.report import ProgressCallback, RunRequest, UnclearCounts
    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api
    from rostersync.sync.lists import ListResult
    from rostersync.sync.removals import RemovalOutcome

log = get_logger(__name__)

QUARANTINE_LIMIT = 100
"""The most quarantined records that one run asks for again."""

KNOWN_STUDENT_SAMPLE = 20
"""How many known students to ask for if a source's token or address is new."""

_UNCLEAR = "students who could not be fetched, and stay as they are"


class CrawlResult(msgspec.Struct, frozen=True):
    """What a run has read. `modified` is the modified feed, or the roster in a full run."""

    kind: RunKind
    modified: ListResult
    deleted: ListResult
    dated: bool
    """Whether the run's first response had a `Date`. Without one no watermark moves."""
    replaces: bool
    """Whether one of the old watermarks lies in the future. If so, the new ones replace both."""
    swept: bool = False
    """Whether a student who is absent from the roster becomes a candidate for removal.

    The roster must be clean and not empty, and each of its records must have a readable id.
    """

    @property
    def empty(self) -> bool:
        """Whether the roster had no students. That may be a passing fault, so no watermark moves."""
        return self.kind is RunKind.FULL and self.modified.total == 0


class Run:
    """One run of one source. Call `execute` only once."""

    def __init__(
        self,
        source: str,
        connection: Connection,
        stage: Stage,
        api: Api,
        *,
        policy: watermarks.SyncPolicy,
        clock: Clock,
        progress: ProgressCallback,
        commit: Callable[[RunResult], int] | None,
    ) -> None:
        """Prepare a run. `commit` writes a result and returns the run's number; None makes a dry run."""
        self._source = source
        self._connection = connection
        self._stage = stage
        stage.room.most_bytes = policy.stage_bytes
        self._api = api
        self._policy = policy
        self._clock = clock
        self._reader = ListReader(api, stage, policy.attempts, progress)
        self._commit = commit
        self._started_at = to_milliseconds(clock.now())
        self._started = clock.monotonic()
        self._state = source_state(connection, source)
        # A record that equals the stored one need not be staged, unless it is combined with a detail. Before the first
        # run nothing is stored, so there is nothing to compare with.
        stage.students.in_full = self._state.has_details or self._state.history_starts_at is None
        self._salt = self._state.salt or secrets.token_bytes(16)
        keys = replace(self._state.keys, salt=self._salt)
        self._details = Details(
            api,
            stage,
            keys,
            has_details=self._state.has_details,
            budget=policy.details_per_run,
            now=self._started_at,
        )

    def execute(self, request: RunRequest) -> RunReport:
        """Do the run and return its report. If the run cannot read, the report says so, and it is recorded as well.

        Raises `StoreError` if the database fails, and `Stopped` if the process must stop. Then the run is not recorded.
        """
        kind = watermarks.choose(request.kind, self._state, self._started_at, self._policy)
        try:
            self._require_open_plan(request)
            self._require_same_school()
            result = self._refresh(request) if kind is RunKind.REFRESH else self._sync(kind, request)
        except (ApiError, RunFailed) as error:  # it could not read, or read something that it must not apply
            report = self._report(kind, RunState.FAILED, Counts(), self._state.watermarks, error.message)
            report = replace(report, hint=error.hint, was_denied=isinstance(error, AccessDenied))
            result = RunResult(report, self._state, request.request_id)
        if self._commit is None:
            return replace(result.report, state=RunState.DRY_RUN)
        return replace(result.report, run_id=self._commit(result))

    def _sync(self, kind: RunKind, request: RunRequest) -> RunResult:
        """Read the whole school, or its changes, and return what the run will write."""
        crawl = self._crawl(kind)
        received = self._stage.received()
        guard.check_rejection_rate(received.news, received.undecodable_news)
        self._revisit_quarantine()  # after the check: old bad records do not mean that the API has changed
        return self._reconcile(crawl, request)

    def _refresh(self, request: RunRequest) -> RunResult:
        """Fetch single students, and return what to write about those who live.

        The source's watermarks and dates do not change. Raises `RunFailed` if no run has stored anything yet, because a
        replica of these students alone would look like the whole school.
        """
        if self._state.history_starts_at is None:
            raise RunFailed(f"source {self._source} has no replica yet", "the first run makes it: rostersync sync")
        fetched = refresh.fetch(self._api, self._stage, request.ids)
        self._details.ask_for(request.ids)
        self._combine(settled_before=None)
        counts = Comparison(self._stage).judge()
        state = RunState.INCOMPLETE if fetched.unclear else RunState.SUCCEEDED
        reason = f"{_UNCLEAR}: {fetched.unclear}" if fetched.unclear else None
        report = self._report(request.kind, state, counts, self._state.watermarks, reason)
        after = replace(self._state, keys=self._details.keys)
        return RunResult(replace(report, notices=fetched.notices), after, request.request_id)

    def _require_open_plan(self, request: RunRequest) -> None:
        """Raise `RunFailed` if the plan was closed while its approval waited."""
        if request.approves is not None and runs.open_hold(self._connection, request.approves) is None:
            hint = "`rostersync status` shows what is held now"
            raise RunFailed(f"the plan of run {request.approves} is no longer open: it was approved or has ended", hint)

    def _require_same_school(self) -> None:
        """Raise `RunFailed` if the token or the address is new, and the API has none of the known students."""
        before = self._state
        if before.salt is None or self._api.fingerprint(before.salt) == before.fingerprint:
            return
        known = some_living(self._connection, self._source, KNOWN_STUDENT_SAMPLE)
        if not known or self._knows_any(known):
            return
        message = f"token or base_url of source {self._source} changed, and the API has none of its known students"
        hint = "if this is another school, give it another name, and purge the old one: rostersync source forget NAME"
        raise RunFailed(message, hint)

    def _knows_any(self, ids: list[int]) -> bool:
        """Return whether the API has a record, living or deleted, for one of `ids`. Another school has none."""
        answers = (answer for _, answer in self._api.answers(ids))
        return bool(self._api.by_ids(ids)) or any(isinstance(answer, Student | Rejected) for answer in answers)

    # Reading -------------------------------------------------------------------------------------------------

    def _crawl(self, kind: RunKind) -> CrawlResult:
        """Read both feeds, or the roster and the deleted feed.

        The first response gives the server's time. If it has no `Date`, or if a watermark lies ahead of that time, the
        feeds since the watermarks may be incomplete. Then the run is full.
        """
        before, overlap = self._state.watermarks, self._policy.overlap
        query = Query()
        if kind is RunKind.INCREMENTAL:
            assert before.modified is not None, "plan.choose"
            query = Query(modified_since=watermarks.filter_start(before.modified, overlap))
        first = self._api.first_page(query)
        dated = first.moment.server is not None
        replaces = watermarks.in_future(before, first.moment, overlap)
        if kind is RunKind.INCREMENTAL and dated and not replaces:
            return self._read_feeds(query, first)
        if kind is RunKind.INCREMENTAL:
            log.warning("watermarks_not_usable", source=self._source, reason="in the future" if replaces else "no Date")
            first = self._api.first_page(Query())
        return self._read_roster(first, dated=dated, replaces=replaces)

    def _read_feeds(self, query: Query, first: Page) -> CrawlResult:
        deleted_before = self._state.watermarks.deleted
        assert deleted_before is not None, "plan.choose"
        modified = self._reader.students(query, first)  # before deletions: who was changed and then deleted is deleted
        modified = replace(modified, without_ids=self._stage.received().without_id > 0)
        deleted = self._reader.deleted(watermarks.filter_start(deleted_before, self._policy.overlap))
        return CrawlResult(RunKind.INCREMENTAL, modified, deleted, dated=True, replaces=False)

    def _read_roster(self, first: Page, *, dated: bool, replaces: bool) -> CrawlResult:
        roster = self._reader.students(Query(), first)
        if roster.total == 0 and (live := live_students(self._connection, self._source)) > 0:
            message = f"the API lists no students, but the replica holds {live}"
            raise RunFailed(message, "nothing was removed; check the token's permissions, and ManageBac itself")
        deleted = self._reader.deletions_until(roster, self._state.watermarks.deleted, self._policy.overlap)
        swept = roster.clean and roster.total > 0 and self._stage.received().without_id == 0
        return CrawlResult(RunKind.FULL, roster, deleted, dated=dated, replaces=replaces, swept=swept)

    def _revisit_quarantine(self) -> None:
        """Ask again for records that could not be decoded. A record stays in quarantine if there is no answer."""
        waiting = quarantined(self._connection, self._source, QUARANTINE_LIMIT)
        shown = stage_living(self._api, self._stage, waiting)
        for key, answer in self._api.answers([key for key in waiting if key not in shown]):
            self._stage.put_answer(key, answer, in_quarantine=True)

    # Reconciling ---------------------------------------------------------------------------------------------

    def _reconcile(self, crawl: CrawlResult, request: RunRequest) -> RunResult:
        """Answer every question that the stage raises, and return what the run will write."""
        stage = self._stage
        # Restores need proof. Newcomers need proof only if the deleted feed lists them. A student who is in both lists
        # and stored as living becomes a candidate for removal, but not after a clean roster.
        # If a student left after the roster was read, the next run sees the deletion, because its deleted feed begins
        # at the time of this roster.
        ask(self._api, stage, stage.unproved_restores())
        ask(self._api, stage, stage.unproved_newcomers())
        if crawl.kind is RunKind.INCREMENTAL:
            fetch_stale(self._api, stage)
        held = partial(runs.held_students, self._connection, self._source)
        approved = None if request.approves is None else runs.planned_removals(self._connection, request.approves)
        removals = Removals(self._api, stage, held, self._guard).settle(crawl.kind, sweep=crawl.swept, plan=approved)
        self._details.learn(clean_roster=crawl.kind is RunKind.FULL and crawl.modified.clean and not crawl.empty)
        self._details.ask()
        self._combine(self._settled_before(crawl))
        counts = Comparison(self._stage).judge()
        if request.kind is not RunKind.GROWTH and counts.inserted > guard.MOST_NEWCOMERS:
            guard.check_growth(counts.inserted, live_students(self._connection, self._source))
        counts = replace(counts, stale=stage.stale_count, deleted=removals.removed, removals_held=removals.held)
        return self._draw_up(crawl, request, removals, counts)

    def _combine(self, settled_before: datetime | None) -> None:
        """Combine the list row and the detail of each student who has both: see `StagedDetails.combine`."""
        if self._state.has_details or self._stage.details.are_new:
            keys, everybody = self._details.keys, self._details.renews_all
            self._stage.details.combine(keys, settled_before=settled_before, now=self._now(), everybody=everybody)

    def _settled_before(self, crawl: CrawlResult) -> datetime | None:
        """Return the time up to which GET has seen every change, by `updated_at`, because it was asked after the list.

        It is the server's time when the list was read, less the overlap. Without a `Date`, it is the `updated_at` of
        the newest row, less twice the overlap, because that stamp itself may be wrong by the overlap. None if there is
        neither.
        """
        if (read_at := crawl.modified.moment.server) is not None:
            return read_at - self._policy.overlap
        newest = self._stage.details.newest()
        return newest and newest - 2 * self._policy.overlap

    def _guard(self, removals: int) -> str:
        """Return why this number of removals must wait for approval, or "" if it need not."""
        if not removals:  # most runs: save the queries
            return ""
        recent = recent_removals(self._connection, self._source, self._started_at)
        live = live_students(self._connection, self._source)
        if not guard.holds(removals, recent, live, self._policy.guard):
            return ""
        before = f", after {recent} in the last 24 hours" if recent else ""
        return f"more removals than the guard allows: {removals} of {live} students{before}"

    # Writing -------------------------------------------------------------------------------------------------

    def _draw_up(self, crawl: CrawlResult, request: RunRequest, removals: RemovalOutcome, counts: Counts) -> RunResult:
        unclear = self._stage.unclear()
        incomplete = _incomplete_reasons(crawl, unclear.total)
        state = RunState.INCOMPLETE if incomplete else RunState.HELD if removals.held else RunState.SUCCEEDED
        after = self._state_after(crawl, removals, unclear)
        reasons = "; ".join(filter(None, (*incomplete, removals.reason)))
        report = self._report(crawl.kind, state, counts, after.watermarks, reasons or None)
        return RunResult(
            report=replace(report, notices=(*_notices(crawl, removals), *self._notices_of_values())),
            state=after,
            request_id=request.request_id,
            guarded=removals.guarded,
            holds=removals.held > 0,
            approves=request.approves,
            supersedes_holds=_superseded(crawl) if state is RunState.SUCCEEDED else frozenset(),
            clean_full=crawl.swept,
        )

    def _state_after(self, crawl: CrawlResult, removals: RemovalOutcome, unclear: UnclearCounts) -> SourceState:
        """Return the source's state after the run."""
        before = self._state
        modified_read, deleted_read = _streams_read(crawl, removals, unclear)
        full_read = crawl.swept and modified_read and deleted_read
        return SourceState(
            watermarks=self._watermarks(crawl, modified_read=modified_read, deleted_read=deleted_read),
            last_clean_modified_at=self._started_at if modified_read else before.last_clean_modified_at,
            last_clean_full_at=self._now() if full_read else before.last_clean_full_at,
            history_starts_at=before.history_starts_at or self._now(),
            deleted_feed_ignored=crawl.deleted.ignored,
            unknown_keys=self._report_keys(),
            salt=self._salt,
            fingerprint=self._api.fingerprint(self._salt),
            keys=self._details.keys,
            has_details=before.has_details,
        )

    def _watermarks(self, crawl: CrawlResult, *, modified_read: bool, deleted_read: bool) -> Watermarks:
        """Return the watermarks after the run.

        1. A watermark moves only if all of its stream was read, and if the run's first response had a `Date`.
        2. It moves to the start of the list that was read. In a full run both move to the start of the roster.
        3. It never moves back, unless the previous watermark lies in the future: see `plan.advance`.
        """
        starts = crawl.modified.start, (crawl.deleted if crawl.kind is RunKind.INCREMENTAL else crawl.modified).start
        modified, deleted = (
            start if read and crawl.dated else None
            for start, read in zip(starts, (modified_read, deleted_read), strict=True)
        )
        before = self._state.watermarks
        return Watermarks(
            watermarks.advance(before.modified, modified, replace=crawl.replaces),
            watermarks.advance(before.deleted, deleted, replace=crawl.replaces),
        )

    def _notices_of_values(self) -> Iterator[str]:
        """Yield the notices about values in records: they contain names of fields and counts, but no values."""
        if counts := Counter(chain.from_iterable(self._stage.students.odd_fields.values())):
            by_field = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
            yield f"some values do not fit their fields and are kept in extra; records by field: {by_field}"
        if self._api.assumes_utc:
            yield "the API sends an updated_at without an offset from UTC; it is taken as UTC"

    def _report_keys(self) -> tuple[str, ...]:
        """Log how many unknown keys are new, and return the digests of all unknown keys so far."""
        after = with_digests(self._state.unknown_keys, self._stage.students.extra_keys, self._salt)
        if new := len(after) - len(self._state.unknown_keys):
            log.info("unknown_keys", source=self._source, keys=new, kept_in="extra")
        return after

    def _report(
        self, kind: RunKind, state: RunState, counts: Counts, marks: Watermarks, error: str | None
    ) -> RunReport:
        return RunReport(
            run_id=None,
            source=self._source,
            kind=kind,
            state=state,
            counts=counts,
            requests=self._api.requests,
            retries=self._api.retries,
            duration_s=round(self._clock.monotonic() - self._started, 3),
            watermarks=marks,
            started_at=self._started_at,
            finished_at=self._now(),
            error=error,
            exit_status=state.exit_status,
        )

    def _now(self) -> datetime:
        return to_milliseconds(self._clock.now())


def _incomplete_reasons(crawl: CrawlResult, unclear: int) -> list[str]:
    """Return the reasons why the run is incomplete; none if it is complete."""
    incremental, reasons = crawl.kind is RunKind.INCREMENTAL, []
    if not crawl.modified.clean:
        what = "the modified feed" if incremental else "the roster"
        reasons.append(f"{what} kept changing while it was read")
    if incremental and crawl.modified.without_ids:
        reasons.append("the modified feed lists records without a readable id")
    if incremental and not crawl.deleted.clean:
        reasons.append("the deleted feed kept changing while it was read")
    if crawl.deleted.without_ids and not crawl.swept:
        reasons.append("the deleted feed lists records without a readable id")
    if unclear:
        reasons.append(f"{_UNCLEAR}: {unclear}")
    return reasons


def _streams_read(crawl: CrawlResult, removals: RemovalOutcome, unclear: UnclearCounts) -> tuple[bool, bool]:
    """Return whether all of the modified stream, and all of the deleted stream, was read and applied."""
    incremental = crawl.kind is RunKind.INCREMENTAL
    # 1. The roster must be clean and not empty. A feed must be clean, and all its records must have a readable id.
    #    All deletions are known after a sweep, and otherwise after such a deleted feed.
    modified = crawl.modified.complete and not crawl.empty
    deleted = crawl.swept or (crawl.deleted.complete and (incremental or modified))
    # 2. If GET gave no clear answer about an id, the watermark of the stream that listed the id is not advanced. In a
    #    full run neither is advanced, because both are dated from one list.
    if unclear.total and not incremental:
        return False, False
    # 3. If removals are held, the deleted watermark stays, so that the next run reads them again.
    return modified and not unclear.received, deleted and not unclear.in_deleted_feed and not removals.held


def _notices(crawl: CrawlResult, removals: RemovalOutcome) -> tuple[str, ...]:
    notices = [f"student {key} of the approved plan was not proved gone, and stays stored" for key in removals.unproved]
    if not crawl.dated:
        notices.append("the server sends no Date: watermarks do not move, and every run reads everything until it does")
    if crawl.kind is RunKind.FULL and crawl.modified.clean and not (crawl.swept or crawl.empty):
        notices.append("the roster has a record without a readable id, so only the deleted feed can show who has left")
    if crawl.empty:
        hint = "is the token allowed to see them? The next run reads everything again"
        notices.append(f"the API lists no students: {hint}")
    return tuple(notices)


def _superseded(crawl: CrawlResult) -> frozenset[RunKind]:
    """Return the kinds of held runs whose open plans are closed, because this later run has succeeded.

    A sweep closes all plans. An incremental run closes the plans of incremental runs, but only if it could use the
    deleted feed. Otherwise it has not seen the deletions again that an earlier run planned.
    """
    if crawl.swept:
        return frozenset(RunKind)
    incremental = crawl.kind is RunKind.INCREMENTAL and crawl.deleted.complete
    return frozenset({RunKind.INCREMENTAL}) if incremental else frozenset()
