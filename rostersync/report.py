"""What a run is asked for and what it did, in the words of `--json` and of the view `sync_run`."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import asdict

from rostersync.clock import to_text
from rostersync.projections import Keys

if TYPE_CHECKING:
    from datetime import datetime

ProgressCallback = Callable[[str, int, int], None]
"""Is called while a run reads: with what is being read, how many of its rows have been, and how many there are."""


def ignore_progress(_what: str, _done: int, _total: int) -> None:
    """Be a `ProgressCallback` that does nothing."""


class RunKind(enum.StrEnum):
    """What a run reads."""

    INCREMENTAL = "incremental"
    FULL = "full"
    GROWTH = "growth"
    """Only in a request: a full run that may insert any number of students."""
    REFRESH = "refresh"
    """Single students, after a write. It counts for nothing that asks how fresh the replica is."""


class RunState(enum.StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HELD = "held"
    INCOMPLETE = "incomplete"
    DRY_RUN = "dry_run"

    @property
    def exit_status(self) -> int:
        """The process's exit status for this run alone; a dry run has that of the run that it stands for."""
        return {"failed": 1, "incomplete": 1, "held": 3}.get(self.value, 0)


class RunRequest(msgspec.Struct, frozen=True):
    """A run that somebody asks for.

    `approves` is the held run whose removals are to be carried out. A request that nobody has taken after `wait` is
    void; None: never. `ids` are the students of a refresh. `request_id` is its number in the database, 0 until it is
    filed there.
    """

    source: str
    kind: RunKind
    approves: int | None = None
    wait: timedelta | None = timedelta(seconds=60)
    ids: tuple[int, ...] = ()
    request_id: int = 0


class Watermarks(msgspec.Struct, frozen=True):
    """Up to where each stream is known to have been read; None: never."""

    modified: datetime | None = None
    deleted: datetime | None = None


class SourceState(msgspec.Struct, frozen=True):
    """What is known of a source between runs. All times are UTC."""

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
    """Whether the detail of any student is stored."""


class Received(NamedTuple):
    """How many distinct records were received. Those in quarantine do not count as news: they are bad as ever."""

    news: int = 0
    undecodable_news: int = 0
    undecodable: int = 0
    without_id: int = 0


class UnclearCounts(NamedTuple):
    """For how many ids GET had neither a student nor a 404, and how many of these which list had named."""

    total: int = 0
    received: int = 0
    in_deleted_feed: int = 0


class Counts(msgspec.Struct, frozen=True):
    """Students by what became of them in one run.

    `fetched` counts the distinct students received as live, each of which is exactly one of inserted, updated,
    unchanged, restored, quarantined and ignored (listed, but found gone). The others stand beside this sum.
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
            msg = f"the run's figures do not add up: fetched {self.fetched}, accounted for {parts}"
            raise AssertionError(msg)


class RunReport(msgspec.Struct, frozen=True):
    """One run of one source, ended. `run_id` is None for a dry run only.

    `was_denied` says that it failed because the API refused the token (401 or 403). The database does not store that.
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
        """Return the run as `sync --json` prints it."""
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
    """A student whose replica record is wrong: `missing`, `surplus`, `differs` in `fields`, or stored `twice`."""

    id: int
    kind: str
    fields: tuple[str, ...] = ()


class Verdict(msgspec.Struct):
    """What a comparison found. `pending` are changes that the next incremental run will bring, or one has brought."""

    source: str
    students: int = 0
    pending: int = 0
    found: int = 0
    differences: list[Difference] = msgspec.field(default_factory=list)
    error: str | None = None

    @property
    def exit_status(self) -> int:
        """0 when the replica is what the API serves; 1 when it is not, or when it cannot be told."""
        return 1 if self.found or self.error else 0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as `verify --json` prints it."""
        state = "differs" if self.found else "cannot tell" if self.error else "equal"
        differences = [{"id": d.id, "kind": d.kind, "fields": list(d.fields)} for d in self.differences]
        figures = {"students": self.students, "pending": self.pending, "differing": self.found}
        return {"source": self.source, "state": state, **figures, "differences": differences, "error": self.error}
