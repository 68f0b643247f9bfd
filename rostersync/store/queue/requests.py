"""The queue of requested runs. Any process files requests. The holder of the source's lock executes and closes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import BigInteger, bindparam, case, func, insert, or_, select, update

from rostersync.report import RunKind, RunRequest
from rostersync.store.database.engine import writing
from rostersync.store.database.types import JsonTuple, Timestamp
from rostersync.store.queue.lock import lock_source
from rostersync.store.schema.tables import REQUEST_IS_OPEN, run_request

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import BindParameter, Connection

    from rostersync.store.queue.lock import Lease

_KINDS = tuple(map(str, RunKind))
_ASK = f"ask for one of: {', '.join(_KINDS)}"

# Each statement is built once, because building one takes longer than running it.

_request = run_request.c
_OF: BindParameter[Any] = bindparam("of")
_ID = _request.request_id == bindparam("number", type_=BigInteger)
_NOT_EXPIRED = or_(_request.expires_at.is_(None), _request.expires_at > bindparam("now", type_=Timestamp))
_PENDING = (
    select(_request.request_id, _request.expires_at, _request.ids)
    .where(_request.source == _OF, _request.kind == bindparam("like"))
    .where(_request.approves.is_(None), REQUEST_IS_OPEN, _request.state == "pending", _NOT_EXPIRED)
)
_FILE = insert(run_request).returning(_request.request_id)
_JOIN = (
    update(run_request)
    .where(_ID, _request.state == "pending")
    .values(
        waiters=_request.waiters + 1,
        expires_at=bindparam("later", type_=Timestamp),
        ids=bindparam("all_ids", type_=JsonTuple),
    )
)
_CLOSE = update(run_request).where(_ID).values(state="done", run_id=bindparam("by"), waiters=0)
_FAIL = update(run_request).where(_ID, _request.state == "taken").values(state="failed", waiters=0)
_NOTE = update(run_request).where(_ID)
_TOUCH = update(run_request).where(_ID).values(waiters=_request.waiters)
_FACTS = ("state", "run_id", "error", "hint", "reads", "rows_done", "rows_total")
_PROGRESS = select(*(_request[name] for name in _FACTS)).where(_ID)
_OPEN = (
    select(*(_request[name] for name in ("request_id", "source", "kind", "approves", "state", "requested_at")))
    .where(REQUEST_IS_OPEN, or_(_request.state == "taken", _NOT_EXPIRED))
    .order_by(_request.request_id)
)


def _taking(*, refresh: bool) -> Any:
    """Return the statement that takes the oldest open request for a refresh, or for a run.

    If another process is joining the request, the statement waits, and returns the ids that this process has added. A
    process cannot join a request that was taken, so no student of a refresh is lost.
    """
    mine = _request.request_id == bindparam("number", type_=BigInteger)
    may_be_taken = or_(_request.state == "taken", _NOT_EXPIRED, mine)
    wanted = (_request.kind == str(RunKind.REFRESH)) if refresh else (_request.kind != str(RunKind.REFRESH))
    oldest = select(func.min(_request.request_id)).where(_request.source == _OF, wanted, REQUEST_IS_OPEN, may_be_taken)
    return (
        update(run_request)
        .where(_request.request_id == oldest.correlate(None).scalar_subquery())
        .where(REQUEST_IS_OPEN)
        .values(state="taken")
        .returning(_request.request_id, _request.kind, _request.approves, _request.ids)
    )


_TAKE_RUN, _TAKE_REFRESH = _taking(refresh=False), _taking(refresh=True)


class Progress(msgspec.Struct, frozen=True):
    """The state of a request. `run_id` is set if it is done, and `error` and `hint` if it failed.

    `reads`, `rows_done` and `rows_total` are the run's progress. They are None until the run has reported its progress.
    """

    state: str
    run_id: int | None = None
    error: str | None = None
    hint: str | None = None
    reads: str | None = None
    rows_done: int | None = None
    rows_total: int | None = None


class OpenRequest(msgspec.Struct, frozen=True):
    """A request that a process has taken or may still take."""

    request_id: int
    source: str
    kind: str  # a RunKind, unless another program has written the request
    approves: int | None
    state: str
    requested_at: datetime


def file(connection: Connection, request: RunRequest, now: datetime) -> int:
    """File a request, or join the pending request of the same source and kind, and return its number.

    A request that is not taken within its `wait` expires, so a caller that died leaves no request behind. The students
    of a refresh are added to the pending refresh, so a source has at most one pending refresh. An approval never joins
    another request.
    """
    lock_source(connection, request.source)  # one process files at a time
    expires_at = None if request.wait is None else now + request.wait
    if request.approves is None and (joined := _join(connection, request, now, expires_at)) is not None:
        return joined
    row = {
        "source": request.source,
        "kind": str(request.kind),
        "approves": request.approves,
        "ids": request.ids or None,
        "state": "pending",
        "requested_at": now,
        "expires_at": expires_at,
        "waiters": 1,
    }
    return int(connection.execute(_FILE, row).scalar_one())


def _join(connection: Connection, request: RunRequest, now: datetime, expires_at: datetime | None) -> int | None:
    """Join the pending request of the same source and kind, and return its number. Return None if there is none."""
    found = _pending(connection, request, now)
    if found is None:
        return None
    ids = tuple(dict.fromkeys((*(found.ids or ()), *request.ids))) or None
    later = None if found.expires_at is None or expires_at is None else max(found.expires_at, expires_at)
    joined = connection.execute(_JOIN, {"number": found.request_id, "later": later, "all_ids": ids})
    return int(found.request_id) if joined.rowcount == 1 else None


def _pending(connection: Connection, request: RunRequest, now: datetime) -> Any:
    """Return the number, expiry and ids of the request that a new request may join, or None."""
    return connection.execute(_PENDING, {"of": request.source, "like": str(request.kind), "now": now}).first()


def take(lease: Lease, now: datetime, mine: int, *, refresh: bool = False) -> RunRequest | None:
    """Take the oldest open request for a run of the lease's source, or with `refresh` for a refresh, and return it.

    Return None if no request is open.

    A request that is already `taken` is taken again: this process holds the lock, so the process that took it has died.
    The holder's own request, `mine`, is taken even if it has expired while earlier requests were executed. A request
    of an unknown kind, which another program must have written, is marked as failed.
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
    """Mark a request as done by `run_id`, in the transaction that records the run."""
    connection.execute(_CLOSE, {"number": request_id, "by": run_id})


def fail(connection: Connection, request_id: int, message: str, hint: str) -> None:
    """Mark a request that was taken as failed: no run will be recorded for it."""
    connection.execute(_FAIL, {"number": request_id, "error": message, "hint": hint})


def note_progress(connection: Connection, request_id: int, reads: str, done: int, total: int) -> None:
    """Store the progress of a request's run, for the processes that wait for it."""
    connection.execute(_NOTE, {"number": request_id, "reads": reads, "rows_done": done, "rows_total": total})


def touch(connection: Connection, request_id: int) -> None:
    """Write without changing anything. Raises `StoreError` if the database cannot be written."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA user_version = 0")  # SQLite would not write a row that stays the same
    else:
        connection.execute(_TOUCH, {"number": request_id})


def open_requests(connection: Connection, now: datetime) -> list[OpenRequest]:
    """Return the taken and pending requests of all sources, the oldest first. Expired requests are left out."""
    with connection.begin():
        rows = connection.execute(_OPEN, {"now": now}).mappings()
        return [OpenRequest(**row) for row in rows]


def leave(connection: Connection, request_id: int, *, taken: bool) -> bool:
    """Stop waiting for a request, and return whether that was possible.

    The request is withdrawn when its last waiter leaves. A waiter can leave a request that was taken only with `taken`.
    The process that took it still closes it after the run. If this process took it and ends during the run, the next
    holder of the lock takes the request again for its other waiters.
    """
    leavable = ("pending", "taken") if taken else ("pending",)
    left = connection.execute(
        update(run_request)
        .where(_request.request_id == request_id, _request.state.in_(leavable))
        .values(
            waiters=_request.waiters - 1,
            state=case((_request.waiters > 1, _request.state), else_="withdrawn"),
        )
    )
    return left.rowcount == 1


def progress(connection: Connection, request_id: int) -> Progress:
    """Return the state of a request. A request that was purged with its source counts as withdrawn."""
    with connection.begin():
        row = connection.execute(_PROGRESS, {"number": request_id}).mappings().first()
    return Progress(**row) if row else Progress("withdrawn")
