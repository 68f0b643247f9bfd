"""On PostgreSQL, keep no statistics of students' fields.

This migration only makes an upgrade necessary. Each upgrade removes the statistics after its last migration
(`column_statistics`), so that columns of later migrations have none either.

Revision ID: 0008
Revises: 0007
"""

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
locks_readers = True


def upgrade() -> None:
    pass
