"""What was remembered about clocks goes: watermarks are dated from the earlier of two clocks, and that is all."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("source") as source:
        source.drop_column("server_ahead_s")
        source.drop_column("newest_updated_at")
