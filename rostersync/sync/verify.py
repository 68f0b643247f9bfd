"""Read all students from the API and compare them with the replica. The replica does not change."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from rostersync.clock import EPOCH
from rostersync.errors import ApiError, RunFailed
from rostersync.records import Query, changed_fields
from rostersync.report import Difference, Verification
from rostersync.store.dry_run import unchanged_database
from rostersync.store.replica import runs
from rostersync.store.replica.comparison import Comparison
from rostersync.store.replica.state import source_state
from rostersync.sync import watermarks
from rostersync.sync.api import ask
from rostersync.sync.lists import ListReader
from rostersync.sync.removals import NAMED, SWEPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.cancel import CancelScope
    from rostersync.report import ProgressCallback, SourceState
    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api, Connect
    from rostersync.sync.watermarks import SyncPolicy

MAX_LISTED_DIFFERENCES = 1_000
"""The maximum number of differences in the result. Further differences are counted, but not listed."""


def verify(
    url: str, source: str, scope: CancelScope, *, policy: SyncPolicy, connect: Connect, progress: ProgressCallback
) -> Verification:
    """Compare the replica of a source with the API. Differences in volatile fields do not count.

    Args:
        url: The URL of the database.
        source: The name of the source.
        scope: The scope of the comparison. If the scope is cancelled, no further request is sent.
        policy: The settings for reading lists.
        connect: A function that opens the API of a source.
        progress: A function that is called while the lists are read.

    Returns:
        The differences. `error` is set if some or all of the students could not be compared.

    Raises:
        StoreError: The database cannot be used.
        ConfigError: The source's token is not available.
        Stopped: The scope was cancelled.

    """
    with unchanged_database(url, source) as (connection, stage), connect(source, scope) as api:
        state, last_run = source_state(connection, source), runs.last(connection, source)
        read_until = state.watermarks.modified or state.last_clean_full_at
        if read_until is None:
            return Verification(source, error="the source was never read in full; run `rostersync sync` first")
        stage.byte_limit.most_bytes = policy.stage_bytes
        reader = ListReader(api, stage, policy.attempts, progress)
        try:
            roster = reader.students(Query(), api.first_page(Query()))
            feed = reader.deletions_until(roster, state.watermarks.deleted, policy.overlap)
            if not roster.clean:
                return Verification(source, error="the roster kept changing while it was read")
            result = Verification(source, students=roster.total)
            since = watermarks.filter_start(read_until, policy.overlap)
            # The last known time of the server, plus the overlap. A later `updated_at` is in the future.
            until = (feed.moment.server or feed.moment.local) + policy.overlap
            comparison = Comparison(stage)
            _note(result, [Difference(key, "twice") for key in comparison.stored_twice()], set())
            for differences in _compare(stage, comparison, api, state, sweep=not roster.without_ids):
                ids = [difference.id for difference in differences]
                _note(result, differences, comparison.pending(ids, since=since, until=until, last_run=last_run))
            result.error = _unknown(stage)
        except (ApiError, RunFailed) as error:
            return Verification(source, error=error.message)
        return result


def _unknown(stage: Stage) -> str | None:
    """Return how many students could not be compared, and why. Return None if all students could be compared."""
    reasons = {
        "students who could not be fetched, so it is not known whether they are gone": stage.unclear().total,
        "records that could not be decoded, so they could not be compared": stage.received().undecodable,
    }
    return "; ".join(f"{reason}: {number}" for reason, number in reasons.items() if number) or None


def _compare(
    stage: Stage, comparison: Comparison, api: Api, state: SourceState, *, sweep: bool
) -> Iterator[list[Difference]]:
    """Yield the differences in chunks, including those that are still pending.

    If `sweep` is true, a student who is missing from the roster counts as someone who seems to have left. As in a run,
    each student who seems to have left or to have come back is first requested by GET. If GET returns a current
    student, the student is compared like a student in the list. If the list contains a student who is deleted in the
    replica, but GET reports the student as gone, the student counts as deleted.
    """
    stage.collect_candidates(*(SWEPT if sweep else NAMED))
    ask(api, stage, chain(stage.candidates(proved=False), stage.unproved_restores()))
    ask(api, stage, stage.gone_ids())  # ask again, because a single 404 may be a temporary fault
    if state.has_details or stage.details.are_new:  # then also compare the keys that only GET returns
        stage.details.combine(state.keys, settled_before=None, now=EPOCH, everybody=True)
    for ids in stage.candidates(proved=True):
        yield [Difference(key, "surplus") for key in ids]
    for ids in comparison.missing():
        yield [Difference(key, "missing") for key in ids]
    # Compare the rows and not their hashes, because a hash shows what was written, but not what the table contains now.
    for pairs in comparison.differing():
        compared = ((stored.id, changed_fields(stored, received)) for stored, received in pairs)
        yield [Difference(key, "differs", names) for key, names in compared if names]


def _note(result: Verification, differences: list[Difference], pending: set[int]) -> None:
    real = [difference for difference in differences if difference.id not in pending]
    result.pending += len(differences) - len(real)
    result.found += len(real)
    result.differences += real[: max(0, MAX_LISTED_DIFFERENCES - len(result.differences))]
