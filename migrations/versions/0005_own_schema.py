"""On PostgreSQL, move the tables to their own schema, and make the views security barriers.

This migration only marks the new layout. `own_schema.move_tables` moves the tables before the first migration of an
upgrade, and `view_upgrade` replaces the views after the last one.

Revision ID: 0005
Revises: 0004
"""

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
locks_readers = True


def upgrade() -> None:
    pass
