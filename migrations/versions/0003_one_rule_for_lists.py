"""Drop the columns about clocks.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
locks_readers = True


def upgrade() -> None:
    op.drop_column("source", "server_ahead_s")
    op.drop_column("source", "newest_updated_at")
