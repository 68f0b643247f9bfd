"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None

locks_readers = False  # True if this migration locks a table that a view reads, or drops a view


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
