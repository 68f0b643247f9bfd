"""Record the actions of users in the system's journal and, if there is a database, in the audit log.

The journal can be stored where the user of the database cannot change it. The audit log is useful for reports.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rostersync.errors import RostersyncError, StoreError
from rostersync.logger import get_logger
from rostersync.observe.syslog import sent_to_journal
from rostersync.store import audit
from rostersync.store.audit import Entry, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rostersync.clock import Clock
    from rostersync.store.store import Store

_NAME = "rostersync.audit"

log = get_logger(_NAME)


class Recording:
    """An action that has begun but not ended, with the entry so far and the outcome to record at the end."""

    def __init__(self, entry: Entry, number: int) -> None:
        self.entry = entry
        self.number = number
        """The number of the action's entry in the audit log, or 0 without a database."""
        self.outcome = Outcome.DONE
        """The outcome to record if no error ends the action."""

    def count(self, counts: Mapping[str, int]) -> None:
        """Add `counts` to the entry's counts."""
        self.entry = replace(self.entry, counts={**self.entry.counts, **counts})


class Recorder:
    """Records the actions of this process's user. `store` is None if the database does not exist yet."""

    def __init__(self, store: Store | None, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._who, self._host = audit.caller()

    def begin(self, entry: Entry) -> Recording:
        """Record that an action is about to start.

        Raises `StoreError` if the database fails, or if there is neither a database nor a journal.
        """
        number = 0
        if self._store is not None:
            with self._store.writing() as connection:
                number = audit.begin(connection, entry, who=self._who, host=self._host, now=self._clock.now())
        recording = Recording(entry, number)
        if not self._send(recording, Outcome.SENDING) and self._store is None:
            message = "the action cannot be recorded: no database, and no system journal (/dev/log)"
            raise StoreError(message, "nothing was done; the first `rostersync sync` creates the database")
        return recording

    def finish(self, recording: Recording, outcome: Outcome, ids: tuple[int, ...] | None = None) -> None:
        """Record how an action ended. `ids`, if given, replaces the ids in the entry. Raises `StoreError`."""
        recording.entry = replace(recording.entry, ids=recording.entry.ids if ids is None else ids)
        self._send(recording, outcome)
        if self._store is not None:
            with self._store.writing() as connection:
                audit.finish(connection, recording.number, outcome, recording.entry)

    @contextmanager
    def recorded(self, entry: Entry, *, failed: Outcome = Outcome.REFUSED) -> Iterator[Recording]:
        """Record the action of the block. If a `RostersyncError` ends the block, the outcome is `failed`."""
        recording = self.begin(entry)
        try:
            yield recording
        except RostersyncError:
            self.finish(recording, failed)
            raise
        self.finish(recording, recording.outcome)

    def _send(self, recording: Recording, outcome: Outcome) -> bool:
        """Log an event and send it to the journal. Return whether the journal received the event."""
        entry = recording.entry
        with sent_to_journal(_NAME) as journal:
            log.info(
                "audit",
                source=entry.source,
                verb=entry.verb,
                ids=entry.ids,
                fields=entry.fields,
                counts=[f"{number} {name}" for name, number in entry.counts.items()],
                outcome=str(outcome),
                who=self._who,
                host=self._host,
            )
            return journal is not None and journal.delivered
