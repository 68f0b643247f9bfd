"""One run: read, stage, reconcile, guard, one commit. With `verify` the only place where vendor and SQL meet.

The steps are those of `Run.execute`. What each relies on stands where it is done: `lists` for reading, `removals` for
proof, `plan` for watermarks, and `store.runs.commit` for the one transaction.
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
from rostersync.store import runs
from rostersync.store.comparison import Comparison
from rostersync.sync import guard, plan, refresh
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
"""How many records in quarantine one run asks for."""

KNOWN_STUDENT_SAMPLE = 20
"""How many known students are asked for when a source's token or address is new."""

_UNCLEAR = "students who could not be fetched, and stay as they are"


class CrawlResult(msgspec.Struct, frozen=True):
    """What was read in a run: `modified` is the modified feed, or the roster in a full run."""

    kind: RunKind
    modified: ListResult
    deleted: ListResult
    dated: bool
    """Whether the run's first response bore a `Date`: without one no watermark moves."""
    replaces: bool
    """Whether the watermarks before lie in the future, so that the new ones replace them."""
    swept: bool = False
    """Whether a clean roster was read, so that absence makes a candidate for removal."""

    @property
    def empty(self) -> bool:
        """Whether a roster of nobody was read. It may be a mistake of a moment, so no watermark moves."""
        return self.kind is RunKind.FULL and self.modified.total == 0


class Run:
    """One run of one source; `execute` may be called once."""

    def __init__(
        self,
        source: str,
        connection: Connection,
        stage: Stage,
        api: Api,
        *,
        policy: plan.SyncPolicy,
        clock: Clock,
        progress: ProgressCallback,
        commit: Callable[[runs.RunResult], int] | None,
    ) -> None:
        """Prepare a run. `commit` writes a result and returns the run's number; None makes it a dry run."""
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
        self._state = runs.state(connection, source)
        # A record that is stored as it was received is not needed, except beside a detail. At first nothing is stored.
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
        """Do the run and return its report: a failure to read is a report, too, and is recorded.

        Raises `StoreError` when the database refuses, `Stopped` when the process is to end: neither leaves a trace.
        """
        kind = plan.choose(request.kind, self._state, self._started_at, self._policy)
        try:
            self._require_open_plan(request)
            self._require_same_school()
            result = self._refresh(request) if kind is RunKind.REFRESH else self._sync(kind, request)
        except (ApiError, RunFailed) as error:  # it read something it must not apply, or could not read
            report = self._report(kind, RunState.FAILED, Counts(), self._state.watermarks, error.message)
            report = replace(report, hint=error.hint, was_denied=isinstance(error, AccessDenied))
            result = runs.RunResult(report, self._state, request.request_id)
        if self._commit is None:
            return replace(result.report, state=RunState.DRY_RUN)
        return replace(result.report, run_id=self._commit(result))

    def _sync(self, kind: RunKind, request: RunRequest) -> runs.RunResult:
        """Read what is to be read of the whole school, and draw up what the run will write."""
        crawl = self._crawl(kind)
        received = self._stage.received()
        guard.check_rejection_rate(received.news, received.undecodable_news)
        self._revisit_quarantine()  # afterwards: what was bad before shows no change of the API
        return self._reconcile(crawl, request)

    def _refresh(self, request: RunRequest) -> runs.RunResult:
        """Fetch single students, and draw up what was shown of the living. What is known of the source stays as it is.

        Raises `RunFailed` where no run has stored anything yet, for a replica of these students alone would be taken
        for the school.
        """
        if self._state.history_starts_at is None:
            raise RunFailed(f"source {self._source} has no replica yet", "the first run brings it: rostersync sync")
        fetched = refresh.fetch(self._api, self._stage, request.ids)
        self._details.ask_for(request.ids)
        self._combine(settled_before=None)
        counts = Comparison(self._connection, self._source).judge()
        state = RunState.INCOMPLETE if fetched.unclear else RunState.SUCCEEDED
        reason = f"{_UNCLEAR}: {fetched.unclear}" if fetched.unclear else None
        report = self._report(request.kind, state, counts, self._state.watermarks, reason)
        after = replace(self._state, keys=self._details.keys)
        return runs.RunResult(replace(report, notices=fetched.notices), after, request.request_id)

    def _require_open_plan(self, request: RunRequest) -> None:
        """Raise `RunFailed` when the plan to be approved was closed while its approval waited."""
        if request.approves is not None and runs.open_hold(self._connection, request.approves) is None:
            hint = "see `rostersync status` for what is held now"
            raise RunFailed(f"the plan of run {request.approves} is no longer open: it was approved or has ended", hint)

    def _require_same_school(self) -> None:
        """Raise `RunFailed` when token or address are new, and lead to none of the students that are known."""
        before = self._state
        if before.salt is None or self._api.fingerprint(before.salt) == before.fingerprint:
            return
        known = runs.some_living(self._connection, self._source, KNOWN_STUDENT_SAMPLE)
        if not known or self._knows_any(known):
            return
        message = f"token or base_url of source {self._source} have changed, and lead to none of its known students"
        hint = "give another school another name, and purge the old one: rostersync source forget NAME"
        raise RunFailed(message, hint)

    def _knows_any(self, ids: list[int]) -> bool:
        """Tell whether the API has a record of one of `ids`, living or deleted: another school has none."""
        answers = (answer for _, answer in self._api.answers(ids))
        return bool(self._api.by_ids(ids)) or any(isinstance(answer, Student | Rejected) for answer in answers)

    # Reading -------------------------------------------------------------------------------------------------

    def _crawl(self, kind: RunKind) -> CrawlResult:
        """Read both feeds, or the roster and the deleted feed.

        The first response tells the server's time. Without it, or with a watermark that lies ahead of it, what a feed
        lists since the watermark says nothing, and the run is full.
        """
        before, overlap = self._state.watermarks, self._policy.overlap
        query = Query()
        if kind is RunKind.INCREMENTAL:
            assert before.modified is not None, "plan.choose"
            query = Query(modified_since=plan.filter_start(before.modified, overlap))
        first = self._api.first_page(query)
        dated = first.moment.server is not None
        replaces = plan.in_future(before, first.moment, overlap)
        if kind is RunKind.INCREMENTAL and dated and not replaces:
            return self._read_feeds(query, first)
        if kind is RunKind.INCREMENTAL:
            log.warning("watermarks_not_usable", source=self._source, reason="in the future" if replaces else "no Date")
            first = self._api.first_page(Query())
        return self._read_roster(first, dated=dated, replaces=replaces)

    def _read_feeds(self, query: Query, first: Page) -> CrawlResult:
        deleted_before = self._state.watermarks.deleted
        assert deleted_before is not None, "plan.choose"
        modified = self._reader.students(query, first)  # first, so that who is changed and then deleted ends deleted
        modified = replace(modified, without_ids=self._stage.received().without_id > 0)
        deleted = self._reader.deleted(plan.filter_start(deleted_before, self._policy.overlap))
        return CrawlResult(RunKind.INCREMENTAL, modified, deleted, dated=True, replaces=False)

    def _read_roster(self, first: Page, *, dated: bool, replaces: bool) -> CrawlResult:
        roster = self._reader.students(Query(), first)
        if roster.total == 0 and (live := runs.live_students(self._connection, self._source)) > 0:
            message = f"the API lists no student at all, and the replica holds {live}"
            raise RunFailed(message, "nothing was removed; look at the token's permissions and at ManageBac itself")
        deleted = self._reader.deletions_until(roster, self._state.watermarks.deleted, self._policy.overlap)
        swept = roster.clean and roster.total > 0 and self._stage.received().without_id == 0
        return CrawlResult(RunKind.FULL, roster, deleted, dated=dated, replaces=replaces, swept=swept)

    def _revisit_quarantine(self) -> None:
        """Ask again for records that could not be decoded. One that is not answered just stays in quarantine."""
        waiting = runs.quarantined(self._connection, self._source, QUARANTINE_LIMIT)
        shown = stage_living(self._api, self._stage, waiting)
        for key, answer in self._api.answers([key for key in waiting if key not in shown]):
            self._stage.put_answer(key, answer, in_quarantine=True)

    # Reconciling ---------------------------------------------------------------------------------------------

    def _reconcile(self, crawl: CrawlResult, request: RunRequest) -> runs.RunResult:
        """Answer every question that the stage raises, and draw up what the run will write."""
        stage = self._stage
        # Restores need proof, and so do newcomers whom the deleted feed lists as well. Whoever is stored as living and
        # shown by both becomes a candidate for removal, but not after a clean roster: the deleted feed of the next run,
        # which reaches back to the start of this roster, will show who left after it.
        ask(self._api, stage, stage.unproved_restores())
        ask(self._api, stage, stage.unproved_newcomers())
        if crawl.kind is RunKind.INCREMENTAL:
            fetch_stale(self._api, stage)
        held = partial(runs.held, self._connection, self._source)
        approved = None if request.approves is None else runs.plan(self._connection, request.approves)
        removals = Removals(self._api, stage, held, self._guard).settle(crawl.kind, sweep=crawl.swept, plan=approved)
        self._details.learn(clean_roster=crawl.kind is RunKind.FULL and crawl.modified.clean and not crawl.empty)
        self._details.ask()
        self._combine(self._settled_before(crawl))
        counts = Comparison(self._connection, self._source).judge()
        if request.kind is not RunKind.GROWTH and counts.inserted > guard.MOST_NEWCOMERS:
            guard.check_growth(counts.inserted, runs.live_students(self._connection, self._source))
        counts = replace(counts, stale=stage.stale_count, deleted=removals.removed, removals_held=removals.held)
        return self._draw_up(crawl, request, removals, counts)

    def _combine(self, settled_before: datetime | None) -> None:
        """Make one record of the list row and the detail of each student who has both: see `StagedDetails.combine`."""
        if self._state.has_details or self._stage.details.are_new:
            keys, everybody = self._details.keys, self._details.renews_all
            self._stage.details.combine(keys, settled_before=settled_before, now=self._now(), everybody=everybody)

    def _settled_before(self, crawl: CrawlResult) -> datetime | None:
        """Return the `updated_at` up to which every change was visible to GET, which was asked after the list.

        By the server's clock. Without its `Date` the newest row tells how late it was at least: its own `updated_at`
        may be off by the overlap, too.
        """
        if (read_at := crawl.modified.moment.server) is not None:
            return read_at - self._policy.overlap
        newest = self._stage.details.newest()
        return newest and newest - 2 * self._policy.overlap

    def _guard(self, removals: int) -> str:
        """Return why `removals` must wait for approval, nothing when they need not."""
        if not removals:  # a quiet run asks the database nothing
            return ""
        recent = runs.recent_removals(self._connection, self._source, self._started_at)
        live = runs.live_students(self._connection, self._source)
        if not guard.holds(removals, recent, live, self._policy.guard):
            return ""
        before = f", after {recent} in the last 24 hours" if recent else ""
        return f"more removals than the guard allows: {removals} of {live} students{before}"

    # Writing -------------------------------------------------------------------------------------------------

    def _draw_up(
        self, crawl: CrawlResult, request: RunRequest, removals: RemovalOutcome, counts: Counts
    ) -> runs.RunResult:
        unclear = self._stage.unclear()
        incomplete = _incomplete_reasons(crawl, unclear.total)
        state = RunState.INCOMPLETE if incomplete else RunState.HELD if removals.held else RunState.SUCCEEDED
        after = self._state_after(crawl, removals, unclear)
        reasons = "; ".join(filter(None, (*incomplete, removals.reason)))
        report = self._report(crawl.kind, state, counts, after.watermarks, reasons or None)
        return runs.RunResult(
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
        """Return what is known of the source after the run."""
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

        1. Only of a stream that was read whole, and never in a run whose first response had no `Date`.
        2. From the start of the list: of each feed's own, or of the roster's for both.
        3. Never back, unless the one before lies in the future: see `plan.advance`.
        """
        starts = crawl.modified.start, (crawl.deleted if crawl.kind is RunKind.INCREMENTAL else crawl.modified).start
        modified, deleted = (
            start if read and crawl.dated else None
            for start, read in zip(starts, (modified_read, deleted_read), strict=True)
        )
        before = self._state.watermarks
        return Watermarks(
            plan.advance(before.modified, modified, replace=crawl.replaces),
            plan.advance(before.deleted, deleted, replace=crawl.replaces),
        )

    def _notices_of_values(self) -> Iterator[str]:
        """Yield what is noticed of the values in records: names of fields and counts, and no value."""
        if counts := Counter(chain.from_iterable(self._stage.students.odd_fields.values())):
            by_field = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
            yield f"values that their fields cannot hold are kept in extra; records by field: {by_field}"
        if self._api.assumes_utc:
            yield "the API sends an updated_at without an offset from UTC: it is taken as UTC"

    def _report_keys(self) -> tuple[str, ...]:
        """Report each key that rostersync does not know once; return digests of all that were ever reported."""
        after = runs.with_digests(self._state.unknown_keys, self._stage.students.extra_keys, self._salt)
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
    """Return why the run is incomplete, nothing when it is not."""
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
    """Tell of the modified and of the deleted stream whether all of it was read, and applied."""
    incremental = crawl.kind is RunKind.INCREMENTAL
    # 1. The list must be clean, not empty, and, if it is a feed, name everybody whom it means. Deletions are known by a
    #    sweep, or else by such a deleted feed.
    modified = crawl.modified.complete and not crawl.empty
    deleted = crawl.swept or (crawl.deleted.complete and (incremental or modified))
    # 2. An id for which GET had no clear answer holds back the stream that named it; in a full run both, for both are
    #    dated from one list.
    if unclear.total and not incremental:
        return False, False
    # 3. Removals that are held come again from the watermark.
    return modified and not unclear.received, deleted and not unclear.in_deleted_feed and not removals.held


def _notices(crawl: CrawlResult, removals: RemovalOutcome) -> tuple[str, ...]:
    notices = [f"student {key} of the approved plan was not proved gone, and stays" for key in removals.unproved]
    if not crawl.dated:
        notices.append("the server sends no Date: watermarks stay, and until it does every run reads everything")
    if crawl.kind is RunKind.FULL and crawl.modified.clean and not (crawl.swept or crawl.empty):
        notices.append("a record without a readable id is in the roster: only the deleted feed shows who has left")
    if crawl.empty:
        hint = "is the token allowed to see them? The next run reads everything again"
        notices.append(f"the API lists no student at all: {hint}")
    return tuple(notices)


def _superseded(crawl: CrawlResult) -> frozenset[RunKind]:
    """Return of which kinds the open plans end with this run, which passed the guard: with a sweep all do.

    An incremental run that could not use the deleted feed has not seen again what an earlier one planned.
    """
    if crawl.swept:
        return frozenset(RunKind)
    incremental = crawl.kind is RunKind.INCREMENTAL and crawl.deleted.complete
    return frozenset({RunKind.INCREMENTAL}) if incremental else frozenset()
