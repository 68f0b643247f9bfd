"""What brings the tables of this version back to an earlier revision, for tests that upgrade a filled database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import command

from rostersync.store.database.engine import open_engine
from rostersync.store.schema import revisions
from rostersync.store.schema.revisions import REVISIONS
from rostersync.store.schema.views import BARRIER, VIEWS

if TYPE_CHECKING:
    from sqlalchemy import Engine

_LATER = {"audit_log"}
"""Views of tables that the first schema does not have."""

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


def earlier_schema(url: str, revision: str, **older: str) -> Engine:
    """Make a database of a revision before 0005, with its views as they are now or as `older` has them.

    On PostgreSQL all of it is in `public`, and the views are no barriers.
    """
    engine = open_engine(url, create=True)
    with engine.connect().execution_options(begin="write") as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL search_path = public")
            connection.execution_options(schema_translate_map=None)
        command.upgrade(revisions.alembic_config(connection), revision)
        for view in VIEWS:
            if view.name in _LATER:
                continue
            dialect = connection.dialect.name
            stood = {"sync_health": sync_health(dialect), **older}
            query = stood.get(view.name, view.query(dialect))
            connection.exec_driver_sql(f"CREATE VIEW {view.name} AS {query}")
    return engine
