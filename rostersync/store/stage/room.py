"""Limit how many bytes a run stages, so that a server that never stops sending cannot fill the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.errors import RunFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST_BYTES = 2 << 30
"""The most bytes that a run may stage by default."""

TIMES_THE_REPLICA = 10
"""A run may stage this many times the size of the replica, if that is more."""

_ROW = 100  # the bytes that a row takes in addition to its record, roughly

_REPLICA_BYTES = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count('main'), pragma_page_size('main')",
    "postgresql": "SELECT pg_total_relation_size('student') + pg_total_relation_size('student_version')",
}


class Room:
    """Counts the bytes that a run stages. A row that is replaced later still counts, because its space is not freed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._used = 0
        self.most_bytes = MOST_BYTES
        """The most bytes to stage. If a run exceeds it, `take` raises it to `TIMES_THE_REPLICA` times the replica."""

    def take(self, rows: int, size: int = 0) -> None:
        """Count `rows` rows, and `size` bytes of records in total. Raises `RunFailed` if the run stages too much."""
        self._used += rows * _ROW + size
        if self._used <= self.most_bytes:
            return
        # The size of the replica is read only now, because almost no run gets this far.
        self.most_bytes = max(self.most_bytes, TIMES_THE_REPLICA * self._replica_bytes())
        if self._used > self.most_bytes:
            message = f"ManageBac has sent more than {self.most_bytes >> 20:,} MiB of records in one run"
            hint = "nothing was applied; if the school really is that large, raise sync.stage_mib"
            raise RunFailed(message, hint)

    def _replica_bytes(self) -> int:
        with self._connection.begin():
            return int(self._connection.scalar(text(_REPLICA_BYTES[self._connection.dialect.name])) or 0)
