"""Add indexes and head counts, so that `status` and runs without changes are fast even after millions of runs.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
locks_readers = True

INDEXES = (
    ("ix_run_newest", "run", ["source", "run_id"], "kind IN ('incremental', 'full')"),
    ("ix_run_success", "run", ["source", "run_id"], "kind != 'refresh' AND state IN ('succeeded', 'held')"),
    ("ix_run_open_plan", "run", ["source"], "\"plan\" = 'open'"),
    ("ix_run_guarded", "run", ["source", "finished_at"], "guarded > 0"),
    ("ix_run_request_open", "run_request", ["state", "source"], "state IN ('pending', 'taken')"),
)


def upgrade() -> None:
    op.drop_index(op.f("ix_run_source_finished_at"), table_name="run")
    op.drop_index(op.f("ix_run_request_source_state"), table_name="run_request")
    for name, table, columns, rows in INDEXES:
        op.create_index(name, table, columns, sqlite_where=sa.text(rows), postgresql_where=sa.text(rows))
    for name in ("living", "enrolled", "deleted"):
        op.add_column("source", sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.execute(
        """
        UPDATE source SET (living, enrolled, deleted) = (
          SELECT count(*) FILTER (WHERE deleted_at IS NULL),
                 count(*) FILTER (WHERE deleted_at IS NULL AND status = 'enrolled'),
                 count(*) FILTER (WHERE deleted_at IS NOT NULL)
            FROM student WHERE student.source = source.name)
        """
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in ("student", "student_detail", "student_version"):
            op.drop_constraint(op.f(f"fk_{table}_source"), table, type_="foreignkey")
