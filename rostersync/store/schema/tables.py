"""Define the tables. Other programs must use the views instead, because any migration may change a table.

The row of a student in `student` is the newest version, living or tombstone. It includes the facts of that version
(`valid_from`, `op`, `changed_fields`, `run_id`). `student_version` has only superseded versions, so the first load
writes no history.

We use plain tables of SQLAlchemy Core, because importing the ORM takes a sixth of the time of a small command.
`rostersync.models` has ORM classes for reports in Python.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    literal_column,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex

from rostersync.records import FIELD_NAMES, FIELDS
from rostersync.store.database.types import COLUMN_TYPES, Json, JsonTuple, Timestamp

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

PAYLOAD = (*FIELD_NAMES, "extra")
"""The columns for the fields of a student's record, except `id`."""


class PlanState(StrEnum):
    """What became of the plan of a held run."""

    OPEN = "open"
    APPROVED = "approved"
    SUPERSEDED = "superseded"
    """A later run has made the plan pointless."""


class DeletionSource(StrEnum):
    """What showed that a student has left."""

    STREAM = "stream"
    """The deleted feed, a `deleted_at`, or GET."""
    SWEEP = "sweep"
    """The student is missing from the roster of a full run."""


class Op(StrEnum):
    """What made a version of a student."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"


Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite generates values only for INTEGER keys

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def student_columns() -> list[Column[Any]]:
    """Return new columns for `PAYLOAD`."""
    typed: list[Column[Any]] = [Column(field.name, COLUMN_TYPES[field.kind]) for field in FIELDS]
    return [*typed, Column("extra", Json, nullable=False)]


def _figure(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, default=0)


def _head_count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _of_source() -> ForeignKeyConstraint:
    """Return the foreign key to the source of a student's row. It exists on SQLite only.

    On PostgreSQL inserting a row would take four times as long, because the source of each row would be looked up. The
    foreign key is not needed: a run's transaction locks the row of its source before it writes students, and
    `source forget` deletes the source and its students in one transaction. On SQLite the check is cheap, and removing
    the foreign key would rebuild the table.
    """
    only = "sqlite"
    return ForeignKeyConstraint(["source"], ["source.name"], info={"only": only}).ddl_if(dialect=only)


def _partial_index(name: str, *columns: Column[Any], rows: ColumnElement[bool]) -> None:
    """Add an index of the rows that meet the condition `rows`.

    A query can use the index if its WHERE contains this condition, without parameters.
    """
    Index(name, *columns, info={"rows": rows})


@compiles(CreateIndex)
def _create_index(create: CreateIndex, compiler: Any, **options: Any) -> str:
    """Return the CREATE INDEX statement, with the WHERE of a partial index.

    SQLAlchemy has options for partial indexes, but they would import both dialects.
    """
    statement: str = compiler.visit_create_index(create, **options)
    if (rows := create.element.info.get("rows")) is None:
        return statement
    return f"{statement} WHERE {compiler.sql_compiler.process(rows, include_table=False)}"


# A school: how far it was read, and which process holds its lock.
source = Table(
    "source",
    metadata,
    Column("name", Text, primary_key=True),
    _figure("fence"),  # raised by each new holder of the lock; a commit with an earlier number is refused
    Column("holder", Text),
    Column("held_since", Timestamp),
    Column("modified_watermark", Timestamp),
    Column("deleted_watermark", Timestamp),
    Column("last_clean_modified_at", Timestamp),
    Column("last_clean_full_at", Timestamp),
    Column("history_starts_at", Timestamp),
    Column("deleted_feed_ignored", Boolean, nullable=False, default=False),  # whether it ignored its filter last time
    Column("unknown_keys", Json, nullable=False, default=list),  # salted hashes of keys of `extra` that were reported
    Column("salt", LargeBinary),
    Column("fingerprint", LargeBinary),  # salted hash of token and base_url; shows if the source may be another school
    Column("keys", Json),  # `projections.Keys`: which keys lists and GET serve; NULL: no run has stored it
    _head_count("living"),  # the number of students by state: see `head_count`
    _head_count("enrolled"),
    _head_count("deleted"),
)

# One run of one source, after it has ended. Its figures are the fields of `report.Counts`, requests and retries.
run = Table(
    "run",
    metadata,
    Column("run_id", Key, primary_key=True),
    Column("source", Text, ForeignKey("source.name"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Timestamp, nullable=False),
    Column("finished_at", Timestamp, nullable=False),
    _figure("fetched"),
    _figure("inserted"),
    _figure("updated"),
    _figure("unchanged"),
    _figure("restored"),
    _figure("quarantined"),
    _figure("ignored"),
    _figure("deleted"),
    _figure("stale"),
    _figure("removals_held"),
    _figure("requests"),
    _figure("retries"),
    Column("duration_s", Double, nullable=False),
    Column("modified_watermark", Timestamp),
    Column("deleted_watermark", Timestamp),
    Column("error", Text),
    _figure("guarded"),  # its removals without approval, which the guard adds up over 24 hours
    Column("notices", Json, nullable=False, default=list),  # remarks of the report: ids, counts and names of fields
    Column("plan", Text),  # see `PlanState`; NULL if the run held no removals
    sqlite_autoincrement=True,
)

# There will be millions of runs. So each query that a run, `status` or a daemon makes has a partial index of the rows
# that it may return. The view `sync_health` uses the first two conditions. Both exclude refreshes, but they are written
# differently on purpose: otherwise SQLite would look for the newest success in the index `ix_run_newest`.
_COUNTS = run.c.kind.in_([literal_column("'incremental'"), literal_column("'full'")])
_IS_SUCCESS = and_(
    run.c.kind != literal_column("'refresh'"),
    run.c.state.in_([literal_column("'succeeded'"), literal_column("'held'")]),
)
PLAN_IS_OPEN = run.c.plan == literal_column(f"'{PlanState.OPEN}'")
IS_GUARDED = run.c.guarded > literal_column("0")
_partial_index("ix_run_newest", run.c.source, run.c.run_id, rows=_COUNTS)
_partial_index("ix_run_success", run.c.source, run.c.run_id, rows=_IS_SUCCESS)
_partial_index("ix_run_open_plan", run.c.source, rows=PLAN_IS_OPEN)
_partial_index("ix_run_guarded", run.c.source, run.c.finished_at, rows=IS_GUARDED)

# A removal in the plan of a held run.
held_removal = Table(
    "held_removal",
    metadata,
    Column("run_id", Key, ForeignKey("run.run_id"), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("deletion_source", Text, nullable=False),
    Column("deleted_at", Timestamp),
)

# A request for a run. Its state is `pending`, `taken`, `done`, `withdrawn` (no process waits for it), or
# `failed` (no run was recorded for it).
run_request = Table(
    "run_request",
    metadata,
    Column("request_id", Key, primary_key=True),
    Column("source", Text, ForeignKey("source.name"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("approves", Key),
    Column("ids", JsonTuple),  # the students to refresh
    Column("state", Text, nullable=False),
    Column("requested_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp),
    Column("waiters", BigInteger, nullable=False),
    Column("run_id", Key),
    Column("error", Text),  # why it failed
    Column("hint", Text),  # what to do next
    Column("reads", Text),  # the progress of a daemon's run: the list that it reads
    Column("rows_done", BigInteger),  # how many rows of that list it has read
    Column("rows_total", BigInteger),  # how many rows that list has
    sqlite_autoincrement=True,
)
REQUEST_IS_OPEN = run_request.c.state.in_([literal_column("'pending'"), literal_column("'taken'")])
_partial_index("ix_run_request_open", run_request.c.state, run_request.c.source, rows=REQUEST_IS_OPEN)

# A running daemon. It updates its row every few seconds, and deletes it when it ends.
daemon = Table(
    "daemon",
    metadata,
    Column("name", Text, primary_key=True),  # the same text as the `holder` of a source, with host and process id
    Column("seen_at", Timestamp, nullable=False),
    Column("sources", Json, nullable=False),  # by source: `standby`, and in `next` the next time by kind of run
)

# An audited action. `source` is not a foreign key, because the row must remain when the source is forgotten.
audit = Table(
    "audit",
    metadata,
    Column("audit_id", Key, primary_key=True),
    Column("source", Text, nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("who", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("ids", JsonTuple, nullable=False),
    Column("fields", JsonTuple, nullable=False),  # names of fields, never their values
    Column("counts", Json, nullable=False, default=dict),
    Column("outcome", Text, nullable=False),
    sqlite_autoincrement=True,
)

# A record that could not be decoded. `id` is negative if the record has no readable id.
quarantine = Table(
    "quarantine",
    metadata,
    Column("source", Text, ForeignKey("source.name"), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("first_seen_at", Timestamp, nullable=False),
    Column("last_seen_at", Timestamp, nullable=False),
)

student = Table(
    "student",
    metadata,
    Column("source", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    *student_columns(),
    Column("content_hash", LargeBinary, nullable=False),
    Column("first_seen_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),
    Column("deletion_source", Text),
    Column("valid_from", Timestamp, nullable=False),
    Column("op", Text, nullable=False),
    Column("changed_fields", JsonTuple, nullable=False),
    Column("run_id", Key, nullable=False),
    _of_source(),
)

# The detail of a living student: the part of the record that only GET serves. Sources have no rows here if their lists
# serve everything.
student_detail = Table(
    "student_detail",
    metadata,
    Column("source", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("record", LargeBinary),  # the detail as `records.encode` writes it; NULL: it has no keys, or was never read
    Column("updated_ms", BigInteger),  # the `updated_at` that the detail belongs to, in milliseconds since 1970
    Column("settled", Boolean, nullable=False),  # whether no later change can have the same `updated_at`
    Column("read_at", Timestamp),
    Column("waiting_since", Timestamp),  # since when the detail must be read again; NULL: it need not be
    _of_source(),
)

student_version = Table(
    "student_version",
    metadata,
    Column("source", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("valid_from", Timestamp, primary_key=True),
    Column("valid_to", Timestamp, nullable=False),
    Column("op", Text, nullable=False),
    Column("changed_fields", JsonTuple, nullable=False),
    Column("run_id", Key, nullable=False),
    *student_columns(),
    _of_source(),
)
