"""Define the request for a run, the report of a run, and the result of `verify`.

The `--json` output and the view `sync_run` use the same names, and programs rely on these.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

from rostersync.clock import to_text
from rostersync.projections import Keys

if TYPE_CHECKING:
    from datetime import datetime

ProgressCallback = Callable[[str, int, int], None]
"""A function that a run calls while it reads, with the name of the list, the rows read so far, and their total."""


def ignore_progress(_what: str, _done: int, _total: int) -> None:
    """Do nothing. This is the `ProgressCallback` for callers that do not show progress."""


class RunKind(enum.StrEnum):
    """What a run reads."""

    INCREMENTAL = "incremental"
    FULL = "full"
    GROWTH = "growth"
    """A full run that may insert any number of students. Only a request has this kind. Its run has the kind `full`."""
    REFRESH = "refresh"
    """A run that reads single students after a write. It does not make the replica count as fresh."""


class RunState(enum.StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HELD = "held"
    INCOMPLETE = "incomplete"
    DRY_RUN = "dry_run"

    @property
    def exit_status(self) -> int:
        """The exit status of a command that did only this run. For a dry run, use `RunReport.exit_status`."""
        return {"failed": 1, "incomplete": 1, "held": 3}.get(self.value, 0)


class RunRequest(msgspec.Struct, frozen=True):
    """A request to execute a run.

    `approves` is the id of the held run that the new run should complete, by carrying out its removals. If no process
    takes the request within `wait`, it expires; with None it never does. `ids` are the students of a refresh.
    `request_id` is the request's number in the database, or 0 before it is stored there.
    """

    source: str
    kind: RunKind
    approves: int | None = None
    wait: timedelta | None = timedelta(seconds=60)
    ids: tuple[int, ...] = ()
    request_id: int = 0


class Watermarks(msgspec.Struct, frozen=True):
    """For each stream of changes, the time up to which we have read it; None if we never have."""

    modified: datetime | None = None
    deleted: datetime | None = None


class SourceState(msgspec.Struct, frozen=True):
    """What the database keeps about a source from one run to the next. All times are in UTC."""

    watermarks: Watermarks = Watermarks()
    last_clean_modified_at: datetime | None = None
    last_clean_full_at: datetime | None = None
    history_starts_at: datetime | None = None
    deleted_feed_ignored: bool = False
    unknown_keys: tuple[str, ...] = ()
    salt: bytes | None = None
    fingerprint: bytes | None = None
    keys: Keys = Keys()
    has_details: bool = False
    """Whether the database has the detail of any student (see `rostersync.projections`)."""


class Received(msgspec.Struct, frozen=True):
    """How many distinct records a run received.

    `undecodable` counts the records that cannot be decoded, and `without_id` those without a readable id. `news` counts
    all records, and `undecodable_news` the undecodable ones, both without the students who were in quarantine before
    the run: another bad record of theirs does not suggest that the API has changed.
    """

    news: int = 0
    undecodable_news: int = 0
    undecodable: int = 0
    without_id: int = 0


class UnclearCounts(msgspec.Struct, frozen=True):
    """The number of ids that GET answered neither with a student nor with a 404.

    `received` is how many of these ids a student list had, and `in_deleted_feed` how many the deleted feed had.
    """

    total: int = 0
    received: int = 0
    in_deleted_feed: int = 0


class Counts(msgspec.Struct, frozen=True):
    """The numbers of students that a run inserted, updated, and so on.

    `fetched` counts the distinct students that the run received, except from the deleted feed. It is the sum of the
    next six:

    * `unchanged` includes students about whom GET gave no clear answer.
    * `ignored` counts students who were listed although they are deleted, as their row or GET says.

    `deleted`, `stale` (received older than stored, and therefore requested again) and `removals_held` are not part of
    the sum.
    """

    fetched: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    restored: int = 0
    quarantined: int = 0
    ignored: int = 0
    deleted: int = 0
    stale: int = 0
    removals_held: int = 0

    def __post_init__(self) -> None:
        parts = self.inserted + self.updated + self.unchanged + self.restored + self.quarantined + self.ignored
        if self.fetched != parts:
            msg = f"the run's figures do not add up: {self.fetched} fetched, but {parts} accounted for"
            raise AssertionError(msg)


class RunOutcome(msgspec.Struct, frozen=True):
    """How a run ends, and what it changes about its source. `rostersync.sync.outcome` decides it.

    `source` is what is known about the source after the run. `error` says why the run is not a success, `hint` says
    what to do about it, and `notices` are further messages. `was_denied` is true if the run failed because the API
    refused the token (401 or 403).
    """

    kind: RunKind
    state: RunState
    source: SourceState
    error: str | None = None
    hint: str = ""
    notices: tuple[str, ...] = ()
    was_denied: bool = False
    guarded: int = 0
    """The number of this run's removals that no approval covers."""
    holds: bool = False
    """Whether the removals in the stage wait for approval as a new plan, unless an approved plan covers them."""
    closes_plans: frozenset[RunKind] = frozenset()
    """This run closes the open plans of held runs of these kinds, because it makes them pointless."""
    swept: bool = False
    """Whether the run has swept. If so, records without an id that it did not see leave the quarantine."""


class RunReport(msgspec.Struct, frozen=True):
    """The report of a finished run of one source.

    `run_id` is None before the run is stored, and for a dry run. `error` says why the run is not a success, and
    `notices` are further messages. `was_denied` is true if the run failed because the API refused the token (401 or
    403). The database does not store `was_denied`.
    """

    run_id: int | None
    source: str
    kind: RunKind
    state: RunState
    counts: Counts
    requests: int
    retries: int
    duration_s: float
    watermarks: Watermarks
    started_at: datetime
    finished_at: datetime
    error: str | None = None
    hint: str = ""
    notices: tuple[str, ...] = ()
    exit_status: int = 0
    was_denied: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the report as `sync --json` prints it."""
        marks = self.watermarks
        return {
            "run_id": self.run_id,
            "source": self.source,
            "kind": str(self.kind),
            "state": str(self.state),
            **asdict(self.counts),
            "requests": self.requests,
            "retries": self.retries,
            "duration_s": self.duration_s,
            "watermarks": {
                "modified": marks.modified and to_text(marks.modified),
                "deleted": marks.deleted and to_text(marks.deleted),
            },
            "error": self.error,
        }


class Difference(msgspec.Struct, frozen=True):
    """A student whose replica record is wrong.

    `kind` is `missing`, `surplus`, `twice` (stored twice) or `differs`. Only `differs` has the names of `fields`.
    """

    id: int
    kind: str
    fields: tuple[str, ...] = ()


class Verdict(msgspec.Struct):
    """The result of comparing the replica of a source with ManageBac.

    `found` is the number of all differences; `differences` has at most the first 1,000. `pending` is the number of
    changes that do not count as differences, because the next incremental run will bring them, or because a run has
    brought them since the comparison began. `error` says why some or all students could not be compared.
    """

    source: str
    students: int = 0
    pending: int = 0
    found: int = 0
    differences: list[Difference] = msgspec.field(default_factory=list)
    error: str | None = None

    @property
    def exit_status(self) -> int:
        """0 if the replica matches the API; 1 if it does not, or if the comparison was not complete."""
        return 1 if self.found or self.error else 0

    def to_json(self) -> dict[str, Any]:
        """Return the result as `verify --json` prints it."""
        state = "differs" if self.found else "cannot tell" if self.error else "equal"
        differences = [{"id": d.id, "kind": d.kind, "fields": list(d.fields)} for d in self.differences]
        figures = {"students": self.students, "pending": self.pending, "differing": self.found}
        return {"source": self.source, "state": state, **figures, "differences": differences, "error": self.error}
