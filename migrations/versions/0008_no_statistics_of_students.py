"""On PostgreSQL, remove the statistics about students' fields.

This migration does nothing except trigger an upgrade. At the end of each upgrade, `column_statistics` removes the
statistics, including those about columns from later migrations.

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
