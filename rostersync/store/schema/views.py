"""Define the views.

Reporting tools rely on the names and the columns of the views, which are the same on both databases.

At the end of every schema upgrade, the views are changed to match the definitions in this module. The module
`view_upgrade` explains how to change a view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.records import FIELDS
from rostersync.store.database.own_schema import OF_VIEWS

if TYPE_CHECKING:
    from sqlalchemy import Connection

SOURCE = ("source", "Name of the source (the school), as configured")
ID = ("id", "ManageBac's id of the student")
STUDENT = (
    *((field.name, field.description) for field in FIELDS),
    ("extra", "JSON object with keys that rostersync does not know, and values that do not fit their field's type"),
)
SEEN = (
    ("first_seen_at", "When this replica first stored the student (UTC)"),
    ("changed_at", "When the newest version of the student's record began (UTC)"),
)


class View(msgspec.Struct, frozen=True):
    """The definition of a view, with the descriptions of its columns and the query for each database."""

    name: str
    description: str
    columns: tuple[tuple[str, str], ...]
    sqlite: str
    postgresql: str

    def query(self, dialect: str) -> str:
        return self.sqlite if dialect == "sqlite" else self.postgresql


def _view(name: str, description: str, columns: tuple[tuple[str, str], ...], query: str, postgresql: str = "") -> View:
    return View(name, description, columns, query, postgresql or query)


def _list(names: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f'"{name}"' for name, _ in names)


def _elements(view: str, column: str, field: str, description: str) -> View:
    """Return a view with one row for each element of the JSON array `field` of each current student."""
    select = f"SELECT s.source, s.id, {{element}} AS {column} FROM student s, {{each}} e WHERE s.deleted_at IS NULL"
    cast = "CAST(e.value AS bigint)" if column == "parent_id" else "e.value"
    return _view(
        view,
        f"One row for each element of the `{field}` of each current student",
        (SOURCE, ID, (column, description)),
        select.format(element="e.value", each=f"json_each(s.{field})"),
        select.format(element=cast, each=f"jsonb_array_elements_text(s.{field})"),
    )


_STUDENT = _list(STUDENT)
_CURRENT = (
    f"SELECT source, id, {_STUDENT}, first_seen_at, valid_from AS changed_at FROM student WHERE deleted_at IS NULL"
)

_FIGURES = (
    (
        "fetched",
        (
            "Number of distinct students received, not counting the deleted feed. Sum of the columns from inserted to "
            "ignored"
        ),
    ),
    ("inserted", "Students who were added to the replica"),
    ("updated", "Current students with a changed record"),
    ("unchanged", "Students with an unchanged record"),
    ("restored", "Students who had been deleted and are current again"),
    ("quarantined", "Records that could not be decoded"),
    ("ignored", "Students who appeared in a list, but whose row or response to GET says that they are deleted"),
    ("deleted", "Students who were marked as deleted (tombstones)"),
    ("stale", "Students who were fetched again because the first row received was older than the stored row"),
    ("removals_held", "Removals that need approval before they are carried out"),
    ("requests", "Number of requests sent to the API, including retries"),
    ("retries", "Number of requests that repeated a failed request"),
)
_RUN = (
    ("run_id", "Number of the run; later runs have larger numbers"),
    SOURCE,
    ("kind", "incremental, full, or refresh (fetches only students who were just written; sync_health ignores it)"),
    ("state", "succeeded, failed, held or incomplete"),
    *_FIGURES,
    ("duration_s", "Duration in seconds"),
    ("modified_watermark", "Modifications up to this time had been read when the run ended (UTC)"),
    ("deleted_watermark", "Deletions up to this time had been read when the run ended (UTC)"),
    ("error", "Why the run failed, was incomplete, or held back removals"),
    ("started_at", "When the run started (UTC)"),
    ("finished_at", "When the run ended (UTC)"),
)

_HISTORY = (
    SOURCE,
    ID,
    ("valid_from", "When this version began in the replica (UTC)"),
    ("valid_to", "When this version ended (UTC), or NULL for the newest version"),
    ("op", "The change that created the version: insert, update, delete or restore"),
    *STUDENT,
    ("changed_fields", "JSON array of the names of the fields that differ from the previous version"),
    ("run_id", "The run that created the version"),
)
_VERSION = f"source, id, valid_from, {{valid_to}} AS valid_to, op, {_STUDENT}, changed_fields, run_id"

_HEALTH = (
    SOURCE,
    ("last_success_at", "End of the latest successful or held run (UTC), ignoring refreshes and times in the future"),
    ("age_seconds", "Number of seconds since last_success_at"),
    ("last_state", "State of the newest run, ignoring refreshes"),
    ("last_run_id", "The newest run, ignoring refreshes"),
    ("held_run_id", "The newest run with removals that can still be approved"),
    ("live_students", "Number of students in the replica who are not deleted"),
    ("deleted_students", "Number of deleted students in the replica"),
    ("quarantined", "Number of records in quarantine"),
    ("modified_watermark", "Modifications up to this time have been read (UTC)"),
    ("deleted_watermark", "Deletions up to this time have been read (UTC)"),
    ("last_clean_full_at", "When a full run last read a clean roster and left no student undecided or held (UTC)"),
    ("history_starts_at", "The history is complete from this time on (UTC)"),
)
_AUDIT = (
    ("source", "Name of the source, or * if the action concerned the whole database"),
    ("at", "When the action started (UTC)"),
    ("who", "Operating system account of the user"),
    ("host", "Name of the machine on which the action was performed"),
    ("verb", "The kind of action"),
    ("ids", "JSON array of the ids of the students concerned"),
    ("fields", "JSON array of names, never values: the fields set or exported, or the role and its granted views"),
    ("counts", "JSON object with figures about the action; it may be empty"),
    ("outcome", "done, not_taken (applied only in part), refused, unknown, or sending (the process ended too early)"),
)
# The query ignores refreshes, because a refresh reads only a few students. The query also ignores a run whose recorded
# end is more than one minute in the future, because the clock was wrong when that end was recorded. The margin of one
# minute allows for a difference between the clocks of the database server and of the process that recorded the run. The
# two partial indexes of `run` find the newest run and the newest success. BETWEEN and the ORDER BY on the source make
# PostgreSQL use these indexes. If the query used `=`, PostgreSQL might scan the primary key rather than one of these
# indexes, and read every run that the query ignores.
_HEALTH_QUERY = """
SELECT h.source, h.last_success_at, {age} AS age_seconds,
       (SELECT r.state FROM run r WHERE r.run_id = h.last_run_id) AS last_state, h.last_run_id, h.held_run_id,
       h.living AS live_students, h.deleted AS deleted_students,
       (SELECT count(*) FROM quarantine q WHERE q.source = h.source) AS quarantined,
       h.modified_watermark, h.deleted_watermark, h.last_clean_full_at, h.history_starts_at
  FROM (SELECT o.name AS source, o.living, o.deleted,
               o.modified_watermark, o.deleted_watermark, o.last_clean_full_at, o.history_starts_at,
               (SELECT r.finished_at FROM run r
                 WHERE r.source BETWEEN o.name AND o.name AND r.kind <> 'refresh' AND r.state IN ('succeeded', 'held')
                   AND r.finished_at <= {soon}
                 ORDER BY r.source DESC, r.run_id DESC LIMIT 1) AS last_success_at,
               (SELECT r.run_id FROM run r
                 WHERE r.source BETWEEN o.name AND o.name AND r.kind IN ('incremental', 'full')
                 ORDER BY r.source DESC, r.run_id DESC LIMIT 1) AS last_run_id,
               (SELECT max(r.run_id) FROM run r WHERE r.source = o.name AND r.plan = 'open') AS held_run_id
          FROM source o) h
"""

SYNC_HEALTH = _view(
    "sync_health",
    "One row for each source, showing how fresh the replica is",
    _HEALTH,
    _HEALTH_QUERY.format(
        age="max(0, CAST((julianday('now') - julianday(h.last_success_at)) * 86400 AS INTEGER))",
        soon="strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 minute')",
    ),
    _HEALTH_QUERY.format(
        age="CASE WHEN h.last_success_at IS NOT NULL THEN"
        " CAST(floor(greatest(0, extract(epoch FROM now() - h.last_success_at))) AS bigint) END",
        soon="now() + interval '1 minute'",
    ),
)

BARRIER = "WITH (security_barrier)"
"""This option stops PostgreSQL from calling a reader's function with rows that the view excludes."""

VIEWS = (
    _view(
        "current_student",
        "The students who are not deleted, including archived ones",
        (SOURCE, ID, *STUDENT, *SEEN),
        _CURRENT,
    ),
    _view(
        "enrolled_student",
        "The current students with the status `enrolled`",
        (SOURCE, ID, *STUDENT, *SEEN),
        f"{_CURRENT} AND status = 'enrolled'",
    ),
    _view(
        "deleted_student",
        "The students who were deleted (tombstones), with their last known fields",
        (
            SOURCE,
            ID,
            ("deleted_at", "When ManageBac deleted the student or, if unknown, when a run noticed the deletion (UTC)"),
            ("deletion_source", "sweep (missing from the roster of a full run) or stream (found in another way)"),
            *STUDENT,
            *SEEN,
        ),
        f"SELECT source, id, deleted_at, deletion_source, {_STUDENT}, first_seen_at, valid_from AS changed_at "
        "FROM student WHERE deleted_at IS NOT NULL",
    ),
    _elements("student_parent", "parent_id", "parent_ids", "ManageBac's id of a parent or guardian"),
    _elements("student_nationality", "nationality", "nationalities", "One nationality of the student"),
    _elements("student_language", "language", "languages", "One language of the student"),
    _view(
        "student_history",
        "Every version of every student's record, including the newest. To get the students at a time t: "
        "op <> 'delete' AND valid_from <= t AND (valid_to IS NULL OR valid_to > t)",
        _HISTORY,
        f"SELECT {_VERSION.format(valid_to='valid_to')} FROM student_version "
        f"UNION ALL SELECT {_VERSION.format(valid_to='NULL')} FROM student",
    ),
    _view("sync_run", "One row for each run", _RUN, f"SELECT {_list(_RUN)} FROM run"),
    SYNC_HEALTH,
    _view(
        "audit_log",
        "One row for each write, approval, purge, grant and export. The rows of a forgotten source remain",
        _AUDIT,
        f"SELECT {_list(_AUDIT)} FROM audit",
    ),
)


def create_view(connection: Connection, view: View) -> None:
    """Create a view.

    On PostgreSQL, an existing view of the same name is replaced. The new view must begin with the columns of the
    existing view.
    """
    dialect = connection.dialect.name
    create = f"CREATE VIEW {view.name}" if dialect == "sqlite" else f"CREATE OR REPLACE VIEW {placed(view)} {BARRIER}"
    connection.exec_driver_sql(f"{create} AS {view.query(dialect)}")


def placed(view: View) -> str:
    """Return the name of a view with its PostgreSQL schema."""
    return f"{OF_VIEWS}.{view.name}"


def describe_view(connection: Connection, view: View) -> None:
    """Store the descriptions of a view and its columns as comments in PostgreSQL."""
    comments = [("VIEW", placed(view), view.description)]
    comments += [("COLUMN", f'{placed(view)}."{name}"', description) for name, description in view.columns]
    script = "".join(f"COMMENT ON {what} {name} IS {_quote(description)};" for what, name, description in comments)
    connection.exec_driver_sql(script)


def _quote(description: str) -> str:
    return "'" + description.replace("'", "''") + "'"
