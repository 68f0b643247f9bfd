"""Define mapped SQLAlchemy classes for reports in Python. Each reporting view has a class, and so do some tables.

Prefer the views, because we keep their names and columns stable. The classes of views work on any engine, such as
`create_engine(url)`. The classes of tables work only with an engine from
`rostersync.store.database.engine.open_engine`, because on PostgreSQL the tables are in another schema.

All classes are read-only: a flush raises `ReadOnly`. The sync does not use these classes to write to the tables.
Commands do not import this module, because SQLAlchemy's mapper would slow down their start.
"""

from datetime import date, datetime
from typing import Any, ClassVar, NoReturn

from sqlalchemy import BigInteger, Date, Double, Table, Text, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, Relationship, mapped_column, relationship

from rostersync.errors import ReadOnly
from rostersync.store.database.own_schema import OF_VIEWS
from rostersync.store.database.types import Json, JsonTuple, Timestamp
from rostersync.store.schema import tables


class Model(DeclarativeBase):
    """The base class of all mapped classes, which maps Python types to column types.

    A flush of an object raises `ReadOnly`.
    """

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger(),
        str: Text(),
        float: Double(),
        date: Date(),
        datetime: Timestamp(),
        tuple[str, ...]: JsonTuple(),
        tuple[int, ...]: JsonTuple(),
        dict[str, Any]: Json(),
    }


@event.listens_for(Model, "before_insert", propagate=True)
@event.listens_for(Model, "before_update", propagate=True)
@event.listens_for(Model, "before_delete", propagate=True)
def _refuse(_mapper: Any, _connection: Any, target: Model) -> NoReturn:
    raise ReadOnly(
        f"{type(target).__name__} is read-only: only a sync writes to the replica."
        " To change a student, use rostersync.managebac.ManageBac (docs/client.md)"
    )


class _View(Table):
    """A view. On PostgreSQL, SQL always names the view's schema, so a search path or a schema map has no effect."""

    inherit_cache = True
    _use_schema_map = False


@compiles(_View, "postgresql")
def _placed(view: _View, compiler: Any, **options: Any) -> str:
    name: str = compiler.visit_table(view, **options)
    return f"{OF_VIEWS}.{name}"


class _OfView(Model):
    __abstract__ = True
    __table_cls__ = _View


def _of_student(student: str, rows: str, order: str = "") -> Relationship[Any]:
    """Return the relationship between a student and their rows in another table or view."""
    join = f"and_({student}.source == foreign({rows}.source), {student}.id == foreign({rows}.id))"
    return relationship(primaryjoin=join, order_by=f"{rows}.{order}" if order else False, viewonly=True)


# Columns that several classes share ------------------------------------------------------------------------------


class _Key:
    source: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)


class Fields:
    """The fields of `rostersync.records.Student` except `id`, in the same order.

    A test checks that both classes have the same fields.
    """

    email: Mapped[str | None]
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    middle_name: Mapped[str | None]
    nickname: Mapped[str | None]
    other_name: Mapped[str | None]
    preferred_name: Mapped[str | None]
    archived: Mapped[bool | None]
    ui_language: Mapped[str | None]
    created_at: Mapped[datetime | None]
    updated_at: Mapped[datetime | None]
    last_accessed_at: Mapped[datetime | None]
    student_id: Mapped[str | None]
    identifier: Mapped[str | None]
    gender: Mapped[str | None]
    birthday: Mapped[date | None]
    timezone: Mapped[str | None]
    phone_number: Mapped[str | None]
    mobile_phone_number: Mapped[str | None]
    street_address: Mapped[str | None]
    street_address_ii: Mapped[str | None]
    city: Mapped[str | None]
    state: Mapped[str | None]
    zipcode: Mapped[str | None]
    country: Mapped[str | None]
    nationalities: Mapped[tuple[str, ...] | None]
    languages: Mapped[tuple[str, ...] | None]
    parent_ids: Mapped[tuple[int, ...] | None]
    role: Mapped[str | None]
    year_group_id: Mapped[int | None]
    homeroom_advisor_id: Mapped[int | None]
    additional_homeroom_advisor_ids: Mapped[tuple[int, ...] | None]
    ee_advisor_id: Mapped[int | None]
    graduating_year: Mapped[int | None]
    graduated_on: Mapped[date | None]
    withdrawn_on: Mapped[date | None]
    attendance_start_date: Mapped[date | None]
    oa_id: Mapped[str | None]
    sb_id: Mapped[str | None]
    account_uid: Mapped[str | None]
    class_grade: Mapped[str | None]
    class_grade_number: Mapped[int | None]
    program: Mapped[str | None]
    program_code: Mapped[str | None]
    ib_group_id: Mapped[int | None]
    national_id: Mapped[str | None]
    uniq_student_id: Mapped[str | None]
    photo_url: Mapped[str | None]
    status: Mapped[str | None]
    extra: Mapped[dict[str, Any]]


class _Seen:
    first_seen_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class _Version:
    op: Mapped[str]
    changed_fields: Mapped[tuple[str, ...]]
    run_id: Mapped[int]


class _Run:
    run_id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    fetched: Mapped[int]
    inserted: Mapped[int]
    updated: Mapped[int]
    unchanged: Mapped[int]
    restored: Mapped[int]
    quarantined: Mapped[int]
    ignored: Mapped[int]
    deleted: Mapped[int]
    stale: Mapped[int]
    removals_held: Mapped[int]
    requests: Mapped[int]
    retries: Mapped[int]
    duration_s: Mapped[float]
    modified_watermark: Mapped[datetime | None]
    deleted_watermark: Mapped[datetime | None]
    error: Mapped[str | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]


# The views -------------------------------------------------------------------------------------------------------


class SyncRun(_Run, _OfView):
    """A run of a source."""

    __tablename__ = "sync_run"


class SyncHealth(_OfView):
    """A source, and the freshness of its replica."""

    __tablename__ = "sync_health"
    source: Mapped[str] = mapped_column(primary_key=True)
    last_success_at: Mapped[datetime | None]
    age_seconds: Mapped[int | None]
    last_state: Mapped[str | None]
    last_run_id: Mapped[int | None]
    held_run_id: Mapped[int | None]
    live_students: Mapped[int]
    deleted_students: Mapped[int]
    quarantined: Mapped[int]
    modified_watermark: Mapped[datetime | None]
    deleted_watermark: Mapped[datetime | None]
    last_clean_full_at: Mapped[datetime | None]
    history_starts_at: Mapped[datetime | None]
    last_run: Mapped[SyncRun | None] = relationship(
        primaryjoin="foreign(SyncHealth.last_run_id) == SyncRun.run_id", viewonly=True
    )


class StudentHistory(_Key, _Version, Fields, _OfView):
    """A version of a student.

    `valid_to` is the time when the next version replaced this version. For the newest version, `valid_to` is None.
    """

    __tablename__ = "student_history"
    valid_from: Mapped[datetime] = mapped_column(primary_key=True)
    valid_to: Mapped[datetime | None]
    run: Mapped[SyncRun | None] = relationship(
        primaryjoin="foreign(StudentHistory.run_id) == SyncRun.run_id", viewonly=True
    )


class StudentParent(_Key, _OfView):
    """A parent of a current student."""

    __tablename__ = "student_parent"
    parent_id: Mapped[int] = mapped_column(primary_key=True)


class StudentNationality(_Key, _OfView):
    """A nationality of a current student."""

    __tablename__ = "student_nationality"
    nationality: Mapped[str] = mapped_column(primary_key=True)


class StudentLanguage(_Key, _OfView):
    """A language of a current student."""

    __tablename__ = "student_language"
    language: Mapped[str] = mapped_column(primary_key=True)


class CurrentStudent(_Key, Fields, _Seen, _OfView):
    """A student who is not deleted.

    Use `parent_rows`, `nationality_rows` and `language_rows` in joins. To read the lists, use `parent_ids`,
    `nationalities` and `languages`.
    """

    __tablename__ = "current_student"
    history: Mapped[list[StudentHistory]] = _of_student("CurrentStudent", "StudentHistory", "valid_from")
    parent_rows: Mapped[set[StudentParent]] = _of_student("CurrentStudent", "StudentParent")
    nationality_rows: Mapped[set[StudentNationality]] = _of_student("CurrentStudent", "StudentNationality")
    language_rows: Mapped[set[StudentLanguage]] = _of_student("CurrentStudent", "StudentLanguage")


class EnrolledStudent(_Key, Fields, _Seen, _OfView):
    """A current student whose status is `enrolled`. The class has the same relationships as `CurrentStudent`."""

    __tablename__ = "enrolled_student"
    history: Mapped[list[StudentHistory]] = _of_student("EnrolledStudent", "StudentHistory", "valid_from")
    parent_rows: Mapped[set[StudentParent]] = _of_student("EnrolledStudent", "StudentParent")
    nationality_rows: Mapped[set[StudentNationality]] = _of_student("EnrolledStudent", "StudentNationality")
    language_rows: Mapped[set[StudentLanguage]] = _of_student("EnrolledStudent", "StudentLanguage")


class DeletedStudent(_Key, Fields, _Seen, _OfView):
    """A tombstone, which is a deleted student with the last known values of all fields."""

    __tablename__ = "deleted_student"
    deleted_at: Mapped[datetime]
    deletion_source: Mapped[str]
    history: Mapped[list[StudentHistory]] = _of_student("DeletedStudent", "StudentHistory", "valid_from")


# The tables ------------------------------------------------------------------------------------------------------


class Source(Model):
    """A school, with its watermarks and the process that holds its lock."""

    __table__ = tables.source
    name: Mapped[str]
    fence: Mapped[int]
    holder: Mapped[str | None]
    held_since: Mapped[datetime | None]
    modified_watermark: Mapped[datetime | None]
    deleted_watermark: Mapped[datetime | None]
    last_clean_modified_at: Mapped[datetime | None]
    last_clean_full_at: Mapped[datetime | None]
    history_starts_at: Mapped[datetime | None]
    deleted_feed_ignored: Mapped[bool]
    unknown_keys: Mapped[list[str]]
    salt: Mapped[bytes | None]
    fingerprint: Mapped[bytes | None]
    keys: Mapped[dict[str, Any] | None]
    living: Mapped[int]
    enrolled: Mapped[int]
    deleted: Mapped[int]


class Run(_Run, Model):
    """A run, with the columns that the view `sync_run` does not have."""

    __table__ = tables.run
    guarded: Mapped[int]
    notices: Mapped[list[str]]
    plan: Mapped[str | None]


class StudentVersion(_Key, _Version, Fields, Model):
    """An old version of a student, which a newer version has replaced."""

    __table__ = tables.student_version
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime]


class Student(_Key, _Version, Fields, Model):
    """The newest version of a current or deleted student."""

    __table__ = tables.student
    content_hash: Mapped[bytes]
    first_seen_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    deletion_source: Mapped[str | None]
    valid_from: Mapped[datetime]
    versions: Mapped[list[StudentVersion]] = _of_student("Student", "StudentVersion", "valid_from")
