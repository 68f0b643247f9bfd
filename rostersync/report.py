"""Define the request for a run, the report of a run, and the result of `verify`.

The `--json` output and the view `sync_run` use the names of the fields in this module. Other programs depend on the
names of these fields, so do not rename the fields.
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
"""A function that a run calls to report its progress.

The arguments are the name of the list, the number of rows read so far, and the total number of rows.
"""


def ignore_progress(_what: str, _done: int, _total: int) -> None:
    """Do nothing. Callers that do not show progress use this function as their `ProgressCallback`."""


class RunKind(enum.StrEnum):
    """The kind of a run, which determines what the run reads."""

    INCREMENTAL = "incremental"
    FULL = "full"
    GROWTH = "growth"
    """A full run without a limit on the number of new students.

    This kind occurs only in requests, and the run that executes the request has the kind `full`.
    """
    REFRESH = "refresh"
    """A run that reads single students after they were written to ManageBac.

    A refresh does not count as a sync when the freshness of the replica is determined.
    """


class RequestState(enum.StrEnum):
    """The state of a request for a run."""

    PENDING = "pending"
    TAKEN = "taken"
    """A process executes the request, or has died while it did so."""
    DONE = "done"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


class RunState(enum.StrEnum):
    """The state in which a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HELD = "held"
    INCOMPLETE = "incomplete"
    DRY_RUN = "dry_run"

    @property
    def exit_status(self) -> int:
        """The exit status of a command if it executed only one run, which ended in this state.

        For the exit status of a dry run, use `RunReport.exit_status`.
        """
        return {"failed": 1, "incomplete": 1, "held": 3}.get(self.value, 0)


class RunRequest(msgspec.Struct, frozen=True):
    """A request to execute a run.

    If `approves` is not None, it is the id of a held run whose removals the new run carries out. If no process executes
    the request within `wait`, the request expires. If `wait` is None, the request never expires. `ids` are the ids of
    the students to refresh. `request_id` is the request's number in the database, or 0 if the request is not stored
    yet.
    """

    source: str
    kind: RunKind
    approves: int | None = None
    wait: timedelta | None = timedelta(seconds=60)
    ids: tuple[int, ...] = ()
    request_id: int = 0


class Watermarks(msgspec.Struct, frozen=True):
    """Runs have read all changes in a feed up to the feed's watermark.

    A watermark is None if no run has read the feed yet.
    """

    modified: datetime | None = None
    deleted: datetime | None = None


class SourceState(msgspec.Struct, frozen=True):
    """Facts about a source that the database keeps between runs. All times are in UTC."""

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
    """Whether the database has a detail (see `rostersync.projections`) for at least one student."""


class Received(msgspec.Struct, frozen=True):
    """How many distinct records a run received.

    `undecodable` counts the records that cannot be decoded, and `without_id` counts the records without a readable id.
    `news` counts the records, and `undecodable_news` counts the undecodable records, of students who were not in
    quarantine before the run. A further bad record of a student who is already in quarantine does not suggest that the
    API has changed.
    """

    news: int = 0
    undecodable_news: int = 0
    undecodable: int = 0
    without_id: int = 0


class UnclearCounts(msgspec.Struct, frozen=True):
    """The number of GET requests for single ids that returned neither a student nor a 404.

    `received` is the number of requested ids that were in a list of students. `in_deleted_feed` is the number of
    requested ids that were in the deleted feed.
    """

    total: int = 0
    received: int = 0
    in_deleted_feed: int = 0


class Counts(msgspec.Struct, frozen=True):
    """The numbers of students that a run inserted, updated, and so on.

    `fetched` is the number of distinct students that the run received, not counting the deleted feed. `fetched` is the
    sum of `inserted`, `updated`, `unchanged`, `restored`, `quarantined` and `ignored`:

    * `unchanged` also counts students for whom the GET response did not show whether they exist.
    * `ignored` counts the students who are in a list although their row or GET says that they are deleted.

    `deleted`, `stale` and `removals_held` are not included in `fetched`. `stale` is the number of students that the run
    requested again because the received row was older than the stored row.
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
    """The outcome of a run, and its effect on the stored state of its source.

    The module `rostersync.sync.outcome` determines the outcome. `source` is the state of the source after the run.
    `error` says why the run did not succeed, `hint` says what to do about it, and `notices` contains further messages.
    `was_denied` is true if the run failed because the API refused the token with the status 401 or 403.
    """

    kind: RunKind
    state: RunState
    source: SourceState
    error: str | None = None
    hint: str = ""
    notices: tuple[str, ...] = ()
    was_denied: bool = False
    guarded: int = 0
    """The number of removals that this run carries out without an approval."""
    holds: bool = False
    """Whether the run holds all removals that no approved plan contains.

    The held removals form a new plan, which waits for approval.
    """
    closes_plans: frozenset[RunKind] = frozenset()
    """The kinds of held runs whose open plans this run closes, because this run has made these plans obsolete."""
    swept: bool = False
    """Whether the run has completed a sweep.

    After a sweep, records without an id leave the quarantine unless the run has received them again.
    """


class RunReport(msgspec.Struct, frozen=True):
    """The report of a finished run of one source.

    `run_id` is None for a dry run, or if the run is not stored yet. If the run did not succeed, `error` is the reason.
    `notices` contains further messages. `was_denied` is true if the run failed because the API refused the token with
    the status 401 or 403. The database does not store `was_denied`.
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
        """Return the report in the form that `sync --json` prints."""
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
    """A student whose record in the replica is wrong.

    `kind` is `missing`, `surplus`, `twice` (stored twice) or `differs`. `fields` has the names of the fields that
    differ, and is empty unless `kind` is `differs`.
    """

    id: int
    kind: str
    fields: tuple[str, ...] = ()


class Verification(msgspec.Struct):
    """The result of comparing the replica of a source with ManageBac.

    `found` is the number of all differences. `differences` contains at most the first 1,000 differences. `pending` is
    the number of changes that are not counted as differences, either because the next incremental run will apply them,
    or because a run has applied them since the comparison began. If some students could not be compared, `error` is the
    reason.
    """

    source: str
    students: int = 0
    pending: int = 0
    found: int = 0
    differences: list[Difference] = msgspec.field(default_factory=list)
    error: str | None = None

    @property
    def exit_status(self) -> int:
        """The exit status: 0 if the replica matches the API, 1 if it differs or the comparison was not complete."""
        return 1 if self.found or self.error else 0

    def to_json(self) -> dict[str, Any]:
        """Return the result in the form that `verify --json` prints."""
        state = "differs" if self.found else "cannot tell" if self.error else "equal"
        differences = [{"id": d.id, "kind": d.kind, "fields": list(d.fields)} for d in self.differences]
        figures = {"students": self.students, "pending": self.pending, "differing": self.found}
        return {"source": self.source, "state": state, **figures, "differences": differences, "error": self.error}
