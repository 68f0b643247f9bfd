"""Publish in the database which sources each daemon holds or waits for, and when its next runs are due."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, or_, select

from rostersync.clock import from_text, to_text
from rostersync.report import RunKind
from rostersync.store.database.statements import upsert
from rostersync.store.schema.tables import daemon

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Connection

ALIVE_FOR = timedelta(seconds=60)
"""A daemon counts as gone if it has not updated its row for this long. The daemon or its machine probably crashed."""


class Watch(msgspec.Struct, frozen=True):
    """What a daemon is doing for one source: whether it is a standby, and when each kind of run is next due."""

    standby: bool = False
    next_runs: Mapping[RunKind, datetime] = msgspec.field(default_factory=dict)


class DaemonRow(msgspec.Struct, frozen=True):
    """A daemon that has updated its row recently enough.

    The `name` of a daemon contains the host and the process id.
    """

    name: str
    seen_at: datetime
    sources: Mapping[str, Watch]


def tell(connection: Connection, name: str, sources: Mapping[str, Watch], now: datetime) -> None:
    """Write the row of the daemon `name`, and delete the rows of daemons that are gone. Call this in a transaction."""
    connection.execute(delete(daemon).where(daemon.c.name != name, _is_gone(now)))
    row = {"name": name, "seen_at": now, "sources": {source: _to_json(watch) for source, watch in sources.items()}}
    new = upsert(connection.dialect.name, daemon).values(row)
    again = {"seen_at": new.excluded.seen_at, "sources": new.excluded.sources}
    connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=again))


def forget(connection: Connection, name: str) -> None:
    """Delete the row of the daemon `name`. Call this function in a transaction."""
    connection.execute(delete(daemon).where(daemon.c.name == name))


def alive(connection: Connection, now: datetime) -> list[DaemonRow]:
    """Return the daemons that are running, sorted by name."""
    with connection.begin():
        rows = connection.execute(select(daemon).where(~_is_gone(now)).order_by(daemon.c.name)).all()
    return [DaemonRow(row.name, row.seen_at, _watches(row.sources)) for row in rows]


def _is_gone(now: datetime) -> Any:
    """Return the SQL condition for a time that is more than `ALIVE_FOR` in the past or in the future.

    A time in the future means that the clock of a machine is or was wrong.
    """
    return or_(daemon.c.seen_at < now - ALIVE_FOR, daemon.c.seen_at > now + ALIVE_FOR)


def _to_json(watch: Watch) -> dict[str, Any]:
    due = {str(kind): to_text(at) for kind, at in watch.next_runs.items()}
    return {"standby": watch.standby, "next": due}


def _watches(sources: dict[str, Any]) -> dict[str, Watch]:
    return {
        source: Watch(facts["standby"], {RunKind(kind): from_text(at) for kind, at in facts["next"].items()})
        for source, facts in sources.items()
    }
