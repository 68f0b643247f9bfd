"""Limit the number of bytes that a run stages, so that an endless response from a server cannot fill the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.errors import RunFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST_BYTES = 2 << 30
"""The default limit on the number of bytes that a run may stage."""

TIMES_THE_REPLICA = 10
"""If the replica is large, the limit is raised to the size of the replica multiplied by `TIMES_THE_REPLICA`."""

_ROW = 100  # the approximate size of a row in bytes, without its record

_REPLICA_BYTES = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count('main'), pragma_page_size('main')",
    "postgresql": "SELECT pg_total_relation_size('student') + pg_total_relation_size('student_version')",
}


class ByteLimit:
    """Counts the bytes that a run stages.

    Replaced rows still count towards the limit, because their space is not freed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._used = 0
        self.most_bytes = MOST_BYTES
        """The largest number of bytes that the run may stage.

        When the run exceeds the limit, `take` may raise the limit to the size of the replica multiplied by
        `TIMES_THE_REPLICA`.
        """

    def take(self, rows: int, size: int = 0) -> None:
        """Add `rows` rows, with a total of `size` bytes, to the count.

        Raise `RunFailed` if the run stages too many bytes.
        """
        self._used += rows * _ROW + size
        if self._used <= self.most_bytes:
            return
        # The size of the replica is read only now, because almost no run stages this many bytes.
        self.most_bytes = max(self.most_bytes, TIMES_THE_REPLICA * self._replica_bytes())
        if self._used > self.most_bytes:
            message = f"ManageBac has sent more than {self.most_bytes >> 20:,} MiB of records in one run"
            hint = "no changes were applied; if the school really has this much data, increase sync.stage_mib"
            raise RunFailed(message, hint)

    def _replica_bytes(self) -> int:
        with self._connection.begin():
            return int(self._connection.scalar(text(_REPLICA_BYTES[self._connection.dialect.name])) or 0)
