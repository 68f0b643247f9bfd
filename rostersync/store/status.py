"""What operators ask of the database: how fresh each source is, who writes it, what waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Boolean, text

from rostersync.store.types import Timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Health:
    """A row of the view `sync_health`, and who was the last known writer. All times are UTC."""

    source: str
    last_success_at: datetime | None
    age_seconds: int | None
    last_state: str | None
    last_run_id: int | None
    held_run_id: int | None
    live_students: int
    deleted_students: int
    quarantined: int
    modified_watermark: datetime | None
    deleted_watermark: datetime | None
    last_clean_full_at: datetime | None
    history_starts_at: datetime | None
    deleted_feed_ignored: bool
    holder: str | None
    """Who took the lock last and has not given it back: a holder only while the lock is held."""


_HEALTH = text(
    "SELECT h.source, h.last_success_at, h.age_seconds, h.last_state, h.last_run_id, h.held_run_id, h.live_students,"
    " h.deleted_students, h.quarantined, h.modified_watermark, h.deleted_watermark, h.last_clean_full_at,"
    " h.history_starts_at, s.deleted_feed_ignored, s.holder"
    " FROM sync_health h JOIN source s ON s.name = h.source ORDER BY h.source"
).columns(
    last_success_at=Timestamp(),
    modified_watermark=Timestamp(),
    deleted_watermark=Timestamp(),
    last_clean_full_at=Timestamp(),
    history_starts_at=Timestamp(),
    deleted_feed_ignored=Boolean(),
)


def health(connection: Connection) -> list[Health]:
    """Return what is known of every source in the database, configured or not, by name."""
    with connection.begin():
        return [Health(**row) for row in connection.execute(_HEALTH).mappings()]
