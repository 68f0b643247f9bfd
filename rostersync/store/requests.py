"""The queue of requested runs: filed by any process, executed and closed by the one that holds the source's lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, case, func, insert, or_, select, update

from rostersync.report import RunKind, RunRequest
from rostersync.store.engine import writing
from rostersync.store.lock import ensure_source
from rostersync.store.models import RequestRow, Source

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from rostersync.store.lock import Lease


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a request; `run_id` is set when it is done."""

    state: str
    run_id: int | None


def file(connection: Connection, request: RunRequest, now: datetime) -> int:
    """File a request, or join the pending one of the same source and kind; return its number.

    A request that is not taken within its `wait` expires, so a caller that died leaves none behind. The students of a
    refresh are added to those of the pending one, so of these a source has one at a time.
    """
    ensure_source(connection, request.source)
    # one process files at a time
    connection.execute(select(Source.name).where(Source.name == request.source).with_for_update())
    expires_at = None if request.wait is None else now + request.wait
    if request.approves is None and (joined := _join(connection, request, now, expires_at)) is not None:
        return joined
    return connection.execute(
        insert(RequestRow)
        .values(
            source=request.source,
            kind=str(request.kind),
            approves=request.approves,
            ids=request.ids or None,
            state="pending",
            requested_at=now,
            expires_at=expires_at,
            waiters=1,
        )
        .returning(RequestRow.request_id)
    ).scalar_one()


def _join(connection: Connection, request: RunRequest, now: datetime, expires_at: datetime | None) -> int | None:
    """Join the pending request of the same source and kind; None where there is none, or no longer."""
    found = _pending(connection, request, now)
    if found is None:
        return None
    ids = tuple(dict.fromkeys((*(found.ids or ()), *request.ids))) or None
    later = None if found.expires_at is None or expires_at is None else max(found.expires_at, expires_at)
    joined = connection.execute(
        update(RequestRow)
        .where(RequestRow.request_id == found.request_id, RequestRow.state == "pending")
        .values(waiters=RequestRow.waiters + 1, expires_at=later, ids=ids)
    )
    return int(found.request_id) if joined.rowcount == 1 else None


def _pending(connection: Connection, request: RunRequest, now: datetime):  # type: ignore[no-untyped-def] # noqa: ANN202 - a Row of three columns
    return connection.execute(
        select(RequestRow.request_id, RequestRow.expires_at, RequestRow.ids)
        .where(RequestRow.source == request.source, RequestRow.kind == str(request.kind))
        .where(RequestRow.approves.is_(None))
        .where(RequestRow.state == "pending", or_(RequestRow.expires_at.is_(None), RequestRow.expires_at > now))
    ).first()


def take(lease: Lease, now: datetime, mine: int, *, refresh: bool = False) -> RunRequest | None:
    """Take the oldest open request for a run of the lease's source, or for a refresh; None when there is none.

    One that is already `taken` was taken by a process that died, since this one holds the lock. The holder's own
    request, `mine`, does not expire for it, however long the requests before it took.
    """
    alive = or_(RequestRow.expires_at.is_(None), RequestRow.expires_at > now, RequestRow.request_id == mine)
    is_open = or_(RequestRow.state == "taken", and_(RequestRow.state == "pending", alive))
    wanted = (RequestRow.kind == str(RunKind.REFRESH)) if refresh else (RequestRow.kind != str(RunKind.REFRESH))
    oldest = select(func.min(RequestRow.request_id)).where(RequestRow.source == lease.source, wanted, is_open)
    # One statement, which waits for whoever is joining the request and returns the ids as they have left them: once it
    # is taken nobody joins it, so no student is lost between the two.
    taking = (
        update(RequestRow)
        .where(
            RequestRow.request_id == oldest.correlate(None).scalar_subquery(),
            RequestRow.state.in_(("pending", "taken")),
        )
        .values(state="taken")
        .returning(RequestRow.request_id, RequestRow.kind, RequestRow.approves, RequestRow.ids)
    )
    with writing(lease.connection):
        row = lease.connection.execute(taking).first()
    if row is None:
        return None
    return RunRequest(lease.source, RunKind(row.kind), row.approves, ids=row.ids or (), request_id=row.request_id)


def close(connection: Connection, request_id: int, run_id: int) -> None:
    """Mark a request as done by `run_id`, in the transaction that records the run."""
    connection.execute(
        update(RequestRow).where(RequestRow.request_id == request_id).values(state="done", run_id=run_id, waiters=0)
    )


def leave(connection: Connection, request_id: int, *, taken: bool) -> bool:
    """Stop waiting for a request; with its last waiter it is withdrawn. Return whether it was.

    One that is taken is only left with `taken`: the process that took it still closes it when its run is over. Where
    that is this process, which ends during the run, the next holder takes it again for those that still wait.
    """
    leavable = ("pending", "taken") if taken else ("pending",)
    left = connection.execute(
        update(RequestRow)
        .where(RequestRow.request_id == request_id, RequestRow.state.in_(leavable))
        .values(
            waiters=RequestRow.waiters - 1, state=case((RequestRow.waiters > 1, RequestRow.state), else_="withdrawn")
        )
    )
    return left.rowcount == 1


def progress(connection: Connection, request_id: int) -> Progress:
    """Return the state of a request; one that was purged with its source counts as withdrawn."""
    with connection.begin():
        row = connection.execute(
            select(RequestRow.state, RequestRow.run_id).where(RequestRow.request_id == request_id)
        ).first()
    return Progress(row.state, row.run_id) if row else Progress("withdrawn", None)
