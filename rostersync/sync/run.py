"""One run: read, stage, reconcile, guard, one commit. The only place where vendor and SQL meet."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from rostersync.clock import to_milliseconds
from rostersync.errors import ApiError, RunFailed
from rostersync.logger import get_logger
from rostersync.records import Rejected, Student, Unclear
from rostersync.report import Counts, RunKind, RunReport, RunRequest, RunState, SourceState, Watermarks
from rostersync.store import runs
from rostersync.sync import guard, plan, reconcile
from rostersync.sync.lists import Api, Crawler, Stream, ask
from rostersync.sync.removals import Removals

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback
    from rostersync.store.stage import Stage
    from rostersync.sync.removals import RemovalOutcome

log = get_logger(__name__)

QUARANTINE_LIMIT = 100
"""How many records in quarantine one run asks for."""

KNOWN_STUDENT_SAMPLE = 20
"""How many known students are asked for when a source's token or address is new."""

MAX_REPORTED_KEYS = 1_000
"""Of more unknown keys than these nothing more is told."""


class Client(Api, Protocol):
    """The API with its figures, and with what tells it from another school's."""

    @property
    def requests(self) -> int: ...
    @property
    def retries(self) -> int: ...
    def fingerprint(self, salt: bytes) -> bytes: ...


Connect = Callable[[str], AbstractContextManager[Client]]
"""Opens the API of a source for one run; raises `ConfigError` when its token cannot be had."""


@dataclass(frozen=True, slots=True)
class CrawlResult:
    """What the crawls of a run found."""

    kind: RunKind
    modified: Stream
    deleted: Stream
    feed_ignored: bool
    swept: bool = False
    """Whether a clean roster was read, so that absence may be asked about."""
    replaces: bool = False
    """Whether the watermarks were not trusted, and go."""
    empty: bool = False
    """Whether the roster had nobody in it."""


class Run:
    """One run of one source; `execute` may be called once."""

    def __init__(
        self,
        source: str,
        connection: Connection,
        stage: Stage,
        api: Client,
        *,
        policy: plan.SyncPolicy,
        clock: Clock,
        watch: ProgressCallback,
        commit: Callable[[runs.RunResult, bool], int] | None,
    ) -> None:
        """Prepare a run. `commit` writes an ending and returns the run's number; None makes it a dry run."""
        self._source = source
        self._connection = connection
        self._stage = stage
        self._api = api
        self._policy = policy
        self._clock = clock
        self._watch = watch
        self._commit = commit
        self._started_at = to_milliseconds(clock.now())
        self._started = clock.monotonic()
        self._state = runs.state(connection, source)

    def execute(self, request: RunRequest) -> RunReport:
        """Do the run and return its report: a failure to read is a report, too, and is recorded.

        Raises `StoreError` when the database refuses, `Stopped` when the process is to end: neither leaves a trace.
        """
        kind = plan.choose(request.kind, self._state, self._started_at, self._policy)
        try:
            self._require_open_plan(request)
            ending = self._end(self._crawl(kind), request)
        except (ApiError, RunFailed) as error:
            return self._fail(kind, request, error)
        return self._close(ending, apply=True)

    def _require_open_plan(self, request: RunRequest) -> None:
        """Raise `RunFailed` when the plan to be approved was closed while its approval waited."""
        if request.approves is not None and runs.open_hold(self._connection, request.approves) is None:
            hint = "see `rostersync status` for what is held now"
            raise RunFailed(f"the plan of run {request.approves} is no longer open: it was approved or has ended", hint)

    # Reading -------------------------------------------------------------------------------------------------

    def _crawl(self, kind: RunKind) -> CrawlResult:
        self._require_same_school()
        crawler = Crawler(self._api, self._stage, self._state, self._policy, self._watch)
        crawled = self._crawl_changes(crawler) if kind is RunKind.INCREMENTAL else None
        if crawled is None:
            crawled = self._crawl_roster(crawler)
        reconcile.check_rejection_rate(*self._stage.received())
        self._revisit_quarantine()  # afterwards: what was bad before tells nothing about a changed API
        return crawled

    def _crawl_changes(self, crawler: Crawler) -> CrawlResult | None:
        """Read both feeds; None when the server's clock is behind a watermark, so that only a full run can tell."""
        marks, overlap = self._state.watermarks, self._policy.overlap
        assert marks.modified is not None
        assert marks.deleted is not None
        modified = crawler.modified(plan.since(marks.modified, overlap))
        if not plan.trusted(self._state, modified.moment, overlap):
            log.warning("watermarks_not_trusted", source=self._source)
            return None
        feed = crawler.deleted(plan.since(marks.deleted, overlap))
        deleted = Stream(feed.explains, feed.start, feed.moment)
        return CrawlResult(RunKind.INCREMENTAL, modified, deleted, feed_ignored=feed.ignored)

    def _crawl_roster(self, crawler: Crawler) -> CrawlResult:
        roster = crawler.roster()
        if roster.total == 0 and (live := runs.live_students(self._connection, self._source)) > 0:
            message = f"the API lists no student at all, and the replica holds {live}"
            raise RunFailed(message, "nothing was removed; look at the token's permissions and at ManageBac itself")
        # An empty list may be a mistake of a moment, so it dates no watermark: the next run reads everything again.
        stream = Stream(roster.clean and roster.total > 0, roster.start, roster.moment)
        feed = crawler.departures(roster)
        nameless = self._stage.lacks_ids()  # they forbid to infer from absence
        return CrawlResult(
            RunKind.FULL,
            stream,
            replace(stream, clean=roster.clean and feed.explains) if nameless else stream,
            feed_ignored=feed.ignored,
            swept=stream.clean and not nameless,
            replaces=not plan.trusted(self._state, roster.moment, self._policy.overlap),
            empty=roster.clean and roster.total == 0,
        )

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

    def _revisit_quarantine(self) -> None:
        waiting = runs.quarantined(self._connection, self._source, QUARANTINE_LIMIT)
        for key, answer in self._api.answers(waiting):
            if isinstance(answer, Unclear):
                self._stage.mark_unanswered(key)  # without an answer it just stays there
            else:
                self._stage.put_answer(key, answer)

    # Reconciling ---------------------------------------------------------------------------------------------

    def _end(self, crawled: CrawlResult, request: RunRequest) -> runs.RunResult:
        """Settle every question that the stage raises, and draw up what the run will write."""
        ask(self._api, self._stage, self._stage.unproved_restores())
        ask(self._api, self._stage, self._stage.unproved_departures())
        if crawled.kind is RunKind.INCREMENTAL:
            ask(self._api, self._stage, self._stage.stale(), stale=True)
        settled = self._settle_removals(crawled, request)
        judged = self._stage.judge()
        for changes in self._stage.changes():
            self._stage.mark_changes(reconcile.mark(stored, sighted) for stored, sighted in changes)
        counts = reconcile.count(judged.verdicts, stale=judged.stale, deleted=settled.removed, held=settled.held)
        return self._draw_up(crawled, request, settled, counts)

    def _settle_removals(self, crawled: CrawlResult, request: RunRequest) -> RemovalOutcome:
        removals = Removals(
            self._api,
            self._stage,
            held=lambda: runs.held(self._connection, self._source),
            guard=self._guard,
        )
        plan = None if request.approves is None else runs.plan(self._connection, request.approves)
        return removals.settle(crawled.kind, sweep=crawled.swept, plan=plan)

    def _guard(self, removals: int) -> str:
        """Return why `removals` must wait for approval, nothing when they need not."""
        if not removals:  # nothing to count students for
            return ""
        recent = runs.recent_removals(self._connection, self._source, self._started_at)
        live = runs.live_students(self._connection, self._source)
        if not guard.holds(removals, recent, live, self._policy.guard):
            return ""
        before = f" after {recent} in the last 24 hours" if recent else ""
        return f"{removals} removals{before} of {live} students are more than the guard allows"

    # Writing -------------------------------------------------------------------------------------------------

    def _draw_up(
        self, crawled: CrawlResult, request: RunRequest, settled: RemovalOutcome, counts: Counts
    ) -> runs.RunResult:
        doubts = self._incomplete_reasons(crawled)
        state = RunState.INCOMPLETE if doubts else RunState.HELD if settled.held else RunState.SUCCEEDED
        after = self._state_after(crawled, settled)
        reasons = [*doubts, *([settled.reason] if settled.held else [])]
        report = self._report(crawled.kind, state, counts, after.watermarks, "; ".join(reasons) or None)
        return runs.RunResult(
            report=replace(report, notices=_notices(crawled, settled)),
            state=after,
            request_id=request.request_id,
            guarded=settled.guarded,
            holds=settled.held > 0,
            approves=request.approves,
            supersedes_holds=_ended(crawled) if state is RunState.SUCCEEDED else frozenset(),
            clean_full=crawled.swept,
        )

    def _incomplete_reasons(self, crawled: CrawlResult) -> list[str]:
        """Return why the run is incomplete, nothing when it is not."""
        doubts = []
        if not crawled.modified.clean and not crawled.empty:
            what = "the roster" if crawled.kind is RunKind.FULL else "the modified feed"
            doubts.append(f"{what} kept changing while it was read")
        if crawled.kind is RunKind.INCREMENTAL and not crawled.deleted.clean and not crawled.feed_ignored:
            doubts.append("the deleted feed kept changing while it was read")
        if crawled.kind is RunKind.INCREMENTAL and self._stage.nameless_departures():
            doubts.append("the deleted feed lists records without a readable id")
        unclear = self._stage.unclear()
        if unclear:
            doubts.append(f"{unclear} students could not be fetched, and stay as they are")
        return doubts

    def _state_after(self, crawled: CrawlResult, settled: RemovalOutcome) -> SourceState:
        """Return what is known of the source after the run."""
        before, stage = self._state, self._stage
        in_feed, listed = stage.unclear(in_feed=True), stage.unclear(listed=True)
        unclear = stage.unclear() > 0 and crawled.kind is RunKind.FULL  # a full run's watermarks are of one crawl
        modified_clean = crawled.modified.clean and not (listed or unclear)
        nameless = crawled.kind is RunKind.INCREMENTAL and stage.nameless_departures()
        deleted_clean = crawled.deleted.clean and not (in_feed or unclear or settled.held or nameless)
        full_done = crawled.swept and modified_clean and deleted_clean
        salt = before.salt or secrets.token_bytes(16)

        def advance(old: datetime | None, stream: Stream, *, clean: bool) -> datetime | None:
            return plan.advance(old, stream.start if clean else None, replace=crawled.replaces)

        marks = Watermarks(
            advance(before.watermarks.modified, crawled.modified, clean=modified_clean),
            advance(before.watermarks.deleted, crawled.deleted, clean=deleted_clean),
        )
        return SourceState(
            watermarks=marks,
            server_ahead_s=plan.greater(
                plan.lead(marks.modified, crawled.modified.moment, before.server_ahead_s),
                plan.lead(marks.deleted, crawled.deleted.moment, before.server_ahead_s),
            ),
            newest_updated_at=plan.greater(before.newest_updated_at, stage.newest_updated_at()),
            last_clean_modified_at=self._started_at if modified_clean else before.last_clean_modified_at,
            last_clean_full_at=self._now() if full_done else before.last_clean_full_at,
            history_starts_at=before.history_starts_at or self._now(),
            deleted_feed_ignored=crawled.feed_ignored,
            unknown_keys=self._report_keys(salt),
            salt=salt,
            fingerprint=self._api.fingerprint(salt),
        )

    def _report_keys(self, salt: bytes) -> tuple[str, ...]:
        """Tell once of each key that rostersync does not know; return all that were ever told.

        They are remembered as salted hashes: a key may be an address, and must not stay when its student is erased.
        """
        known = set(self._state.unknown_keys)
        names = self._stage.extra_keys() if len(known) < MAX_REPORTED_KEYS else ()
        new = {hashlib.blake2b(name.encode(), digest_size=8, key=salt).hexdigest() for name in names} - known
        if new:
            log.info("unknown_keys", source=self._source, keys=len(new), kept_in="extra")
        return tuple(sorted(known | new))

    def _fail(self, kind: RunKind, request: RunRequest, error: ApiError | RunFailed) -> RunReport:
        """Record a run that read something it must not apply, or that could not read."""
        report = self._report(kind, RunState.FAILED, Counts(), self._state.watermarks, error.message)
        ending = runs.RunResult(replace(report, hint=error.hint), self._state, request.request_id)
        return self._close(ending, apply=False)

    def _close(self, ending: runs.RunResult, *, apply: bool) -> RunReport:
        if self._commit is None:
            return replace(ending.report, state=RunState.DRY_RUN)
        return replace(ending.report, run_id=self._commit(ending, apply))

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


def _notices(crawled: CrawlResult, settled: RemovalOutcome) -> tuple[str, ...]:
    empty = (
        ("the API lists no student at all: is the token allowed to see them? The next run reads everything again",)
        if crawled.empty
        else ()
    )
    stays = (f"student {key} of the approved plan was not proved gone, and stays" for key in settled.unproved)
    return (*empty, *stays)


def _ended(crawled: CrawlResult) -> frozenset[RunKind]:
    """Return of which kinds the open plans end with this run, which passed the guard: a sweep ends them all.

    A run whose deleted feed told nothing has not seen again what an earlier one planned.
    """
    if crawled.swept:
        return frozenset(RunKind)
    incremental = crawled.kind is RunKind.INCREMENTAL and crawled.deleted.clean
    return frozenset({RunKind.INCREMENTAL}) if incremental else frozenset()
