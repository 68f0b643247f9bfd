"""Add the offset between the server's clock and our clock, and drop the column about proof of the deleted feed.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
locks_readers = True


def upgrade() -> None:
    op.add_column("source", sa.Column("server_ahead_s", sa.Double(), nullable=True))
    op.drop_column("source", "deleted_feed_proven")
