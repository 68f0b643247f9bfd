"""Define the views. Their names and columns are a promise to reporting tools, and the same on both databases.

Every upgrade of the schema ends by bringing the views to the form that is declared here. `view_upgrade` says how to
change a view.
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
    ("extra", "JSON object with keys that rostersync does not know, and with values that their fields cannot hold"),
)
SEEN = (
    ("first_seen_at", "When this replica first stored the student (UTC)"),
    ("changed_at", "When the newest version of the student began (UTC)"),
)


class View(msgspec.Struct, frozen=True):
    """A view: its columns with their descriptions, and its query on each database."""

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
    """Return a view with one row for each element of a JSON array of the living students."""
    select = f"SELECT s.source, s.id, {{element}} AS {column} FROM student s, {{each}} e WHERE s.deleted_at IS NULL"
    cast = "CAST(e.value AS bigint)" if column == "parent_id" else "e.value"
    return _view(
        view,
        f"One row for each element of `{field}` of each current student, ready to join",
        (SOURCE, ID, (column, description)),
        select.format(element="e.value", each=f"json_each(s.{field})"),
        select.format(element=cast, each=f"jsonb_array_elements_text(s.{field})"),
    )


_STUDENT = _list(STUDENT)
_CURRENT = (
    f"SELECT source, id, {_STUDENT}, first_seen_at, valid_from AS changed_at FROM student WHERE deleted_at IS NULL"
)

_FIGURES = (
    ("fetched", "Distinct students received, except from the deleted feed; the sum of the next six figures"),
    ("inserted", "Students who are new in the replica"),
    ("updated", "Students who were stored as living, and changed"),
    ("unchanged", "Students who did not change in the replica"),
    ("restored", "Students who were tombstones and are living again"),
    ("quarantined", "Records that could not be decoded"),
    ("ignored", "Students who were listed although they are deleted according to their row or to GET"),
    ("deleted", "Students who became tombstones"),
    ("stale", "Students who were first received in an older state than stored, and were fetched again"),
    ("removals_held", "Removals that wait for approval"),
    ("requests", "Requests made to the API, including retries"),
    ("retries", "Requests that were retries"),
)
_RUN = (
    ("run_id", "Number of the run; later runs have larger numbers"),
    SOURCE,
    ("kind", "incremental, full, or refresh (single students after they were written; sync_health ignores these runs)"),
    ("state", "succeeded, failed, held or incomplete"),
    *_FIGURES,
    ("duration_s", "Duration in seconds"),
    ("modified_watermark", "How far modifications had been read when the run ended (UTC)"),
    ("deleted_watermark", "How far deletions had been read when the run ended (UTC)"),
    ("error", "Why the run failed, is incomplete, or holds removals"),
    ("started_at", "When the run started (UTC)"),
    ("finished_at", "When the run ended (UTC)"),
)

_HISTORY = (
    SOURCE,
    ID,
    ("valid_from", "When this version began in the replica (UTC)"),
    ("valid_to", "When this version ended (UTC); NULL for the newest version"),
    ("op", "What made the version: insert, update, delete or restore"),
    *STUDENT,
    ("changed_fields", "JSON array of the names of the fields that changed from the previous version"),
    ("run_id", "The run that made the version"),
)
_VERSION = f"source, id, valid_from, {{valid_to}} AS valid_to, op, {_STUDENT}, changed_fields, run_id"

_HEALTH = (
    SOURCE,
    ("last_success_at", "End of the latest successful or held run that is not a refresh and not in the future (UTC)"),
    ("age_seconds", "Seconds since last_success_at"),
    ("last_state", "State of the newest run that is not a refresh"),
    ("last_run_id", "The newest run that is not a refresh"),
    ("held_run_id", "The newest run with removals that wait for approval"),
    ("live_students", "Number of living students in the replica"),
    ("deleted_students", "Number of tombstones in the replica"),
    ("quarantined", "Number of records in quarantine"),
    ("modified_watermark", "How far modifications have been read (UTC)"),
    ("deleted_watermark", "How far deletions have been read (UTC)"),
    ("last_clean_full_at", "End of the last full run with a clean roster, and with nothing unclear or held (UTC)"),
    ("history_starts_at", "History is complete since this time (UTC)"),
)
_AUDIT = (
    ("source", "Name of the source; * for the whole database"),
    ("at", "When the action started (UTC)"),
    ("who", "Account of the operating system"),
    ("host", "Machine on which the action was done"),
    ("verb", "What was done"),
    ("ids", "JSON array of the ids of the students that the action concerned"),
    ("fields", "JSON array of names, never values: the fields set or exported, or the role and views of a grant"),
    ("counts", "JSON object of figures; it may be empty"),
    ("outcome", "sending (the process ended before it knew more), done, not_taken (only a part), refused or unknown"),
)
# A refresh shows nothing about the other students, so it does not count. A run that ended in the future is not a
# success, because our clock was wrong. One minute is allowed, because the clock of the database server may differ from
# the clock of the process that writes. The partial indexes of `run` find both runs. BETWEEN and the order by source
# force PostgreSQL to use them: with `=` it may follow the primary key, and pass over all runs that do not count.
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
    "One row for each source, with the freshness of the replica",
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
"""Without it, PostgreSQL may call a reader's own function with rows that the view excludes."""

VIEWS = (
    _view(
        "current_student",
        "The students who are not deleted, including archived ones",
        (SOURCE, ID, *STUDENT, *SEEN),
        _CURRENT,
    ),
    _view(
        "enrolled_student",
        "The current students with the status enrolled",
        (SOURCE, ID, *STUDENT, *SEEN),
        f"{_CURRENT} AND status = 'enrolled'",
    ),
    _view(
        "deleted_student",
        "Tombstones: the students who were deleted, with their last known fields",
        (
            SOURCE,
            ID,
            ("deleted_at", "When the student was deleted according to ManageBac, or else when a run noticed it (UTC)"),
            ("deletion_source", "sweep (missing from the roster of a full run) or stream (shown in any other way)"),
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
        "Every version of every student, including the newest. As of t: "
        "op <> 'delete' AND valid_from <= t AND (valid_to IS NULL OR valid_to > t)",
        _HISTORY,
        f"SELECT {_VERSION.format(valid_to='valid_to')} FROM student_version "
        f"UNION ALL SELECT {_VERSION.format(valid_to='NULL')} FROM student",
    ),
    _view("sync_run", "One row for each run", _RUN, f"SELECT {_list(_RUN)} FROM run"),
    SYNC_HEALTH,
    _view(
        "audit_log",
        "One row for each write, approval, purge, grant and export; it remains when the source is forgotten",
        _AUDIT,
        f"SELECT {_list(_AUDIT)} FROM audit",
    ),
)


def create_view(connection: Connection, view: View) -> None:
    """Create a view. On PostgreSQL, replace the existing view of that name, which must have the same first columns."""
    dialect = connection.dialect.name
    create = f"CREATE VIEW {view.name}" if dialect == "sqlite" else f"CREATE OR REPLACE VIEW {placed(view)} {BARRIER}"
    connection.exec_driver_sql(f"{create} AS {view.query(dialect)}")


def placed(view: View) -> str:
    """Return the name of a view with its PostgreSQL schema."""
    return f"{OF_VIEWS}.{view.name}"


def describe_view(connection: Connection, view: View) -> None:
    """Set the comments of a view and its columns on PostgreSQL to their descriptions."""
    comments = [("VIEW", placed(view), view.description)]
    comments += [("COLUMN", f'{placed(view)}."{name}"', description) for name, description in view.columns]
    script = "".join(f"COMMENT ON {what} {name} IS {_quote(description)};" for what, name, description in comments)
    connection.exec_driver_sql(script)


def _quote(description: str) -> str:
    return "'" + description.replace("'", "''") + "'"
