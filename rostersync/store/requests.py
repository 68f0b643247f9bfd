"""The queue of wished-for runs: filed by anybody, executed and closed by whoever holds the source's lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, case, insert, or_, select, update

from rostersync.report import RunKind
from rostersync.store.engine import writing
from rostersync.store.lock import ensure_source
from rostersync.store.models import Request, Source

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from rostersync.store.lock import Lease


@dataclass(frozen=True, slots=True)
class Wish:
    """A request as its executor needs it."""

    request_id: int
    kind: RunKind
    approves: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come; `run_id` is set when it is done."""

    state: str
    run_id: int | None


def file(
    connection: Connection,
    source: str,
    kind: RunKind,
    *,
    approves: int | None = None,
    now: datetime,
    expires_at: datetime | None,
) -> int:
    """File a request, or join the pending one of the same source and kind; return its number.

    A request that nobody took until `expires_at` is void, so a caller who died leaves none behind; None never expires.
    """
    ensure_source(connection, source)
    connection.execute(select(Source.name).where(Source.name == source).with_for_update())  # one filer at a time
    if approves is None and (joined := _join(connection, source, kind, now, expires_at)) is not None:
        return joined
    return connection.execute(
        insert(Request)
        .values(
            source=source,
            kind=str(kind),
            approves=approves,
            state="pending",
            requested_at=now,
            expires_at=expires_at,
            waiters=1,
        )
        .returning(Request.request_id)
    ).scalar_one()


def _join(connection: Connection, source: str, kind: RunKind, now: datetime, expires_at: datetime | None) -> int | None:
    """Join the pending request of this source and kind; None where there is none, or no longer."""
    found = _pending(connection, source, kind, now)
    if found is None:
        return None
    later = None if found.expires_at is None or expires_at is None else max(found.expires_at, expires_at)
    joined = connection.execute(
        update(Request)
        .where(Request.request_id == found.request_id, Request.state == "pending")
        .values(waiters=Request.waiters + 1, expires_at=later)
    )
    return int(found.request_id) if joined.rowcount == 1 else None


def _pending(connection: Connection, source: str, kind: RunKind, now: datetime):  # type: ignore[no-untyped-def] # noqa: ANN202 - a Row of two columns
    return connection.execute(
        select(Request.request_id, Request.expires_at)
        .where(Request.source == source, Request.kind == str(kind), Request.approves.is_(None))
        .where(Request.state == "pending", or_(Request.expires_at.is_(None), Request.expires_at > now))
    ).first()


def take(lease: Lease, now: datetime, mine: int) -> Wish | None:
    """Take the oldest open request of the lease's source, None when there is none.

    One that is `taken` already was taken by a process that died: this one holds the lock. The holder's own request,
    `mine`, cannot come too late for itself, however long those before it took.
    """
    connection = lease.connection
    with writing(connection):
        row = connection.execute(
            select(Request.request_id, Request.kind, Request.approves)
            .where(Request.source == lease.source)
            .where(
                or_(
                    Request.state == "taken",
                    and_(
                        Request.state == "pending",
                        or_(Request.expires_at.is_(None), Request.expires_at > now, Request.request_id == mine),
                    ),
                )
            )
            .order_by(Request.request_id)
            .limit(1)
        ).first()
        if row is None:
            return None
        connection.execute(update(Request).where(Request.request_id == row.request_id).values(state="taken"))
        return Wish(row.request_id, RunKind(row.kind), row.approves)


def close(connection: Connection, request_id: int, run_id: int) -> None:
    """Mark a request as done by `run_id`, in the transaction that records the run."""
    connection.execute(
        update(Request).where(Request.request_id == request_id).values(state="done", run_id=run_id, waiters=0)
    )


def leave(connection: Connection, request_id: int, *, taken: bool) -> bool:
    """Stop waiting for a request; with its last waiter it is withdrawn. Return whether it was.

    One that somebody has taken is only left with `taken`: he closes it all the same when its run is over, and where
    that was this process, which ends amid the run, the next holder takes it again for those who still wait.
    """
    leavable = ("pending", "taken") if taken else ("pending",)
    left = connection.execute(
        update(Request)
        .where(Request.request_id == request_id, Request.state.in_(leavable))
        .values(waiters=Request.waiters - 1, state=case((Request.waiters > 1, Request.state), else_="withdrawn"))
    )
    return left.rowcount == 1


def progress(connection: Connection, request_id: int) -> Progress:
    """Return how far a request has come; one that went with its source was withdrawn."""
    with connection.begin():
        row = connection.execute(select(Request.state, Request.run_id).where(Request.request_id == request_id)).first()
    return Progress(row.state, row.run_id) if row else Progress("withdrawn", None)
