"""On PostgreSQL the tables live in a schema of their own, and the views are barriers.

The tables are moved before any migration runs (`own_schema.move_tables`), and the views are replaced behind the last
one (`view_upgrade`): this only tells the two layouts apart.

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
