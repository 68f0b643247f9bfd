"""A school, its stand-in API and its replica in one process, for tests that drive whole histories of syncs.

`World` calls the stand-in without a socket, on a clock that moves only when something happens.
"""

from __future__ import annotations

import random
import zlib
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from canary import TOKEN
from conftest import see_views
from sqlalchemy import select, text

from rostersync.cancel import CancelScope
from rostersync.errors import Malformed, TimedOut, TooLarge, Unreachable
from rostersync.managebac import ManageBac
from rostersync.managebac.decoding.records import decode_student
from rostersync.managebac.endpoints import Endpoints
from rostersync.managebac.reader import StudentReader
from rostersync.managebac.wire.http import MAX_BYTES, Reply
from rostersync.managebac.wire.limits import HostLimiter
from rostersync.records import FIELD_NAMES, Student, with_status
from rostersync.report import RunKind, RunRequest
from rostersync.runs.executor import Executor, dry_run
from rostersync.simulator.app import App
from rostersync.simulator.faults import on_deleted_feed
from rostersync.simulator.messages import Manner, Request
from rostersync.simulator.state import School
from rostersync.store.replica.state import source_state
from rostersync.store.schema.tables import student
from rostersync.store.status import health
from rostersync.store.store import Store
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import ManualClock
    from sqlalchemy import Connection

    from rostersync.managebac.wire.http import Call
    from rostersync.records import Page, Query
    from rostersync.report import RunReport
    from rostersync.simulator.faults import Faults
    from rostersync.simulator.switches import Switches

SOURCE = "main"
BASE_URL = "https://api.managebac.invalid"
GUARD_OFF = SyncPolicy(guard=GuardPolicy(max_deletions=100_000, max_deletion_percent=100))
"""So that a school may lose as many students as it likes in a day."""


class InProcessWire:
    """Carries a call to the stand-in by a function call; what a socket would do to the answer is acted out."""

    def __init__(self, world: World, latency: float = 0.05) -> None:
        self._world, self._app, self._clock, self._latency = world, world.app, world.clock, latency

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        sent_at = self._clock.now()
        self._clock.advance(self._latency)
        response = self._app.handle(_request(call))
        scope.check()
        manner = response.delivery.manner
        if manner in {Manner.NEVER, Manner.DRIP}:
            self._clock.advance(timeout)
            raise TimedOut("the stand-in did not answer in time")
        if manner is Manner.RESET:
            raise Unreachable("the stand-in broke the connection")
        if manner is Manner.TRUNCATED:
            raise Malformed("the stand-in's answer is cut off")
        body = response.body
        if response.headers.get("Content-Encoding") == "gzip":
            body = zlib.decompressobj(wbits=31).decompress(body, MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise TooLarge("the stand-in's answer is too large")
        headers = response.headers
        if self._world.rng.random() < self._world.dateless:
            headers = {name: value for name, value in headers.items() if name != "Date"}
        return Reply(response.status, headers, body, sent_at, self._latency)


def _request(call: Call) -> Request:
    headers = {"auth-token": TOKEN, **({"content-type": call.content_type} if call.content_type else {})}
    return Request(call.method, call.path, list(call.query), headers, call.body)


class ShuffledReader(StudentReader):
    """Has the pages of a list asked for in any order, as requests that overtake each other do."""

    def __init__(self, api: ManageBac, per_page: int, rng: random.Random) -> None:
        super().__init__(api, per_page)
        self._rng = rng

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        read = {number: self.page(query, number) for number in self._rng.sample(numbers, len(numbers))}
        yield from (read[number] for number in numbers)


def on_past_days(request: Request) -> bool:
    """Match the deleted feed, but not from a day to come, where nobody has left yet."""
    return on_deleted_feed(request) and (request.first("deleted_since") or "") < "2027"  # tests begin in March 2026


class World:
    """One school and its replica at `url`."""

    def __init__(
        self,
        url: str,
        clock: ManualClock,
        *,
        size: int = 12,
        seed: int = 1,
        switches: Switches | None = None,
        faults: Faults | None = None,
        policy: SyncPolicy | None = None,
        per_page: int = 5,
        retries: int = 3,
        store: Store | None = None,
        source: str = SOURCE,
        shuffled: bool = False,
        safe_per_page: int = Endpoints.safe_per_page,
    ) -> None:
        self.url, self.clock, self.per_page, self.retries, self.source = url, clock, per_page, retries, source
        self.scope = CancelScope(clock)
        self.school = School(seed, size, clock, switches)
        self.app = App(self.school, TOKEN, faults)
        self.policy = policy or SyncPolicy()
        self.rng = random.Random(seed)
        self.store = store or Store(url, clock, create=True)
        self.token = TOKEN
        self.reports: list[RunReport] = []
        self.shuffled, self.safe_per_page = shuffled, safe_per_page
        self.dateless = 0.0
        """The share of responses that bear no `Date`."""

    @contextmanager
    def connect(self, _source: str, scope: CancelScope) -> Iterator[StudentReader]:
        api = ManageBac(
            BASE_URL,
            self.token,
            timeout=30,
            retries=self.retries,
            concurrency=1,
            run_seconds=1800,
            scope=scope,
            limiter=HostLimiter(4, self.clock),
            wire=InProcessWire(self),
            rng=self.rng,
        )
        api.endpoints.safe_per_page = self.safe_per_page
        yield ShuffledReader(api, self.per_page, self.rng) if self.shuffled else StudentReader(api, self.per_page)

    def executor(self) -> Executor:
        return Executor(self.store, self.policy, self.connect, "test")

    def sync(self, kind: RunKind = RunKind.INCREMENTAL, approves: int | None = None) -> RunReport:
        """Have one run done."""
        request = RunRequest(self.source, kind, approves, timedelta(seconds=5))
        report = self.executor().run(request, lambda *_: None, self.scope)
        self.reports.append(report)
        return report

    def full(self) -> RunReport:
        return self.sync(RunKind.FULL)

    def dry_run(self, kind: RunKind = RunKind.INCREMENTAL, approves: int | None = None) -> RunReport:
        request = RunRequest(self.source, kind, approves)
        return dry_run(self.url, request, lambda *_: None, self.scope, policy=self.policy, connect=self.connect)

    def pass_time(self, **time: float) -> None:
        self.clock.advance(timedelta(**time).total_seconds())

    # Comparing ---------------------------------------------------------------------------------------------------

    def upstream(self) -> dict[int, Student]:
        """Return the living students as the API would serve them now, decoded.

        Without the last login, which bumps nothing, so that only full runs see it.
        """
        return {key: msgspec.structs.replace(row, last_accessed_at=None) for key, row in upstream(self.school).items()}

    def living_ids(self) -> set[int]:
        """Return who lives upstream."""
        return {int(key) for key in self.school.truth()}

    def replica_ids(self) -> set[int]:
        """Return who lives in the replica."""
        living = select(student.c.id).where(student.c.source == self.source, student.c.deleted_at.is_(None))
        with self.store.reading() as connection, connection.begin():
            return set(connection.scalars(living))

    def head_count(self) -> tuple[list[int], list[int]]:
        """Return how many students live, are enrolled and are deleted: as the source keeps it, and by the views."""
        views = ("current_student", "enrolled_student", "deleted_student")
        with self.store.reading() as connection, connection.begin():
            see_views(connection)
            of = {"of": self.source}
            kept = connection.execute(text("SELECT living, enrolled, deleted FROM source WHERE name = :of"), of).first()
            counts = (connection.scalar(text(f"SELECT count(*) FROM {view} WHERE source = :of"), of) for view in views)
            return list(kept or (0, 0, 0)), list(map(int, counts))

    def knows_what_get_serves(self) -> bool:
        """Return whether an answer of GET could be compared with a list row."""
        with self.store.reading() as connection:
            return source_state(connection, self.source).keys.fetched is not None

    def details_waiting(self) -> int:
        """Return for how many students GET has still to be asked."""
        with self.store.reading() as connection:
            return sum(row.details_waiting for row in health(connection) if row.source == self.source)

    def replica(self) -> dict[int, Student]:
        """Return the living students of the replica, without the last login."""
        with self.store.reading() as connection:
            stored = replica(connection, self.source)
        return {key: msgspec.structs.replace(row, last_accessed_at=None) for key, row in stored.items()}

    def requests(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return path and query of the requests since the last call of this."""
        seen = [(path, query) for _, path, query in self.app.log]
        self.app.log.clear()
        return seen

    def rows(self, query: str) -> list[Any]:
        with self.store.reading() as connection, connection.begin():
            see_views(connection)
            return list(connection.execute(text(query)).mappings())

    def snapshot(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return everything that a reader can see."""
        views = ("current_student", "deleted_student", "student_history", "sync_run")
        with self.store.reading() as connection, connection.begin():
            see_views(connection)
            seen = {view: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {view}"))] for view in views}
            marks = connection.execute(text("SELECT modified_watermark, deleted_watermark FROM source"))
            seen["watermarks"] = [tuple(row) for row in marks]
        return {name: sorted(rows, key=repr) for name, rows in seen.items()}


def upstream(school: School) -> dict[int, Student]:
    decoded = {key: decode_student(record) for key, record in school.truth().items()}
    assert all(isinstance(row, Student) for row in decoded.values())
    return {int(key): with_status(row) for key, row in decoded.items() if isinstance(row, Student)}


def replica(connection: Connection, source: str = SOURCE) -> dict[int, Student]:
    names = ("id", *FIELD_NAMES, "extra")
    with connection.begin():
        rows = connection.execute(
            select(*(student.c[name] for name in names)).where(
                student.c.source == source, student.c.deleted_at.is_(None)
            )
        ).all()
    return {row.id: Student(**dict(zip(names, row, strict=True))) for row in rows}
