"""The one path for every run: filed, joined, taken, taken again, withdrawn."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ManualClock
from crashes import Crash
from harness import SOURCE, World
from reports import ask
from sqlalchemy import select
from steps import GUARD_AT_FIVE, delete, settled

from rostersync.errors import ConfigError, LockHeld, LockLost, Stopped, StoreError
from rostersync.models import SyncRun
from rostersync.report import RunKind, RunRequest, RunState
from rostersync.runs.executor import Executor
from rostersync.simulator import faults as make
from rostersync.store.queue import requests
from rostersync.store.replica import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.cancel import CancelScope
    from rostersync.managebac.reader import StudentReader
    from rostersync.simulator.messages import Request


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def file(world: World, kind: RunKind = RunKind.INCREMENTAL, approves: int | None = None, seconds: float = 60) -> int:
    request = RunRequest(SOURCE, kind, approves, timedelta(seconds=seconds))
    with world.store.writing() as connection:
        return requests.file(connection, request, world.clock.now())


def state(world: World, request_id: int) -> str:
    with world.store.reading() as connection:
        return requests.progress(connection, request_id).state


def test_a_pending_request_of_the_same_kind_is_joined_and_another_kind_is_not(world: World) -> None:
    first = file(world)
    assert file(world) == first
    assert file(world, RunKind.FULL) != first


def test_an_approval_is_never_joined(world: World) -> None:
    assert file(world, approves=1) != file(world, approves=1)


def test_a_joined_request_is_withdrawn_with_its_last_waiter(world: World) -> None:
    request = file(world)
    file(world)
    for expected in ("pending", "withdrawn"):
        with world.store.writing() as connection:
            requests.leave(connection, request, taken=False)
        assert state(world, request) == expected


def test_whoever_gets_the_lock_executes_what_others_wished_for(world: World) -> None:
    wished = file(world, RunKind.FULL)
    world.sync()
    assert state(world, wished) == "done"
    assert ask(world.url, select(SyncRun.kind).order_by(SyncRun.run_id)) == ["full", "full", "incremental"]


def test_a_request_that_nobody_took_in_time_is_void(world: World) -> None:
    wished = file(world, RunKind.FULL, seconds=10)
    world.pass_time(seconds=11)
    world.sync()
    assert state(world, wished) == "pending"
    assert len(ask(world.url, select(SyncRun))) == 2


def test_a_request_whose_executor_died_is_taken_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_request: Request) -> None:
        raise Crash

    world.app.on_request = die
    monkeypatch.setattr(Executor, "_abandon", lambda *_: None)  # nobody is left to do it
    with pytest.raises(Crash):
        world.sync(RunKind.FULL)
    world.app.on_request = None
    world.sync()
    assert ask(world.url, select(SyncRun.kind).order_by(SyncRun.run_id)) == ["full", "full", "incremental"]


def test_a_caller_that_is_stopped_withdraws_its_request(world: World) -> None:
    world.app.on_request = lambda _: world.scope.cancel(15)
    with pytest.raises(Stopped):
        world.sync()
    assert [row["state"] for row in world.rows("SELECT state FROM run_request ORDER BY request_id")] == [
        "done",
        "withdrawn",
    ]


def test_a_held_source_is_told_with_its_holder_and_the_request_is_withdrawn(world: World) -> None:
    with world.store.lease(SOURCE, "rostersync run"), pytest.raises(LockHeld, match="rostersync run") as caught:
        world.sync()
    assert caught.value.exit_status == 75
    assert world.store.is_held(SOURCE) is False


def test_a_caller_ends_with_the_result_of_whoever_did_the_run(world: World, clock: ManualClock) -> None:
    """The holder takes the request, and the caller, who cannot get the lock, finds it done."""
    with world.store.lease(SOURCE, "rostersync run") as lease:

        def do_it(_event: object, _seconds: float) -> bool:
            clock.advance(0.1)
            if request := requests.take(lease, clock.now(), 0):
                executor._execute(lease, request, lambda *_: None, world.scope)
            return False

        executor = world.executor()
        clock.wait = do_it  # type: ignore[method-assign]
        report = world.sync()
    assert report.state is RunState.SUCCEEDED
    assert report.run_id == 2


def test_a_holder_who_was_overtaken_cannot_commit(world: World) -> None:
    with world.store.lease(SOURCE, "first") as lease:
        request = RunRequest(SOURCE, RunKind.INCREMENTAL, request_id=file(world))
        with world.store.writing() as connection:
            connection.exec_driver_sql("UPDATE source SET fence = fence + 1")
        before = world.snapshot()
        with pytest.raises(LockLost):
            world.executor()._execute(lease, request, lambda *_: None, world.scope)
        assert world.snapshot() == before


class RealTime(ManualClock):
    """A clock on which whoever waits for a lock waits for real."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(min(seconds, 0.05))


def test_two_threads_that_want_the_same_run_get_one_after_the_other(migrated_url: str) -> None:
    world = World(migrated_url, RealTime())
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(world.sync())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [report.state for report in reports] == [RunState.SUCCEEDED] * 2
    assert world.replica() == world.upstream()


@pytest.mark.parametrize("fails", [False, True], ids=["succeeded", "failed"])
def test_a_recorded_run_is_read_back_as_it_was_reported(world: World, fails: bool) -> None:
    if fails:
        world.app.faults.add(make.http_status(502), times=None)
    report = world.sync()
    with world.store.reading() as connection:
        assert report.run_id is not None
        recorded = runs.report(connection, report.run_id)
    assert recorded.to_json() == report.to_json()
    assert recorded.exit_status == report.exit_status == int(fails)


def test_nobody_waits_for_ever_for_a_request_that_was_withdrawn(world: World, clock: ManualClock) -> None:
    """As after a caller that left it twice, because it did not learn that its first COMMIT was done."""
    with world.store.lease(SOURCE, "rostersync run"):

        def withdraw(event: threading.Event, seconds: float) -> bool:
            clock.wait = ManualClock.wait.__get__(clock)  # type: ignore[method-assign]
            clock.advance(seconds)
            [request] = world.rows("SELECT max(request_id) AS id FROM run_request")
            with world.store.writing() as connection:
                requests.leave(connection, request["id"], taken=False)
            return event.is_set()

        clock.wait = withdraw  # type: ignore[method-assign]
        with pytest.raises(StoreError, match="withdrawn"):
            world.sync()


def test_a_request_that_is_withdrawn_while_it_is_joined_is_not_joined(
    postgres_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(postgres_url, clock)
    world.sync()
    first = file(world)
    found = requests._pending

    def withdrawn_meanwhile(*arguments: Any) -> Any:
        row = found(*arguments)
        with world.store.writing() as connection:
            requests.leave(connection, first, taken=False)
        return row

    monkeypatch.setattr(requests, "_pending", withdrawn_meanwhile)
    assert file(world) != first


def test_nobody_joins_a_run_that_is_under_way(world: World) -> None:
    number = file(world)
    assert file(world) == number  # two wait for it
    late: list[int] = []

    def one_leaves_and_one_comes(_request: Request) -> None:
        if not late:
            world.executor()._abandon(taken)
            late.append(file(world))

    with world.store.lease(SOURCE, "rostersync run") as lease:
        taken = requests.take(lease, world.clock.now(), 0)
        assert taken is not None
        world.app.on_request = one_leaves_and_one_comes
        world.executor()._execute(lease, taken, lambda *_: None, world.scope)
    assert late
    assert late != [number]


def test_a_callers_own_report_survives_what_becomes_of_later_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, opened = world.connect, []

    @contextmanager
    def connect_once(source: str, scope: CancelScope) -> Iterator[StudentReader]:
        opened.append(source)
        if len(opened) > 1:
            raise ConfigError(["the token is gone"])
        request = RunRequest(SOURCE, RunKind.FULL, wait=timedelta(hours=1))
        with world.store.writing() as connection:
            requests.file(connection, request, world.clock.now())
        with connect(source, scope) as api:
            yield api

    monkeypatch.setattr(world, "connect", connect_once)
    assert world.sync().state is RunState.SUCCEEDED


def test_what_an_approval_could_not_prove_is_reported_to_the_caller_that_asked_for_it(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    gone = delete(world, 6)
    held = world.sync()
    world.school.restore(gone[0])
    world.pass_time(minutes=5)
    with world.store.lease(SOURCE, "rostersync run") as lease:
        executor = world.executor()

        def do_it(_event: object, _seconds: float) -> bool:
            clock.advance(0.1)
            if request := requests.take(lease, clock.now(), 0):
                executor._execute(lease, request, lambda *_: None, world.scope)
            return False

        clock.wait = do_it  # type: ignore[method-assign]
        report = world.sync(approves=held.run_id)
    assert str(gone[0]) in report.notices[0]
