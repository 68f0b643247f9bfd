"""The views: the contract with reporting tools, the same names and columns on both databases.

After every migration they are brought to the form that is declared here; `view_upgrade` says how to change one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.records import FIELDS
from rostersync.store.own_schema import OF_VIEWS

if TYPE_CHECKING:
    from sqlalchemy import Connection

SOURCE = ("source", "Name of the source (the school), as configured")
ID = ("id", "ManageBac's key of the student")
STUDENT = (
    *((field.name, field.description) for field in FIELDS),
    ("extra", "JSON object of the keys that rostersync does not know, and of values that their fields cannot hold"),
)
SEEN = (
    ("first_seen_at", "When this replica first stored the student (UTC)"),
    ("changed_at", "When history last got a version of the student (UTC)"),
)


class View(msgspec.Struct, frozen=True):
    """A view: its columns with their descriptions, and its query (by database where they differ)."""

    name: str
    description: str
    columns: tuple[tuple[str, str], ...]
    sqlite: str
    postgresql: str

    def query(self, dialect: str) -> str:
        return self.sqlite if dialect == "sqlite" else self.postgresql


def _view(name: str, description: str, columns: tuple[tuple[str, str], ...], query: str, postgresql: str = "") -> View:
    return View(name, description, columns, query, postgresql or query)


def _list(names: tuple[tuple[str, str], ...], alias: str = "") -> str:
    prefix = f"{alias}." if alias else ""
    return ", ".join(f'{prefix}"{name}"' for name, _ in names)


def _elements(view: str, column: str, field: str, description: str) -> View:
    """Return a view with one row per element of a JSON array of the living students."""
    select = f"SELECT s.source, s.id, {{element}} AS {column} FROM student s, {{each}} e WHERE s.deleted_at IS NULL"
    cast = "CAST(e.value AS bigint)" if column == "parent_id" else "e.value"
    return _view(
        view,
        f"One row per element of `{field}` of each current student, ready to join",
        (SOURCE, ID, (column, description)),
        select.format(element="e.value", each=f"json_each(s.{field})"),
        select.format(element=cast, each=f"jsonb_array_elements_text(s.{field})"),
    )


_STUDENT = _list(STUDENT)
_CURRENT = (
    f"SELECT source, id, {_STUDENT}, first_seen_at, valid_from AS changed_at FROM student WHERE deleted_at IS NULL"
)

_FIGURES = (
    ("fetched", "Distinct students received as living; the sum of the next six"),
    ("inserted", "Students new to the replica"),
    ("updated", "Students of whom anything stored changed"),
    ("unchanged", "Students of whom nothing changed"),
    ("restored", "Students whose tombstone was lifted"),
    ("quarantined", "Records that could not be decoded"),
    ("ignored", "Students listed, but found gone"),
    ("deleted", "Students who became tombstones"),
    ("stale", "Students first received older than stored, and asked for again"),
    ("removals_held", "Removals that the guard holds"),
    ("requests", "Requests made to the API"),
    ("retries", "How many of them were retries"),
)
_RUN = (
    ("run_id", "Ascending number of the run"),
    SOURCE,
    ("kind", "incremental, full, or refresh: single students after a write, which counts for nothing in sync_health"),
    ("state", "succeeded, failed, held or incomplete"),
    *_FIGURES,
    ("duration_s", "Duration in seconds"),
    ("modified_watermark", "Up to where modifications were read when the run ended (UTC)"),
    ("deleted_watermark", "Up to where deletions were read when the run ended (UTC)"),
    ("error", "Why the run failed or is incomplete"),
    ("started_at", "When the run started (UTC)"),
    ("finished_at", "When the run ended (UTC)"),
)

_HISTORY = (
    SOURCE,
    ID,
    ("valid_from", "From when the replica held this version (UTC)"),
    ("valid_to", "Until when; NULL: it is the newest version (UTC)"),
    ("op", "What made the version: insert, update, delete or restore"),
    *STUDENT,
    ("changed_fields", "JSON array of the fields that changed against the version before"),
    ("run_id", "The run that made the version"),
)
_VERSION = f"source, id, valid_from, {{valid_to}} AS valid_to, op, {_STUDENT}, changed_fields, run_id"

_HEALTH = (
    SOURCE,
    ("last_success_at", "When the latest successful run ended; a held one counts, one in the future does not (UTC)"),
    ("age_seconds", "Seconds since then"),
    ("last_state", "State of the newest run, refreshes aside"),
    ("last_run_id", "The newest run, refreshes aside"),
    ("held_run_id", "The newest run whose removals wait for approval"),
    ("live_students", "Students in the replica"),
    ("deleted_students", "Tombstones in the replica"),
    ("quarantined", "Records in quarantine"),
    ("modified_watermark", "Up to where modifications were read (UTC)"),
    ("deleted_watermark", "Up to where deletions were read (UTC)"),
    ("last_clean_full_at", "When the last clean full run ended (UTC)"),
    ("history_starts_at", "From when history is complete (UTC)"),
)
_AUDIT = (
    SOURCE,
    ("at", "When it was begun (UTC)"),
    ("who", "User of the operating system"),
    ("host", "Machine that it was done on"),
    ("verb", "What was done"),
    ("ids", "JSON array of the ids of the students it was about"),
    ("fields", "JSON array of the names of the fields it set; no values"),
    ("counts", "JSON object of figures, where there are any"),
    ("outcome", "sending (ended before more was known), done, not_taken (not all fields), refused or unknown"),
)
# A refresh says nothing of the other students. A run that ended in the future, under a clock that was ahead, is no
# success; a minute is what the clocks of a database server and of whoever writes to it may differ by. The partial
# indexes of `run` find both runs. BETWEEN and the order by source leave PostgreSQL no other way: with `=` it may follow
# the primary key instead, back over all runs that do not count.
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
    "One row per source: how fresh the replica is",
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
"""Without it PostgreSQL may call a reader's own function with rows before it drops those that are not in the view."""

VIEWS = (
    _view(
        "current_student",
        "The students who are not deleted, archived ones included",
        (SOURCE, ID, *STUDENT, *SEEN),
        _CURRENT,
    ),
    _view(
        "enrolled_student",
        "The current students whose status is enrolled",
        (SOURCE, ID, *STUDENT, *SEEN),
        f"{_CURRENT} AND status = 'enrolled'",
    ),
    _view(
        "deleted_student",
        "Tombstones: students who were deleted, with what was last known of them",
        (
            SOURCE,
            ID,
            ("deleted_at", "When the student was deleted, as ManageBac tells, else when it was noticed (UTC)"),
            ("deletion_source", "stream (the deleted feed told) or sweep (a full run missed the student)"),
            *STUDENT,
            *SEEN,
        ),
        f"SELECT source, id, deleted_at, deletion_source, {_STUDENT}, first_seen_at, valid_from AS changed_at "
        "FROM student WHERE deleted_at IS NOT NULL",
    ),
    _elements("student_parent", "parent_id", "parent_ids", "ManageBac id of a parent or guardian"),
    _elements("student_nationality", "nationality", "nationalities", "A nationality"),
    _elements("student_language", "language", "languages", "A language"),
    _view(
        "student_history",
        "Every version of every student, the newest included. As of t: "
        "op <> 'delete' AND valid_from <= t AND (valid_to IS NULL OR valid_to > t)",
        _HISTORY,
        f"SELECT {_VERSION.format(valid_to='valid_to')} FROM student_version "
        f"UNION ALL SELECT {_VERSION.format(valid_to='NULL')} FROM student",
    ),
    _view("sync_run", "One row per run", _RUN, f"SELECT {_list(_RUN)} FROM run"),
    SYNC_HEALTH,
    _view(
        "audit_log",
        "One row per write to ManageBac; it outlives the source",
        _AUDIT,
        f"SELECT {_list(_AUDIT)} FROM audit",
    ),
)


def create_view(connection: Connection, view: View) -> None:
    """Create a view of the contract, or on PostgreSQL replace one that has the same first columns."""
    dialect = connection.dialect.name
    create = f"CREATE VIEW {view.name}" if dialect == "sqlite" else f"CREATE OR REPLACE VIEW {placed(view)} {BARRIER}"
    connection.exec_driver_sql(f"{create} AS {view.query(dialect)}")


def placed(view: View) -> str:
    """Return the name of a view of PostgreSQL with its schema."""
    return f"{OF_VIEWS}.{view.name}"


def describe_view(connection: Connection, view: View) -> None:
    """Give a view of PostgreSQL and its columns their descriptions, as comments."""
    comments = [("VIEW", placed(view), view.description)]
    comments += [("COLUMN", f'{placed(view)}."{name}"', description) for name, description in view.columns]
    script = "".join(f"COMMENT ON {what} {name} IS {_quote(description)};" for what, name, description in comments)
    connection.exec_driver_sql(script)


def _quote(description: str) -> str:
    return "'" + description.replace("'", "''") + "'"
