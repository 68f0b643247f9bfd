"""Proof on demand: upstream read in full and compared with the replica, and nothing changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from rostersync.errors import ApiError
from rostersync.records import VOLATILE, changed_fields
from rostersync.store import runs
from rostersync.store.dry_run import unchanged_database
from rostersync.sync import plan
from rostersync.sync.lists import Crawler, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.records import Student
    from rostersync.report import ProgressCallback
    from rostersync.store.stage import Stage
    from rostersync.sync.lists import Api
    from rostersync.sync.plan import SyncPolicy
    from rostersync.sync.run import Connect

MAX_LISTED_DIFFERENCES = 1_000
"""Of more differences than these only the number is told."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A student of whom the replica is wrong: `missing`, `surplus`, or `differs` in `fields`."""

    id: int
    kind: str
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class Verdict:
    """What a comparison found. `pending` are changes that the next incremental run will bring, or one has brought."""

    source: str
    students: int = 0
    pending: int = 0
    found: int = 0
    differences: list[Difference] = field(default_factory=list)
    error: str | None = None

    @property
    def exit_status(self) -> int:
        """0 when the replica is what the API serves; 1 when it is not, or nobody can tell."""
        return 1 if self.found or self.error else 0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as `verify --json` prints it."""
        state = "differs" if self.found else "cannot tell" if self.error else "equal"
        told = [{"id": d.id, "kind": d.kind, "fields": list(d.fields)} for d in self.differences]
        figures = {"students": self.students, "pending": self.pending, "differing": self.found}
        return {"source": self.source, "state": state, **figures, "differences": told, "error": self.error}


def verify(url: str, source: str, *, policy: SyncPolicy, connect: Connect, progress: ProgressCallback) -> Verdict:
    """Compare the replica of `source` in the database at `url` with upstream; volatile fields do not count.

    Raises `StoreError` and `ConfigError`; an API that does not answer, or a roster that does not rest, is a verdict:
    nobody can tell.
    """
    with unchanged_database(url, source) as (connection, stage), connect(source) as api:
        state, last_run = runs.state(connection, source), runs.last(connection, source)
        if state.watermarks.modified is None:
            return Verdict(source, error="it was never read; run `rostersync sync` first")
        crawler = Crawler(api, stage, state, policy, progress)
        try:
            roster = crawler.roster()
            feed = crawler.departures(roster)
            if not roster.clean:
                return Verdict(source, error="the roster kept changing while it was read")
            verdict = Verdict(source, students=roster.total)
            since = plan.since(state.watermarks.modified, policy.overlap)
            # As late as the server's time is known: later stamps, overlap aside, are of the future.
            until = max(roster.moment.server_start, feed.moment.server_start) + policy.overlap
            for differences in _compare(stage, api):
                ids = [difference.id for difference in differences]
                _note(verdict, differences, stage.pending(ids, since=since, until=until, last_run=last_run))
            verdict.error = _untold(stage)
        except ApiError as error:
            return Verdict(source, error=error.message)
        return verdict


def _untold(stage: Stage) -> str | None:
    """Return of whom nobody can tell, and why; None when there is nobody."""
    reasons = {
        "students could not be fetched: nobody can tell whether they are gone": stage.unclear(),
        "records cannot be decoded: nobody can tell what the replica lacks of them": stage.undecoded(),
    }
    return "; ".join(f"{number} {reason}" for reason, number in reasons.items() if number) or None


def _compare(stage: Stage, api: Api) -> Iterator[list[Difference]]:
    """Yield the differences in chunks, those included that are only pending.

    The proofs come first, as in a run: whom GET shows alive is compared like those who were listed, and a tombstone
    that is listed and that GET does not know is none of the living.
    """
    stage.collect_removals(sweep=not stage.lacks_ids())
    ask(api, stage, chain(stage.removals(proved=False), stage.unproved_restores()))
    ask(api, stage, stage.gone_ids())  # once more: one 404 may be a fault of a moment
    for ids in stage.removals(proved=True):
        yield [Difference(key, "surplus") for key in ids]
    stage.judge()
    for ids in stage.missing():
        yield [Difference(key, "missing") for key in ids]
    for pairs in stage.shared():  # the rows themselves: a hash tells what was written, not what stands there now
        compared = ((stored.id, _differing(stored, sighted)) for stored, sighted in pairs)
        yield [Difference(key, "differs", names) for key, names in compared if names]


def _differing(stored: Student, sighted: Student) -> tuple[str, ...]:
    return tuple(name for name in changed_fields(stored, sighted) if name not in VOLATILE)


def _note(verdict: Verdict, differences: list[Difference], pending: set[int]) -> None:
    real = [difference for difference in differences if difference.id not in pending]
    verdict.pending += len(differences) - len(real)
    verdict.found += len(real)
    verdict.differences += real[: max(0, MAX_LISTED_DIFFERENCES - len(verdict.differences))]
