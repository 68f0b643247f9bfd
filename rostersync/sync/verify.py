"""Proof on demand: upstream read in full and compared with the replica, and nothing changed."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from rostersync.clock import EPOCH
from rostersync.errors import ApiError, RunFailed
from rostersync.records import Query, changed_fields
from rostersync.report import Difference, Verdict
from rostersync.store import runs
from rostersync.store.comparison import Comparison
from rostersync.store.dry_run import unchanged_database
from rostersync.sync import plan
from rostersync.sync.api import ask
from rostersync.sync.lists import ListReader
from rostersync.sync.removals import NAMED, SWEPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.report import ProgressCallback, SourceState
    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api, Connect
    from rostersync.sync.plan import SyncPolicy

MAX_LISTED_DIFFERENCES = 1_000
"""Beyond this many differences only the number is reported."""


def verify(url: str, source: str, *, policy: SyncPolicy, connect: Connect, progress: ProgressCallback) -> Verdict:
    """Compare the replica of `source` in the database at `url` with upstream; volatile fields do not count.

    Raises `StoreError` and `ConfigError`. An API that does not answer, or a roster that does not rest, makes a verdict
    with an `error`.
    """
    with unchanged_database(url, source) as (connection, stage), connect(source) as api:
        state, last_run = runs.state(connection, source), runs.last(connection, source)
        read_until = state.watermarks.modified or state.last_clean_full_at
        if read_until is None:
            return Verdict(source, error="it was never read in full; run `rostersync sync` first")
        stage.room.most_bytes = policy.stage_bytes
        reader = ListReader(api, stage, policy.attempts, progress)
        try:
            roster = reader.students(Query(), api.first_page(Query()))
            feed = reader.deletions_until(roster, state.watermarks.deleted, policy.overlap)
            if not roster.clean:
                return Verdict(source, error="the roster kept changing while it was read")
            verdict = Verdict(source, students=roster.total)
            since = plan.filter_start(read_until, policy.overlap)
            # As late as the server's time is known: later stamps, overlap aside, are of the future.
            until = (feed.moment.server or feed.moment.local) + policy.overlap
            comparison = Comparison(connection, source)
            _note(verdict, [Difference(key, "twice") for key in comparison.stored_twice()], set())
            for differences in _compare(stage, comparison, api, state):
                ids = [difference.id for difference in differences]
                _note(verdict, differences, comparison.pending(ids, since=since, until=until, last_run=last_run))
            verdict.error = _unknown(stage)
        except (ApiError, RunFailed) as error:
            return Verdict(source, error=error.message)
        return verdict


def _unknown(stage: Stage) -> str | None:
    """Return of how many students nothing can be said, and why; None when there are none."""
    reasons = {
        "students who could not be fetched, so that it is unknown whether they are gone": stage.unclear().total,
        "records that cannot be decoded, so that they cannot be compared": stage.received().undecodable,
    }
    return "; ".join(f"{reason}: {number}" for reason, number in reasons.items() if number) or None


def _compare(stage: Stage, comparison: Comparison, api: Api, state: SourceState) -> Iterator[list[Difference]]:
    """Yield the differences in chunks, those included that are only pending.

    The proofs come first, as in a run: whom GET shows alive is compared like those who were listed, and a tombstone
    that is listed and that GET does not know counts as deleted.
    """
    stage.collect_removals(*(NAMED if stage.received().without_id else SWEPT))
    ask(api, stage, chain(stage.removals(proved=False), stage.unproved_restores()))
    ask(api, stage, stage.gone_ids())  # once more: one 404 may be a fault of a moment
    if state.has_details or stage.details.are_new:  # what only GET serves is compared for those whom it was asked for
        stage.details.combine(state.keys, settled_before=None, now=EPOCH, everybody=True)
    for ids in stage.removals(proved=True):
        yield [Difference(key, "surplus") for key in ids]
    for ids in comparison.missing():
        yield [Difference(key, "missing") for key in ids]
    for (
        pairs
    ) in comparison.differing():  # the rows themselves: a hash tells what was written, not what stands there now
        compared = ((stored.id, changed_fields(stored, received)) for stored, received in pairs)
        yield [Difference(key, "differs", names) for key, names in compared if names]


def _note(verdict: Verdict, differences: list[Difference], pending: set[int]) -> None:
    real = [difference for difference in differences if difference.id not in pending]
    verdict.pending += len(differences) - len(real)
    verdict.found += len(real)
    verdict.differences += real[: max(0, MAX_LISTED_DIFFERENCES - len(verdict.differences))]
