"""The tables. They are ours to change by migration; what others may rely on are the views.

A student's row is their newest version, living or tombstone, and carries the facts of that version (`valid_from`, `op`,
`changed_fields`, `run_id`); `student_version` holds the superseded ones only. So the first load writes no history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rostersync.records import FIELD_NAMES, FIELDS
from rostersync.store.types import COLUMN_TYPES, Json, JsonTuple, Timestamp

PAYLOAD = (*FIELD_NAMES, "extra")
"""The columns for what the API says of a student, `id` aside."""

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        bytes: LargeBinary(),
        int: BigInteger(),
        bool: Boolean(create_constraint=False),
        datetime: Timestamp(),
    }


def student_columns() -> list[Column[Any]]:
    """Return new columns for `PAYLOAD`."""
    typed: list[Column[Any]] = [Column(field.name, COLUMN_TYPES[field.kind]) for field in FIELDS]
    return [*typed, Column("extra", Json, nullable=False)]


class Source(Base):
    """A school: how far it was read, and who may write it."""

    __tablename__ = "source"

    name: Mapped[str] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(default=0)
    """Grows with each holder of the lock; a commit by an earlier holder finds another number and changes nothing."""
    holder: Mapped[str | None]
    held_since: Mapped[datetime | None]
    modified_watermark: Mapped[datetime | None]
    deleted_watermark: Mapped[datetime | None]
    last_clean_modified_at: Mapped[datetime | None]
    last_clean_full_at: Mapped[datetime | None]
    history_starts_at: Mapped[datetime | None]
    deleted_feed_ignored: Mapped[bool] = mapped_column(default=False)
    """Whether the deleted feed ignored its filter when it was last read."""
    unknown_keys: Mapped[list[str]] = mapped_column(Json, default=list)
    """Salted hashes of the keys of `extra` that a run has reported."""
    salt: Mapped[bytes | None]
    fingerprint: Mapped[bytes | None]
    """Of token and base_url, salted: whether the name still means the same school."""


class Run(Base):
    """One run of one source, ended. Its figures are those of `report.Counts`."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "source", "finished_at"), {"sqlite_autoincrement": True})

    run_id: Mapped[int] = mapped_column(Key, primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("source.name"))
    kind: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    fetched: Mapped[int] = mapped_column(default=0)
    inserted: Mapped[int] = mapped_column(default=0)
    updated: Mapped[int] = mapped_column(default=0)
    unchanged: Mapped[int] = mapped_column(default=0)
    restored: Mapped[int] = mapped_column(default=0)
    quarantined: Mapped[int] = mapped_column(default=0)
    ignored: Mapped[int] = mapped_column(default=0)
    deleted: Mapped[int] = mapped_column(default=0)
    stale: Mapped[int] = mapped_column(default=0)
    removals_held: Mapped[int] = mapped_column(default=0)
    requests: Mapped[int] = mapped_column(default=0)
    retries: Mapped[int] = mapped_column(default=0)
    duration_s: Mapped[float]
    modified_watermark: Mapped[datetime | None]
    deleted_watermark: Mapped[datetime | None]
    error: Mapped[str | None]
    guarded: Mapped[int] = mapped_column(default=0)
    """Its removals that nobody approved: what the guard counts over 24 hours."""
    notices: Mapped[list[str]] = mapped_column(Json, default=list)
    """What else its caller is to know, ids and counts only."""
    plan: Mapped[str | None]
    """`open`, `approved` or `superseded` where the guard held removals of it."""


class HeldRemoval(Base):
    """A removal in the plan of a held run."""

    __tablename__ = "held_removal"

    run_id: Mapped[int] = mapped_column(Key, ForeignKey("run.run_id"), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    deletion_source: Mapped[str]
    deleted_at: Mapped[datetime | None]


class RequestRow(Base):
    """A request for a run: `pending`, `taken`, and `done`; or `withdrawn`, or `failed` without a run."""

    __tablename__ = "run_request"
    __table_args__ = (Index(None, "source", "state"), {"sqlite_autoincrement": True})

    request_id: Mapped[int] = mapped_column(Key, primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("source.name"))
    kind: Mapped[str]
    approves: Mapped[int | None] = mapped_column(Key)
    ids: Mapped[tuple[int, ...] | None] = mapped_column(JsonTuple)
    """The students of a refresh."""
    state: Mapped[str]
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    waiters: Mapped[int]
    run_id: Mapped[int | None] = mapped_column(Key)
    error: Mapped[str | None]
    """Why it failed; `hint` is what to do next."""
    hint: Mapped[str | None]
    reads: Mapped[str | None]
    """How far a daemon's run is: what it reads, how many of its rows it has, and how many there are."""
    rows_done: Mapped[int | None]
    rows_total: Mapped[int | None]


class Daemon(Base):
    """A daemon, as it was last seen: it writes its row every few seconds, and takes it away at its end."""

    __tablename__ = "daemon"

    name: Mapped[str] = mapped_column(primary_key=True)
    """As in `Source.holder`: it tells host and process."""
    seen_at: Mapped[datetime]
    sources: Mapped[dict[str, Any]] = mapped_column(Json)
    """By source: whether it is `standby`, and when each kind of run is next due, in ISO 8601, or null."""


class Audit(Base):
    """Something that somebody did, or set out to do. It outlives its source, which is therefore no foreign key."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    audit_id: Mapped[int] = mapped_column(Key, primary_key=True)
    source: Mapped[str]
    at: Mapped[datetime]
    who: Mapped[str]
    host: Mapped[str]
    verb: Mapped[str]
    ids: Mapped[tuple[int, ...]] = mapped_column(JsonTuple)
    fields: Mapped[tuple[str, ...]] = mapped_column(JsonTuple)
    """Their names. No value of a field is ever here."""
    counts: Mapped[dict[str, int]] = mapped_column(Json, default=dict)
    outcome: Mapped[str]


class Quarantine(Base):
    """A record that could not be decoded; `id` is negative for one without a readable id."""

    __tablename__ = "quarantine"

    source: Mapped[str] = mapped_column(ForeignKey("source.name"), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    reason: Mapped[str]
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


student = Table(
    "student",
    Base.metadata,
    Column("source", Text, ForeignKey("source.name"), primary_key=True),
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
)

student_version = Table(
    "student_version",
    Base.metadata,
    Column("source", Text, ForeignKey("source.name"), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("valid_from", Timestamp, primary_key=True),
    Column("valid_to", Timestamp, nullable=False),
    Column("op", Text, nullable=False),
    Column("changed_fields", JsonTuple, nullable=False),
    Column("run_id", Key, nullable=False),
    *student_columns(),
)


class Student(Base):
    """A student's newest version, living or tombstone."""

    __table__ = student


class StudentVersion(Base):
    """A superseded version of a student."""

    __table__ = student_version
