"""Define the tables. Other programs must use the views instead, because any migration may change a table.

The table `student` has one row for each student, with the newest version of the student's record. A deleted student has
a row too. The columns `valid_from`, `op`, `changed_fields` and `run_id` describe the newest version. The table
`student_version` contains only superseded versions, so the first load writes no rows to it.

We use the plain tables of SQLAlchemy Core, because importing the ORM would take a sixth of a small command's running
time. The module `rostersync.models` has ORM classes for reports in Python.
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
from rostersync.report import RequestState, RunKind, RunState
from rostersync.store.database.statements import constant
from rostersync.store.database.types import COLUMN_TYPES, Json, JsonTuple, Timestamp

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

PAYLOAD = (*FIELD_NAMES, "extra")
"""The names of the columns that contain the fields of a student's record, except `id`."""


class PlanState(StrEnum):
    """The state of a held run's plan."""

    OPEN = "open"
    APPROVED = "approved"
    SUPERSEDED = "superseded"
    """A later run has replaced the plan."""


class DeletionSource(StrEnum):
    """How a run found out that a student is no longer at the school."""

    STREAM = "stream"
    """The student was in the deleted feed or had a `deleted_at`, or the response to GET showed the deletion."""
    SWEEP = "sweep"
    """The student is missing from the roster of a full run."""


class Op(StrEnum):
    """The kind of change that a version of a student records."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"


Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers new rows only if the key is INTEGER

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def student_columns() -> list[Column[Any]]:
    """Return a new column object for each name in `PAYLOAD`."""
    typed: list[Column[Any]] = [Column(field.name, COLUMN_TYPES[field.kind]) for field in FIELDS]
    return [*typed, Column("extra", Json, nullable=False)]


def _figure(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, default=0)


def _head_count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _of_source() -> ForeignKeyConstraint:
    """Return a foreign key from a student's row to the row of its source. The foreign key exists on SQLite only.

    On PostgreSQL, each insert would take four times as long, because PostgreSQL would look up the source of each row.
    The database is consistent without the foreign key: a run's transaction locks the row of its source before it writes
    students, and `source forget` deletes the source and its students in one transaction. On SQLite we keep the foreign
    key, because the check is cheap, and because SQLite would have to rebuild the table to remove the key.
    """
    only = "sqlite"
    return ForeignKeyConstraint(["source"], ["source.name"], info={"only": only}).ddl_if(dialect=only)


def _partial_index(name: str, *columns: Column[Any], rows: ColumnElement[bool]) -> None:
    """Add an index that contains only the rows that meet the condition `rows`.

    A query can use the index only if the query's WHERE clause contains this condition, written without parameters.
    """
    Index(name, *columns, info={"rows": rows})


@compiles(CreateIndex)
def _create_index(create: CreateIndex, compiler: Any, **options: Any) -> str:
    """Return the CREATE INDEX statement. If the index is partial, the statement has a WHERE clause.

    We do not use SQLAlchemy's own options for partial indexes, because they would import the modules of both dialects.
    """
    statement: str = compiler.visit_create_index(create, **options)
    if (rows := create.element.info.get("rows")) is None:
        return statement
    return f"{statement} WHERE {compiler.sql_compiler.process(rows, include_table=False)}"


# A source is a school. The row of a source records how far the school's feeds have been read, and which process has the
# lock.
source = Table(
    "source",
    metadata,
    Column("name", Text, primary_key=True),
    _figure("fence"),  # each new holder of the lock increases it; a commit with an earlier number fails
    Column("holder", Text),
    Column("held_since", Timestamp),
    Column("modified_watermark", Timestamp),
    Column("deleted_watermark", Timestamp),
    Column("last_clean_modified_at", Timestamp),
    Column("last_clean_full_at", Timestamp),
    Column("history_starts_at", Timestamp),
    Column("deleted_feed_ignored", Boolean, nullable=False, default=False),  # the feed ignored its filter last time
    Column("unknown_keys", Json, nullable=False, default=list),  # salted hashes of the keys that were reported
    Column("salt", LargeBinary),
    Column("fingerprint", LargeBinary),  # salted hash of token and base_url; another hash may mean another school
    Column("keys", Json),  # `projections.Keys`: the keys that lists and GET return; NULL if unknown
    _head_count("living"),  # the numbers of students, which `head_count` explains
    _head_count("enrolled"),
    _head_count("deleted"),
)

# A run of one source. The row is written when the run has ended. The figures are the fields of `report.Counts`, and the
# numbers of requests and retries.
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
    _figure("guarded"),  # the unapproved removals of this run; the guard totals them over 24 hours
    Column("notices", Json, nullable=False, default=list),  # remarks in the report: ids, counts and names of fields
    Column("plan", Text),  # see `PlanState`; NULL if the run did not hold back any removals
    sqlite_autoincrement=True,
)

# The table will have millions of rows. So there is a partial index for each query that a run, a daemon or the command
# `status` makes, and this index contains only the rows that the query may return. The view `sync_health` uses the
# indexes `ix_run_newest` and `ix_run_success`. The conditions of these two indexes exclude refreshes in different ways.
# If both conditions excluded refreshes in the same way, SQLite would search `ix_run_newest` for the newest success.
_COUNTS = run.c.kind.in_([constant(RunKind.INCREMENTAL), constant(RunKind.FULL)])
_IS_SUCCESS = and_(
    run.c.kind != constant(RunKind.REFRESH),
    run.c.state.in_([constant(RunState.SUCCEEDED), constant(RunState.HELD)]),
)
PLAN_IS_OPEN = run.c.plan == constant(PlanState.OPEN)
IS_GUARDED = run.c.guarded > literal_column("0")
_partial_index("ix_run_newest", run.c.source, run.c.run_id, rows=_COUNTS)
_partial_index("ix_run_success", run.c.source, run.c.run_id, rows=_IS_SUCCESS)
_partial_index("ix_run_open_plan", run.c.source, rows=PLAN_IS_OPEN)
_partial_index("ix_run_guarded", run.c.source, run.c.finished_at, rows=IS_GUARDED)

# A removal that belongs to the plan of a held run.
held_removal = Table(
    "held_removal",
    metadata,
    Column("run_id", Key, ForeignKey("run.run_id"), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("deletion_source", Text, nullable=False),
    Column("deleted_at", Timestamp),
)

# A request for a run. The state of a request is `pending`, `taken`, `done`, `withdrawn` (because no process waits for
# the result), or `failed` (because no run was recorded).
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
    Column("error", Text),  # why the request failed
    Column("hint", Text),  # what the user should do next
    Column("reads", Text),  # the list that a daemon's run is reading
    Column("rows_done", BigInteger),  # how many rows of that list have been read
    Column("rows_total", BigInteger),  # how many rows that list has
    sqlite_autoincrement=True,
)
REQUEST_IS_OPEN = run_request.c.state.in_([constant(RequestState.PENDING), constant(RequestState.TAKEN)])
_partial_index("ix_run_request_open", run_request.c.state, run_request.c.source, rows=REQUEST_IS_OPEN)

# A running daemon. Every few seconds, the daemon updates its row. When the daemon ends, it deletes its row.
daemon = Table(
    "daemon",
    metadata,
    Column("name", Text, primary_key=True),  # host and process id, as in the column `holder` of a source
    Column("seen_at", Timestamp, nullable=False),
    Column("sources", Json, nullable=False),  # a `daemons.Watch` for each source
)

# An entry of the audit log. `source` is not a foreign key, because the entry must remain when the source is forgotten.
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
    Column("fields", JsonTuple, nullable=False),  # the names of fields, never their values
    Column("counts", Json, nullable=False, default=dict),
    Column("outcome", Text, nullable=False),
    sqlite_autoincrement=True,
)

# A record that could not be decoded. The column `id` has a negative number if the record has no readable id.
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

# The detail of a current student is the part of the record that GET returns and lists do not. If the lists of a source
# contain every key, the source has no rows in the table `student_detail`.
student_detail = Table(
    "student_detail",
    metadata,
    Column("source", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("record", LargeBinary),  # as `records.encode` writes it; NULL if the detail is empty or was never read
    Column("updated_ms", BigInteger),  # the `updated_at` of the detail, in milliseconds since 1970
    Column("settled", Boolean, nullable=False),  # True if no later change can have the same `updated_at`
    Column("read_at", Timestamp),
    Column("waiting_since", Timestamp),  # since this time, the detail must be read again; NULL if the detail is current
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
