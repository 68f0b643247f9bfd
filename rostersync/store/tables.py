"""The tables. They are ours to change by migration; what others may rely on are the views.

A student's row is their newest version, living or tombstone, and carries the facts of that version (`valid_from`, `op`,
`changed_fields`, `run_id`); `student_version` holds the superseded ones only. So the first load writes no history.

The program reads and writes them as SQLAlchemy's plain tables, because importing the mapper takes as long as a sixth of
a small command. `rostersync.models` maps classes to them for reports in Python.
"""

from __future__ import annotations

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
from rostersync.store.types import COLUMN_TYPES, Json, JsonTuple, Timestamp

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

PAYLOAD = (*FIELD_NAMES, "extra")
"""The columns for what the API says of a student, `id` aside."""

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself

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
    """Return the reference to the source of a student's row, which only SQLite checks.

    PostgreSQL would look up the source of each row, and inserting a row would take four times as long. A run's
    transaction locks the row of its source before it writes students, and `source forget` deletes both at once. On
    SQLite the check costs nothing, and to drop it would rebuild the table.
    """
    only = "sqlite"
    return ForeignKeyConstraint(["source"], ["source.name"], info={"only": only}).ddl_if(dialect=only)


def _partial_index(name: str, *columns: Column[Any], rows: ColumnElement[bool]) -> None:
    """Add an index of some rows of a table. A query can use it if its WHERE contains `rows`, without parameters."""
    Index(name, *columns, info={"rows": rows})


@compiles(CreateIndex)
def _create_index(create: CreateIndex, compiler: Any, **options: Any) -> str:
    """Return the statement with the rows of a partial index: SQLAlchemy's own options would import both dialects."""
    statement: str = compiler.visit_create_index(create, **options)
    if (rows := create.element.info.get("rows")) is None:
        return statement
    return f"{statement} WHERE {compiler.sql_compiler.process(rows, include_table=False)}"


# A school: how far it was read, and who may write it.
source = Table(
    "source",
    metadata,
    Column("name", Text, primary_key=True),
    _figure("fence"),  # grows with each holder of the lock; a commit by an earlier one changes nothing
    Column("holder", Text),
    Column("held_since", Timestamp),
    Column("modified_watermark", Timestamp),
    Column("deleted_watermark", Timestamp),
    Column("last_clean_modified_at", Timestamp),
    Column("last_clean_full_at", Timestamp),
    Column("history_starts_at", Timestamp),
    Column("deleted_feed_ignored", Boolean, nullable=False, default=False),  # its filter, when it was last read
    Column("unknown_keys", Json, nullable=False, default=list),  # salted hashes of keys of `extra` that were reported
    Column("salt", LargeBinary),
    Column("fingerprint", LargeBinary),  # of token and base_url, salted: whether the name still means the same school
    Column("keys", Json),  # which keys lists and GET serve: `projections.Keys`; NULL: no full run has found out yet
    _head_count("living"),  # how many students the table `student` has, by state: `head_count`
    _head_count("enrolled"),
    _head_count("deleted"),
)

# One run of one source, ended. Its figures are those of `report.Counts`.
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
    _figure("guarded"),  # its removals that nobody approved: what the guard counts over 24 hours
    Column("notices", Json, nullable=False, default=list),  # what else its caller is to know, ids and counts only
    Column("plan", Text),  # `open`, `approved` or `superseded` where the guard held removals of it
    sqlite_autoincrement=True,
)

# There will be millions of runs, so each query of a run, of `status` and of a daemon has an index of the rows that it
# may return. The view `sync_health` has the first two conditions. Both leave refreshes out, in different words:
# otherwise SQLite would look for the newest success in the index of all runs.
_COUNTS = run.c.kind.in_([literal_column("'incremental'"), literal_column("'full'")])
_IS_SUCCESS = and_(
    run.c.kind != literal_column("'refresh'"),
    run.c.state.in_([literal_column("'succeeded'"), literal_column("'held'")]),
)
PLAN_IS_OPEN = run.c.plan == literal_column("'open'")
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

# A request for a run: `pending`, `taken`, and `done`; or `withdrawn`, or `failed` without a run.
run_request = Table(
    "run_request",
    metadata,
    Column("request_id", Key, primary_key=True),
    Column("source", Text, ForeignKey("source.name"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("approves", Key),
    Column("ids", JsonTuple),  # the students of a refresh
    Column("state", Text, nullable=False),
    Column("requested_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp),
    Column("waiters", BigInteger, nullable=False),
    Column("run_id", Key),
    Column("error", Text),  # why it failed; `hint` is what to do next
    Column("hint", Text),
    Column("reads", Text),  # how far a daemon's run is: what it reads, how many of its rows it has, and of how many
    Column("rows_done", BigInteger),
    Column("rows_total", BigInteger),
    sqlite_autoincrement=True,
)
REQUEST_IS_OPEN = run_request.c.state.in_([literal_column("'pending'"), literal_column("'taken'")])
_partial_index("ix_run_request_open", run_request.c.state, run_request.c.source, rows=REQUEST_IS_OPEN)

# A daemon, as it was last seen: it writes its row every few seconds, and takes it away at its end.
daemon = Table(
    "daemon",
    metadata,
    Column("name", Text, primary_key=True),  # as in the `holder` of a source: it tells host and process
    Column("seen_at", Timestamp, nullable=False),
    Column("sources", Json, nullable=False),  # by name: is it `standby`, and when are its runs next due (or null)
)

# Something that somebody did, or set out to do. It outlives its source, which is therefore no foreign key.
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
    Column("fields", JsonTuple, nullable=False),  # their names: no value of a field is ever here
    Column("counts", Json, nullable=False, default=dict),
    Column("outcome", Text, nullable=False),
    sqlite_autoincrement=True,
)

# A record that could not be decoded; `id` is negative for one without a readable id.
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

# What GET serves of a living student and lists do not. Sources whose lists serve everything have no rows here.
student_detail = Table(
    "student_detail",
    metadata,
    Column("source", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("record", LargeBinary),  # `records.encode` of these keys; NULL: there are none, or GET has not answered yet
    Column("updated_ms", BigInteger),  # the `updated_at` that the record belongs to, in milliseconds since 1970
    Column("settled", Boolean, nullable=False),  # read so late that no other record can have the same `updated_at`
    Column("read_at", Timestamp),
    Column("waiting_since", Timestamp),  # since when GET should be asked again; NULL: it need not be
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
