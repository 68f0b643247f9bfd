"""Add the audit log, and a column for requests that refresh single students.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from rostersync.store.database.types import Json, JsonTuple, Timestamp

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
locks_readers = False


def upgrade() -> None:
    op.add_column("run_request", sa.Column("ids", JsonTuple(), nullable=True))
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", Timestamp(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("ids", JsonTuple(), nullable=False),
        sa.Column("fields", JsonTuple(), nullable=False),
        sa.Column("counts", Json, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
