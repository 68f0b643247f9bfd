"""What brings the tables of this version back to an earlier revision, for tests that upgrade a filled database."""

from __future__ import annotations

from rostersync.store.schema import REVISIONS
from rostersync.store.views import BARRIER, VIEWS

_HEAD_COUNT = {
    "h.living AS live_students": "(SELECT count(*) FROM student s WHERE s.source = h.source AND s.deleted_at IS NULL)"
    " AS live_students",
    "h.deleted AS deleted_students": "(SELECT count(*) FROM student s"
    " WHERE s.source = h.source AND s.deleted_at IS NOT NULL) AS deleted_students",
    "o.name AS source, o.living, o.deleted": "o.name AS source",
}


def sync_health(dialect: str) -> str:
    """Return the query of the view `sync_health` as revisions before 0009 had it: it counted the students."""
    query = next(view for view in VIEWS if view.name == "sync_health").query(dialect)
    for now, before in _HEAD_COUNT.items():
        assert query.count(now) == 1
        query = query.replace(now, before)
    return query


def _undo(step: str, dialect: str) -> tuple[str, ...]:
    postgresql = dialect == "postgresql"
    match step:
        case "0006":
            columns = ("error", "hint", "reads", "rows_done", "rows_total")
            return (*(f"ALTER TABLE run_request DROP COLUMN {name}" for name in columns), "DROP TABLE daemon")
        case "0007":
            return ("DROP TABLE student_detail", "ALTER TABLE source DROP COLUMN keys")
        case "0009":
            counting = f"AS {sync_health(dialect)}"
            return (
                *(
                    [f"CREATE OR REPLACE VIEW public.sync_health {BARRIER} {counting}"]
                    if postgresql
                    else ["DROP VIEW sync_health", f"CREATE VIEW sync_health {counting}"]
                ),
                *(f"ALTER TABLE source DROP COLUMN {name}" for name in ("living", "enrolled", "deleted")),
                *(f"DROP INDEX ix_run_{name}" for name in ("newest", "success", "open_plan", "guarded")),
                "DROP INDEX ix_run_request_open",
                "CREATE INDEX ix_run_source_finished_at ON run (source, finished_at)",
                "CREATE INDEX ix_run_request_source_state ON run_request (source, state)",
                *(
                    f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_source FOREIGN KEY (source) REFERENCES source"
                    for table in ("student", "student_detail", "student_version")
                    if postgresql
                ),
            )
        case _:  # 0008: an upgrade withholds statistics of whatever columns have them
            return ()


def back_to(revision: str, dialect: str) -> list[str]:
    """Return the statements that leave the tables as `revision` had them; the tables' schema is on the search path."""
    later = REVISIONS[REVISIONS.index(revision) + 1 :]
    undone = [statement for step in reversed(later) for statement in _undo(step, dialect)]
    return [*undone, f"UPDATE alembic_version SET version_num = '{revision}'"]
