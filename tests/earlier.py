"""What brings the tables of this version back to an earlier revision, for tests that upgrade a filled database."""

from __future__ import annotations

from rostersync.store.schema import REVISIONS

_UNDO = {
    "0006": (
        *(
            f"ALTER TABLE run_request DROP COLUMN {name}"
            for name in ("error", "hint", "reads", "rows_done", "rows_total")
        ),
        "DROP TABLE daemon",
    ),
    "0007": ("DROP TABLE student_detail", "ALTER TABLE source DROP COLUMN keys"),
    "0008": (),  # an upgrade withholds statistics of whatever columns have them
}


def back_to(revision: str) -> list[str]:
    """Return the statements that leave the tables as `revision` had them; the tables' schema is on the search path."""
    later = REVISIONS[REVISIONS.index(revision) + 1 :]
    undone = [statement for step in reversed(later) for statement in _UNDO[step]]
    return [*undone, f"UPDATE alembic_version SET version_num = '{revision}'"]
