"""Store what daemons publish, such as the progress of runs, the errors of requests and the times of the next runs.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from rostersync.store.database.types import Json, Timestamp

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
locks_readers = False


def upgrade() -> None:
    for name, kind in (("error", sa.Text()), ("hint", sa.Text()), ("reads", sa.Text())):
        op.add_column("run_request", sa.Column(name, kind, nullable=True))
    for name in ("rows_done", "rows_total"):
        op.add_column("run_request", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_table(
        "daemon",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_at", Timestamp(), nullable=False),
        sa.Column("sources", Json, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_daemon")),
    )
