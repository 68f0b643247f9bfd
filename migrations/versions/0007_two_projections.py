"""Add details (the fields that only GET serves), and prepare for a new rule that derives a student's status.

Stored rows do not show whether their status was served or derived. So the next run of each source is a full run.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from rostersync.store.database.types import Json, Timestamp

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
locks_readers = True


def upgrade() -> None:
    op.add_column("source", sa.Column("keys", Json, nullable=True))
    op.create_table(
        "student_detail",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=True),
        sa.Column("updated_ms", sa.BigInteger(), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("read_at", Timestamp(), nullable=True),
        sa.Column("waiting_since", Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["source"], ["source.name"], name=op.f("fk_student_detail_source")),
        sa.PrimaryKeyConstraint("source", "id", name=op.f("pk_student_detail")),
    )
    op.execute("UPDATE source SET last_clean_modified_at = NULL")
