"""The queue of requests for runs.

Any process can file a request. The process that holds the source's lock executes and closes the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import BigInteger, bindparam, case, func, insert, or_, select, update

from rostersync.report import RequestState, RunKind, RunRequest
from rostersync.store.database.engine import writing
from rostersync.store.database.statements import constant
from rostersync.store.database.types import JsonTuple, Timestamp
from rostersync.store.queue.lock import lock_source
from rostersync.store.schema.tables import REQUEST_IS_OPEN, run_request

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import BindParameter, Connection

    from rostersync.store.queue.lock import Lease

_KINDS = tuple(map(str, RunKind))
_ASK = f"ask for one of: {', '.join(_KINDS)}"

# We build each statement only once, because building a statement takes longer than executing it.

_request = run_request.c
_OF: BindParameter[Any] = bindparam("of")
_ID = _request.request_id == bindparam("number", type_=BigInteger)
_NOT_EXPIRED = or_(_request.expires_at.is_(None), _request.expires_at > bindparam("now", type_=Timestamp))
_PENDING = (
    select(_request.request_id, _request.expires_at, _request.ids)
    .where(_request.source == _OF, _request.kind == bindparam("like"))
    .where(_request.approves.is_(None), REQUEST_IS_OPEN, _request.state == constant(RequestState.PENDING), _NOT_EXPIRED)
)
_FILE = insert(run_request).returning(_request.request_id)
_JOIN = (
    update(run_request)
    .where(_ID, _request.state == constant(RequestState.PENDING))
    .values(
        waiters=_request.waiters + 1,
        expires_at=bindparam("later", type_=Timestamp),
        ids=bindparam("all_ids", type_=JsonTuple),
    )
)
_CLOSE = update(run_request).where(_ID).values(state=constant(RequestState.DONE), run_id=bindparam("by"), waiters=0)
_FAIL = (
    update(run_request)
    .where(_ID, _request.state == constant(RequestState.TAKEN))
    .values(state=constant(RequestState.FAILED), waiters=0)
)
_NOTE = update(run_request).where(_ID)
_TOUCH = update(run_request).where(_ID).values(waiters=_request.waiters)
_FACTS = ("state", "run_id", "error", "hint", "reads", "rows_done", "rows_total")
_PROGRESS = select(*(_request[name] for name in _FACTS)).where(_ID)
_OPEN = (
    select(*(_request[name] for name in ("request_id", "source", "kind", "approves", "state", "requested_at")))
    .where(REQUEST_IS_OPEN, or_(_request.state == constant(RequestState.TAKEN), _NOT_EXPIRED))
    .order_by(_request.request_id)
)


def _taking(*, refresh: bool) -> Any:
    """Return the statement that takes the oldest open request: for a refresh if `refresh` is True, otherwise for a run.

    If another process is joining the request, the statement waits, and then also returns the ids that the other process
    has added. No process can join a request that has already been taken, so every student added to a refresh is
    fetched.
    """
    may_be_taken = or_(_request.state == constant(RequestState.TAKEN), _NOT_EXPIRED, _ID)
    wanted = (_request.kind == str(RunKind.REFRESH)) if refresh else (_request.kind != str(RunKind.REFRESH))
    oldest = select(func.min(_request.request_id)).where(_request.source == _OF, wanted, REQUEST_IS_OPEN, may_be_taken)
    return (
        update(run_request)
        .where(_request.request_id == oldest.correlate(None).scalar_subquery())
        .where(REQUEST_IS_OPEN)
        .values(state=constant(RequestState.TAKEN))
        .returning(_request.request_id, _request.kind, _request.approves, _request.ids)
    )


_TAKE_RUN, _TAKE_REFRESH = _taking(refresh=False), _taking(refresh=True)


class Progress(msgspec.Struct, frozen=True):
    """The state of a request. A request that is done has a `run_id`, and a failed request has `error` and `hint`.

    `reads`, `rows_done` and `rows_total` describe how far the run has got. These fields are None until the run first
    reports its progress.
    """

    state: str
    run_id: int | None = None
    error: str | None = None
    hint: str | None = None
    reads: str | None = None
    rows_done: int | None = None
    rows_total: int | None = None


class OpenRequest(msgspec.Struct, frozen=True):
    """A request that a process has already taken or can still take."""

    request_id: int
    source: str
    kind: str  # a value of `RunKind`, unless another program has written the request
    approves: int | None
    state: str
    requested_at: datetime


def file(connection: Connection, request: RunRequest, now: datetime) -> int:
    """File a request, or join the pending request of the same source and kind. Return the number of the request.

    A request expires if no process takes it within its `wait`. So if the caller dies, its request does not remain open.
    A new refresh adds its students to a pending refresh, so a source has at most one pending refresh. An approval never
    joins another request.
    """
    lock_source(connection, request.source)  # so that one process at a time files a request
    expires_at = None if request.wait is None else now + request.wait
    if request.approves is None and (joined := _join(connection, request, now, expires_at)) is not None:
        return joined
    row = {
        "source": request.source,
        "kind": str(request.kind),
        "approves": request.approves,
        "ids": request.ids or None,
        "state": str(RequestState.PENDING),
        "requested_at": now,
        "expires_at": expires_at,
        "waiters": 1,
    }
    return int(connection.execute(_FILE, row).scalar_one())


def _join(connection: Connection, request: RunRequest, now: datetime, expires_at: datetime | None) -> int | None:
    """Join the pending request of the same source and kind.

    Return the number of this request, or None if no request is pending.
    """
    found = _pending(connection, request, now)
    if found is None:
        return None
    ids = tuple(dict.fromkeys((*(found.ids or ()), *request.ids))) or None
    later = None if found.expires_at is None or expires_at is None else max(found.expires_at, expires_at)
    joined = connection.execute(_JOIN, {"number": found.request_id, "later": later, "all_ids": ids})
    return int(found.request_id) if joined.rowcount == 1 else None


def _pending(connection: Connection, request: RunRequest, now: datetime) -> Any:
    """Return the number, expiry time and ids of the request that `request` can join, or None if it cannot join any."""
    return connection.execute(_PENDING, {"of": request.source, "like": str(request.kind), "now": now}).first()


def take(lease: Lease, now: datetime, mine: int, *, refresh: bool = False) -> RunRequest | None:
    """Take and return the oldest open request of the lease's source: a refresh if `refresh` is True, otherwise a run.

    Returns None if no such request is open.

    A request that is already in the state `taken` can be taken again. Because this process has the lock, the process
    that took the request earlier must have died. The request `mine`, which this process has filed itself, is taken even
    if it expired while earlier requests were executed. If another program has written a request of an unknown kind, the
    request is marked as failed.
    """
    taking = _TAKE_REFRESH if refresh else _TAKE_RUN
    with writing(lease.connection):
        while row := lease.connection.execute(taking, {"of": lease.source, "now": now, "number": mine}).first():
            if row.kind in _KINDS:
                break
            fail(lease.connection, row.request_id, "this kind of run is unknown", _ASK)
    if row is None:
        return None
    return RunRequest(lease.source, RunKind(row.kind), row.approves, ids=row.ids or (), request_id=row.request_id)


def close(connection: Connection, request_id: int, run_id: int) -> None:
    """Mark a request as done by the run `run_id`. Call this in the transaction that records the run."""
    connection.execute(_CLOSE, {"number": request_id, "by": run_id})


def fail(connection: Connection, request_id: int, message: str, hint: str) -> None:
    """Mark a taken request as failed, if no run will be recorded for the request."""
    connection.execute(_FAIL, {"number": request_id, "error": message, "hint": hint})


def note_progress(connection: Connection, request_id: int, reads: str, done: int, total: int) -> None:
    """Store the progress of the run that executes a request, for the processes that wait for the run."""
    connection.execute(_NOTE, {"number": request_id, "reads": reads, "rows_done": done, "rows_total": total})


def touch(connection: Connection, request_id: int) -> None:
    """Check that the database is writable, using a write that changes nothing.

    Raises `StoreError` if the write fails.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA user_version = 0")  # SQLite does not write a row that does not change
    else:
        connection.execute(_TOUCH, {"number": request_id})


def open_requests(connection: Connection, now: datetime) -> list[OpenRequest]:
    """Return the taken and pending requests of all sources, oldest first, excluding expired requests."""
    with connection.begin():
        rows = connection.execute(_OPEN, {"now": now}).mappings()
        return [OpenRequest(**row) for row in rows]


def leave(connection: Connection, request_id: int, *, taken: bool) -> bool:
    """Stop waiting for a request. Return False if the state of the request does not allow this.

    When the last waiter leaves, the request is withdrawn. If a process has already taken the request, a waiter can
    leave only if `taken` is True. The process that took the request still closes it after the run. If the process ends
    during the run, the next holder of the lock takes the request again for the remaining waiters.
    """
    leavable = [RequestState.PENDING, *([RequestState.TAKEN] if taken else [])]
    left = connection.execute(
        update(run_request)
        .where(_request.request_id == request_id, _request.state.in_(map(constant, leavable)))
        .values(
            waiters=_request.waiters - 1,
            state=case((_request.waiters > 1, _request.state), else_=constant(RequestState.WITHDRAWN)),
        )
    )
    return left.rowcount == 1


def progress(connection: Connection, request_id: int) -> Progress:
    """Return the state of a request.

    If the request was deleted because its source was purged, its state is `withdrawn`.
    """
    with connection.begin():
        row = connection.execute(_PROGRESS, {"number": request_id}).mappings().first()
    return Progress(**row) if row else Progress(RequestState.WITHDRAWN)
