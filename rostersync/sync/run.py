"""One run of a source: read, stage, reconcile, check the guard, and commit once.

`Run.execute` contains the steps, and the methods for the steps are defined in the same order. Other modules explain the
details: `lists` explains how lists are read, `removals` how removals are proven, `watermarks` from which times a run
reads, `outcome` how a run ends, and `store.replica.commit` the transaction. Only this module and `verify` use both the
API and the database.
"""

from __future__ import annotations

import secrets
from collections import Counter
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rostersync.clock import to_milliseconds
from rostersync.errors import ApiError, RunFailed
from rostersync.logger import get_logger
from rostersync.records import Query, Rejected, Student
from rostersync.report import Counts, RunKind, RunReport, RunState
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
from rostersync.sync.outcome import Facts, ListsRead, outcome_of_failure, outcome_of_lists, outcome_of_refresh
from rostersync.sync.removals import Removals

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import Connection

    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback, RunOutcome, RunRequest
    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api
    from rostersync.sync.removals import RemovalOutcome

log = get_logger(__name__)

QUARANTINE_LIMIT = 100
"""The maximum number of quarantined records that one run requests again."""

KNOWN_STUDENT_SAMPLE = 20
"""The number of known students to request if a source's token or address is new."""


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
        stage.byte_limit.most_bytes = policy.stage_bytes
        self._api = api
        self._policy = policy
        self._clock = clock
        self._reader = ListReader(api, stage, policy.attempts, progress)
        self._commit = commit
        self._started_at = to_milliseconds(clock.now())
        self._started = clock.monotonic()
        self._state = source_state(connection, source)
        # A record that equals the stored one is staged only if it may have to be combined with a detail. Before the
        # first run nothing is stored, so there is nothing to compare with.
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
        """Do the run and return its report. "One run" in docs/how-it-works.md explains the same steps.

        If the run cannot read from the API, the report says so, and the failed run is recorded as well. Raises
        `StoreError` if the database fails, and `Stopped` if the process is asked to stop. In these two cases, the run
        is not recorded.
        """
        # 1. Choose the kind of the run.
        kind = watermarks.choose(request.kind, self._state, self._started_at, self._policy)
        try:
            # 2. Check that an approved plan is still open, and that the token still belongs to the same school.
            self._require_open_plan(request)
            self._require_same_school()
            if kind is RunKind.REFRESH:
                counts, outcome = self._refresh(request)
            else:
                # 3. Read the lists into the stage.
                lists = self._read_lists(kind)
                # 4. Check how many records cannot be decoded, and request the quarantined records again.
                self._check_undecodable()
                # 5. Request students who seem to have come back, who seem both new and deleted, or whose row is stale.
                self._settle_contradictions(lists)
                # 6. For each student who seems to have left, decide whether to remove, hold or keep the student.
                removals = self._settle_removals(lists, request)
                # 7. Fetch the details that are due, and combine them with the list rows.
                self._fetch_details(lists)
                # 8. Compare the staged students with the stored ones, and check the number of new students.
                counts = self._compare(request, removals)
                # 9. Decide how the run ends, and what the new watermarks are.
                outcome = self._conclude(lists, removals)
        except (ApiError, RunFailed) as error:  # the run could not read, or must not apply what it read
            counts, outcome = Counts(), outcome_of_failure(kind, error, self._state)
        # 10. Write everything in one transaction. A dry run writes nothing.
        report = self._report(counts, outcome)
        if self._commit is None:
            return replace(report, state=RunState.DRY_RUN)
        result = RunResult(report, outcome, request.request_id, request.approves)
        return replace(report, run_id=self._commit(result))

    def _require_open_plan(self, request: RunRequest) -> None:
        """Raise `RunFailed` if the plan was closed while the request with its approval was waiting."""
        if request.approves is not None and runs.open_hold(self._connection, request.approves) is None:
            hint = "`rostersync status` shows which removals are held now"
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
        hint = (
            "if the token now belongs to another school, add that school under a new name, "
            "and purge the old source: rostersync source forget NAME"
        )
        raise RunFailed(message, hint)

    def _knows_any(self, ids: list[int]) -> bool:
        """Return whether the API has a record, living or deleted, for one of `ids`. Another school has none."""
        answers = (answer for _, answer in self._api.answers(ids))
        return bool(self._api.by_ids(ids)) or any(isinstance(answer, Student | Rejected) for answer in answers)

    def _refresh(self, request: RunRequest) -> tuple[Counts, RunOutcome]:
        """Fetch single students, compare those who still exist with the stored ones, and decide how the refresh ends.

        Raises `RunFailed` if no run has stored anything yet, because a replica with only these students would look like
        the whole school.
        """
        if self._state.history_starts_at is None:
            hint = "the first run creates the replica: rostersync sync"
            raise RunFailed(f"source {self._source} has no replica yet", hint)
        fetched = refresh.fetch(self._api, self._stage, request.ids)
        self._details.ask_for(request.ids)
        self._combine(settled_before=None)
        counts = Comparison(self._stage).judge()
        return counts, outcome_of_refresh(fetched, replace(self._state, keys=self._details.keys))

    def _read_lists(self, kind: RunKind) -> ListsRead:
        """Read the modified feed or the roster, and then the deleted feed.

        The first response gives the server's time. If the response has no `Date` header, or if a watermark is ahead of
        the server's time, the run is full, because the feeds since the watermarks may be incomplete.
        """
        before, overlap = self._state.watermarks, self._policy.overlap
        query = Query()
        if kind is RunKind.INCREMENTAL:
            assert before.modified is not None, "watermarks.choose"
            query = Query(modified_since=watermarks.filter_start(before.modified, overlap))
        first = self._api.first_page(query)
        dated = first.moment.server is not None
        in_future = watermarks.in_future(before, first.moment, overlap)
        if kind is RunKind.INCREMENTAL and dated and not in_future:
            assert before.deleted is not None, "watermarks.choose"
            changes = self._reader.students(query, first)  # read first, so that a later deletion wins
            deletions = self._reader.deleted(watermarks.filter_start(before.deleted, overlap))
            return ListsRead(RunKind.INCREMENTAL, changes, deletions)
        if kind is RunKind.INCREMENTAL:
            reason = "in the future" if in_future else "no Date"
            log.warning("watermarks_not_usable", source=self._source, reason=reason)
            first = self._api.first_page(Query())
        roster = self._reader.students(Query(), first)
        if roster.total == 0 and (live := live_students(self._connection, self._source)) > 0:
            message = f"the API lists no students, but the replica holds {live}"
            raise RunFailed(message, "nothing was removed; check the token's permissions and ManageBac's students")
        deletions = self._reader.deletions_until(roster, before.deleted, overlap)
        return ListsRead(RunKind.FULL, roster, deletions, dated=dated, watermark_in_future=in_future)

    def _check_undecodable(self) -> None:
        """Raise `RunFailed` if too many records cannot be decoded. If not, request the quarantined records again.

        A record stays in quarantine if the API does not return it.
        """
        received = self._stage.received()
        guard.check_rejection_rate(received.news, received.undecodable_news)
        # Request the old bad records only after the check, because they do not mean that the API has changed.
        waiting = quarantined(self._connection, self._source, QUARANTINE_LIMIT)
        shown = stage_living(self._api, self._stage, waiting)
        for key, answer in self._api.answers([key for key in waiting if key not in shown]):
            self._stage.put_answer(key, answer, in_quarantine=True)

    def _settle_contradictions(self, lists: ListsRead) -> None:
        """Request by GET the students for whom the lists contradict each other or the replica.

        A restored student must be proven by GET. A new student must be proven by GET only if the deleted feed lists the
        student. A current student who is in both lists becomes a candidate for removal, unless the roster was clean. If
        a student leaves after the roster was read, the next run sees the deletion, because it reads the deleted feed
        from the time of this roster.
        """
        ask(self._api, self._stage, self._stage.unproved_restores())
        ask(self._api, self._stage, self._stage.unproved_newcomers())
        if lists.kind is RunKind.INCREMENTAL:
            fetch_stale(self._api, self._stage)

    def _settle_removals(self, lists: ListsRead, request: RunRequest) -> RemovalOutcome:
        held = partial(runs.held_students, self._connection, self._source)
        approved = None if request.approves is None else runs.planned_removals(self._connection, request.approves)
        removals = Removals(self._api, self._stage, held, self._guard)
        return removals.settle(lists.kind, sweep=lists.swept, plan=approved)

    def _guard(self, removals: int) -> str:
        """Return why this many removals must wait for approval, or "" if they need not wait."""
        if not removals:  # as in most runs, which do not need the queries
            return ""
        recent = recent_removals(self._connection, self._source, self._started_at)
        live = live_students(self._connection, self._source)
        if not guard.holds(removals, recent, live, self._policy.guard):
            return ""
        before = f", after {recent} in the last 24 hours" if recent else ""
        return f"more removals than the guard allows: {removals} of {live} students{before}"

    def _fetch_details(self, lists: ListsRead) -> None:
        self._details.learn(clean_roster=lists.clean_roster)
        self._details.ask()
        self._combine(self._settled_before(lists))

    def _combine(self, settled_before: datetime | None) -> None:
        """Combine the list row and the detail of each student who has both: see `StagedDetails.combine`."""
        if self._state.has_details or self._stage.details.are_new:
            keys, everybody = self._details.keys, self._details.renews_all
            self._stage.details.combine(keys, settled_before=settled_before, now=self._now(), everybody=everybody)

    def _settled_before(self, lists: ListsRead) -> datetime | None:
        """Return the `updated_at` up to which GET has returned every change, because GET was sent after the list.

        The result is the server's time when the list was read, minus the overlap. If there was no `Date` header, the
        result is the `updated_at` of the newest row, minus twice the overlap, because that time may itself be wrong by
        the overlap. The result is None if there is no such row either.
        """
        if (read_at := lists.students.moment.server) is not None:
            return read_at - self._policy.overlap
        newest = self._stage.details.newest()
        return newest and newest - 2 * self._policy.overlap

    def _compare(self, request: RunRequest, removals: RemovalOutcome) -> Counts:
        """Return the counts of a run. Raises `RunFailed` if it would insert far more students than are stored."""
        counts = Comparison(self._stage).judge()
        if request.kind is not RunKind.GROWTH and counts.inserted > guard.MOST_NEWCOMERS:
            guard.check_growth(counts.inserted, live_students(self._connection, self._source))
        stale = self._stage.stale_count
        return replace(counts, stale=stale, deleted=removals.removed, removals_held=removals.held)

    def _conclude(self, lists: ListsRead, removals: RemovalOutcome) -> RunOutcome:
        """Collect the facts that decide how the run ends, and return the outcome."""
        facts = Facts(
            lists,
            started_at=self._started_at,
            finished_at=self._now(),
            unclear=self._stage.unclear(),
            removals=removals,
            odd_values=Counter(chain.from_iterable(self._stage.students.odd_fields.values())),
            assumes_utc=self._api.assumes_utc,
        )
        learned = replace(
            self._state,
            unknown_keys=self._report_keys(),
            salt=self._salt,
            fingerprint=self._api.fingerprint(self._salt),
            keys=self._details.keys,
        )
        return outcome_of_lists(facts, learned)

    def _report_keys(self) -> tuple[str, ...]:
        """Log how many unknown keys this run found for the first time, and return the digests of all unknown keys."""
        after = with_digests(self._state.unknown_keys, self._stage.students.extra_keys, self._salt)
        if new := len(after) - len(self._state.unknown_keys):
            log.info("unknown_keys", source=self._source, keys=new, kept_in="extra")
        return after

    def _report(self, counts: Counts, outcome: RunOutcome) -> RunReport:
        return RunReport(
            run_id=None,
            source=self._source,
            kind=outcome.kind,
            state=outcome.state,
            counts=counts,
            requests=self._api.requests,
            retries=self._api.retries,
            duration_s=round(self._clock.monotonic() - self._started, 3),
            watermarks=outcome.source.watermarks,
            started_at=self._started_at,
            finished_at=self._now(),
            error=outcome.error,
            hint=outcome.hint,
            notices=outcome.notices,
            exit_status=outcome.state.exit_status,
            was_denied=outcome.was_denied,
        )

    def _now(self) -> datetime:
        return to_milliseconds(self._clock.now())
