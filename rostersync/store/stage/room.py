"""How many bytes a run may stage: a server that never stops sending must not fill the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.errors import RunFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST_BYTES = 2 << 30
"""By default a run may stage so many bytes."""

TIMES_THE_REPLICA = 10
"""A run may stage so many times the size of the database's students, if that is more."""

_ROW = 100  # bytes that a row takes beside its record, roughly

_REPLICA_BYTES = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count('main'), pragma_page_size('main')",
    "postgresql": "SELECT pg_total_relation_size('student') + pg_total_relation_size('student_version')",
}


class Room:
    """Counts what a run stages. What is replaced later counts as well, because its room is not given back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._used = 0
        self.most_bytes = MOST_BYTES
        """The most bytes to stage, if the replica is small."""

    def take(self, rows: int, size: int = 0) -> None:
        """Count some rows, whose records have `size` bytes together. Raises `RunFailed` if that is too much."""
        self._used += rows * _ROW + size
        if self._used <= self.most_bytes:
            return
        # Only now: nearly no run comes so far.
        self.most_bytes = max(self.most_bytes, TIMES_THE_REPLICA * self._replica_bytes())
        if self._used > self.most_bytes:
            message = f"ManageBac has sent more than {self.most_bytes >> 20:,} MiB of records in one run"
            hint = "nothing was applied; if the school is really so large, raise sync.stage_mib"
            raise RunFailed(message, hint)

    def _replica_bytes(self) -> int:
        with self._connection.begin():
            return int(self._connection.scalar(text(_REPLICA_BYTES[self._connection.dialect.name])) or 0)
