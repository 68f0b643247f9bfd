"""How far the server's clock was ahead of ours when the watermarks were dated.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("source", sa.Column("server_ahead_s", sa.Double(), nullable=True))
