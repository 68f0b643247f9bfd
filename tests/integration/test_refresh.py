"""Single students are refreshed after a write, through the one path of every run, and nothing else is changed by it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ManualClock
from crashes import Crash, CrashInjector
from harness import SOURCE, TOKEN, World
from school_site import serve
from sqlalchemy import text
from steps import GUARD_AT_FIVE, asked_by_id, delete, held_run, settled

from rostersync.errors import ConfigError, Stopped
from rostersync.report import RunKind, RunRequest, RunState, ignore_progress
from rostersync.simulator import faults as make
from rostersync.simulator.app import App
from rostersync.simulator.state import School
from rostersync.store.queue import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from rostersync.cancel import CancelScope
    from rostersync.managebac.reader import StudentReader
    from rostersync.report import RunReport
    from rostersync.simulator.messages import Request

AT_ONCE = timedelta(0)


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock)


def refresh(world: World, *ids: int) -> RunReport:
    """Have students refreshed, which must be done at once."""
    report = world.executor().refresh(SOURCE, ids, AT_ONCE, world.scope)
    assert report is not None
    return report


def file(world: World, *ids: int, kind: RunKind = RunKind.REFRESH) -> int:
    """File a request that waits for ever, as a writer does who is gone by now."""
    with world.store.writing() as connection:
        return requests.file(connection, RunRequest(SOURCE, kind, wait=None, ids=ids), world.clock.now())


def state(world: World, request_id: int) -> str:
    with world.store.reading() as connection:
        return requests.progress(connection, request_id).state


def write(world: World, key: int, nickname: str = "Written") -> None:
    """Change a student upstream, five minutes after whatever was before."""
    world.pass_time(minutes=5)
    world.school.update(key, nickname=nickname)


def on_first(happens: Callable[[Request], bool], event: Callable[[], object], world: World) -> None:
    """Let `event` happen once, just before the first request that `happens` accepts is answered."""

    def happen(request: Request) -> None:
        if happens(request):
            world.app.on_request = None
            event()

    world.app.on_request = happen


def is_deleted_feed(request: Request) -> bool:
    """Tell whether a run asks for its last list, with the students already staged."""
    return request.first("deleted_since") is not None


# What it stores --------------------------------------------------------------------------------------------------


def test_a_student_who_was_written_is_stored_with_one_request(world: World) -> None:
    key = min(world.upstream())
    write(world, key)
    world.requests()
    report = refresh(world, key)
    assert (report.kind, report.state, report.counts.updated) == (RunKind.REFRESH, RunState.SUCCEEDED, 1)
    assert world.replica() == world.upstream()
    assert [(path, query[0]) for path, query in world.requests()] == [("/v2p1/students", ("ids[]", str(key)))]


def test_a_student_who_was_created_is_stored(world: World) -> None:
    key = world.school.create(nickname="New")
    assert refresh(world, key).counts.inserted == 1
    assert world.replica()[key].nickname == "New"


def test_a_student_who_lives_again_is_restored(world: World) -> None:
    (key,) = delete(world, 1)
    world.sync()
    world.school.restore(key)
    assert refresh(world, key).counts.restored == 1
    assert world.replica() == world.upstream()


def test_a_student_who_is_gone_stays_until_the_next_run(world: World) -> None:
    before = world.replica()
    (key,) = delete(world, 1)
    report = refresh(world, key)
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    assert report.notices == ("students who were not found and are left unchanged until the next run: 1",)
    assert world.replica() == before
    assert world.sync().counts.deleted == 1


def test_many_students_are_asked_for_in_one_request_of_the_list_and_by_get_whom_that_does_not_show(
    world: World,
) -> None:
    shown, gone = sorted(world.upstream())[:2]
    write(world, shown)
    world.school.delete(gone)
    world.requests()
    report = refresh(world, shown, gone)
    assert (report.counts.updated, report.requests) == (1, 2)
    assert asked_by_id(world) == [f"/v2p1/students/{gone}"]
    assert world.replica()[shown].nickname == "Written"


def test_a_student_whose_answer_is_unclear_stays_and_the_others_are_stored(world: World) -> None:
    unclear, other = sorted(world.upstream())[:2]
    before = world.replica()[unclear]
    write(world, unclear)
    write(world, other)
    world.app.faults.add(make.http_status(502), make.on_ids, times=None)
    world.app.faults.add(make.http_status(502), make.on_student(unclear), times=None)
    report = refresh(world, unclear, other)
    assert (report.state, report.exit_status, report.counts.updated) == (RunState.INCOMPLETE, 1, 1)
    assert report.error == "students who could not be fetched and are left unchanged: 1"
    assert (world.replica()[unclear], world.replica()[other].nickname) == (before, "Written")


def test_a_record_that_cannot_be_decoded_goes_to_quarantine_and_a_refresh_that_decodes_it_lets_it_out(
    world: World,
) -> None:
    key = min(world.upstream())
    good, before = world.school.truth()[key], world.replica()
    world.school.inject(key, {**good, "nickname": "no\0text"})
    report = refresh(world, key)
    assert (report.state, report.counts.quarantined) == (RunState.SUCCEEDED, 1)
    assert [row["id"] for row in world.rows("SELECT id FROM quarantine")] == [key]
    assert world.replica() == before
    world.school.inject(key, {**good, "nickname": "Fixed"})
    refresh(world, key)
    assert world.rows("SELECT id FROM quarantine") == []
    assert world.replica()[key].nickname == "Fixed"


def test_a_single_404_lets_nobody_out_of_quarantine(world: World) -> None:
    key = world.school.inject(900_000, {"id": 900_000, "email": "no\0text"})
    world.pass_time(minutes=5)
    world.sync()
    world.app.faults.add(make.not_found(), make.on_student(key), times=None)
    refresh(world, key)
    assert [row["id"] for row in world.rows("SELECT id FROM quarantine")] == [key]


def test_however_many_records_cannot_be_decoded_a_refresh_does_not_fail(world: World) -> None:
    keys = [world.school.inject(900_000 + n, {"id": 900_000 + n, "email": "no\0text"}) for n in range(25)]
    report = refresh(world, *keys)
    assert (report.state, report.counts.quarantined) == (RunState.SUCCEEDED, 25)


# What it leaves alone --------------------------------------------------------------------------------------------


def known(world: World) -> list[Any]:
    """Return all that is known of the source, but for its lock and its students."""
    aside = {"fence", "holder", "held_since", "age_seconds", "live_students"}
    rows = [*world.rows("SELECT * FROM source"), *world.rows("SELECT * FROM sync_health")]
    return [{name: value for name, value in row.items() if name not in aside} for row in rows]


def test_a_refresh_moves_no_watermark_and_counts_for_nothing_in_sync_health(world: World) -> None:
    key, before = min(world.upstream()), known(world)
    world.pass_time(days=1)
    world.school.create(unheard_of="a key that nobody knows")
    refresh(world, key, max(world.upstream()))
    assert known(world) == before
    world.app.faults.add(make.http_status(502), make.on_student(), times=None)
    refresh(world, key)
    assert known(world) == before
    kinds = [row["kind"] for row in world.rows("SELECT kind FROM sync_run ORDER BY run_id")]
    assert kinds == ["full", "refresh", "refresh"]


def test_the_run_after_a_refresh_finds_nothing_to_write(world: World) -> None:
    key = min(world.upstream())
    write(world, key)
    refresh(world, key)
    before = world.snapshot()
    world.pass_time(minutes=1)
    report = world.sync()
    assert (report.state, report.counts.fetched, report.counts.unchanged) == (RunState.SUCCEEDED, 1, 1)
    after = world.snapshot()
    assert [after[view] for view in ("current_student", "student_history")] == [
        before[view] for view in ("current_student", "student_history")
    ]


def test_a_hold_outlives_a_refresh_of_its_students(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)
    gone = delete(world, 6)
    held = world.sync().run_id
    refresh(world, *gone)
    assert held_run(world) == held
    assert world.sync(approves=held).counts.deleted == 6


def test_another_school_fails_a_refresh_and_nothing_is_stored(world: World, clock: ManualClock) -> None:
    before, facts = world.replica(), known(world)
    world.token = "canary-token-of-another-school"
    world.school = School(2, 0, clock)
    stranger = world.school.create(id=70_000)
    world.app = App(world.school, TOKEN)
    report = refresh(world, stranger)
    assert report.state is RunState.FAILED
    assert "known students" in (report.error or "")
    assert (world.replica(), known(world)) == (before, facts)


def test_a_source_without_a_replica_is_not_refreshed(migrated_url: str, clock: ManualClock) -> None:
    """Its one student would be taken for the whole school."""
    world = World(migrated_url, clock)
    report = refresh(world, min(world.upstream()))
    assert (report.state, report.error) == (RunState.FAILED, f"source {SOURCE} has no replica yet")
    assert "rostersync sync" in report.hint
    assert world.replica() == {}
    assert world.sync().kind is RunKind.FULL
    assert world.replica() == world.upstream()


# Waiting for it --------------------------------------------------------------------------------------------------


def test_two_callers_are_joined_and_both_their_students_are_refreshed(world: World) -> None:
    first, second, third = sorted(world.upstream())[:3]
    for key in (first, second, third):
        write(world, key)
    assert file(world, first, second) == file(world, second)
    assert refresh(world, third).counts.updated == 3
    assert world.replica() == world.upstream()
    assert [row["state"] for row in world.rows("SELECT state FROM run_request WHERE kind = 'refresh'")] == ["done"]


def test_a_refresh_that_is_filed_during_a_full_run_is_executed_by_its_process(world: World) -> None:
    """The full run has staged the student as they were before; the refresh comes after its commit."""
    key = min(world.upstream())

    def somebody_writes() -> None:
        write(world, key)
        assert world.executor().refresh(SOURCE, [key], AT_ONCE, world.scope) is None  # it waits in the queue

    on_first(is_deleted_feed, somebody_writes, world)
    assert world.full().kind is RunKind.FULL
    assert world.replica()[key].nickname == "Written"
    assert [row["kind"] for row in world.rows("SELECT kind FROM sync_run ORDER BY run_id")][1:] == ["full", "refresh"]


def test_a_caller_with_patience_ends_with_the_report_of_whoever_executed_its_refresh(
    world: World, clock: ManualClock
) -> None:
    key = min(world.upstream())
    write(world, key)
    with world.store.lease(SOURCE, "rostersync run") as lease:
        executor = world.executor()

        def do_it(_event: object, _seconds: float) -> bool:
            clock.advance(0.1)
            if request := executor._take(lease, refresh=True):
                executor._execute(lease, request, ignore_progress, world.scope)
            return False

        clock.wait = do_it  # type: ignore[method-assign]
        assert refresh(world, key).counts.updated == 1


def test_a_caller_whose_patience_is_over_leaves_the_refresh_to_the_next_run(world: World) -> None:
    key = min(world.upstream())
    write(world, key)
    with world.store.lease(SOURCE, "rostersync run"):
        assert world.executor().refresh(SOURCE, [key], timedelta(seconds=10), world.scope) is None
    assert sum(world.clock.slept) == pytest.approx(10, abs=1)
    world.pass_time(days=3)
    world.sync()
    assert [row["state"] for row in world.rows("SELECT state FROM run_request WHERE kind = 'refresh'")] == ["done"]


def test_a_caller_that_is_stopped_leaves_the_refresh_in_the_queue(world: World) -> None:
    with world.store.lease(SOURCE, "rostersync run"):
        world.scope.cancel(15)
        with pytest.raises(Stopped):
            world.executor().refresh(SOURCE, [min(world.upstream())], timedelta(seconds=10), world.scope)
    assert [row["state"] for row in world.rows("SELECT state FROM run_request WHERE kind = 'refresh'")] == ["pending"]


def test_a_writer_does_not_wait_for_a_run_that_somebody_has_queued(world: World) -> None:
    queued = file(world, kind=RunKind.FULL)
    world.requests()
    key = min(world.upstream())
    refresh(world, key)
    assert (len(world.requests()), state(world, queued)) == (1, "pending")


def test_a_daemon_executes_a_refresh_before_the_second_of_two_runs(world: World) -> None:
    file(world, kind=RunKind.FULL)
    file(world, kind=RunKind.INCREMENTAL)
    on_first(is_deleted_feed, lambda: file(world, min(world.upstream())), world)
    locks = world.store.held_locks("rostersync run")
    locks.take(SOURCE)
    ended: list[RunKind] = []
    world.executor().execute_all(SOURCE, lambda report: ended.append(report.kind), world.scope)
    locks.drop()
    assert ended == [RunKind.FULL, RunKind.REFRESH, RunKind.INCREMENTAL]


def test_a_run_ends_however_busy_the_writers_are(world: World) -> None:
    """It executes one refresh; what is filed during that one is left to its caller, who waits for the lock."""
    key = min(world.upstream())
    filed: list[int] = []
    world.app.on_request = lambda _: filed.append(file(world, key))
    assert world.sync().state is RunState.SUCCEEDED
    assert [state(world, number) for number in dict.fromkeys(filed)] == ["done", "pending"]


# When it goes wrong ----------------------------------------------------------------------------------------------


def dying_refresh(world: World, keys: list[int], die_at: int) -> int:
    """Have students refreshed by a process that dies at one of its steps; return how many it took."""
    fuse = CrashInjector(world.store.engine, die_at)
    world.app.on_request = fuse.step
    try:
        with suppress(Crash):
            world.executor().refresh(SOURCE, keys, AT_ONCE, world.scope)
    finally:
        fuse.remove()
        world.app.on_request = None
    return fuse.steps


def test_a_process_that_dies_amid_a_refresh_leaves_it_done_or_to_the_next_holder(world: World) -> None:
    keys = sorted(world.upstream())[:2]
    steps, filed = dying_refresh(world, keys, 0), 0
    assert steps > 20
    for step in range(2, steps, 5):
        for key in keys:
            write(world, key, f"Written {step}")
        dying_refresh(world, keys, step)
        before = world.replica()
        left = [row["state"] for row in world.rows("SELECT state FROM run_request WHERE state <> 'done'")]
        refresh(world)
        if left or before == world.upstream():
            filed += 1
            assert world.replica() == world.upstream(), f"step {step}"
        assert not world.rows("SELECT 1 FROM run_request WHERE state <> 'done'")
    assert filed >= 0.7 * len(range(2, steps, 5)), "else it died before it had filed anything"


@contextmanager
def without_token(_source: str, _scope: CancelScope) -> Iterator[StudentReader]:
    raise ConfigError(["the token is gone"])
    yield


def test_a_refresh_that_raises_an_error_does_not_do_so_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = min(world.upstream())
    with monkeypatch.context() as broken:
        broken.setattr(world, "connect", without_token)
        with pytest.raises(ConfigError):
            refresh(world, key)
    world.requests()
    world.sync()
    assert not asked_by_id(world)
    assert [row["state"] for row in world.rows("SELECT state FROM run_request WHERE kind = 'refresh'")] == ["failed"]


def test_a_runs_report_survives_what_becomes_of_the_refresh_behind_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connects, refreshed = iter([world.connect, without_token]), file(world, min(world.upstream()))
    monkeypatch.setattr(world, "connect", lambda *given: next(connects)(*given))  # noqa: PLW0108 - the next at each call
    assert world.sync().state is RunState.SUCCEEDED
    assert state(world, refreshed) == "failed"


# Two processes on PostgreSQL: on SQLite one waits for the other before it has read anything --------------------------


def wait_for_a_waiter(engine: Engine) -> None:
    waiters = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 30
    with engine.connect() as connection:
        while True:
            with connection.begin():
                if connection.scalar(text(waiters)):
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_student_who_is_added_while_the_request_is_taken_is_taken_with_it(
    postgres_url: str, clock: ManualClock
) -> None:
    world = settled(postgres_url, clock)
    first, second = sorted(world.upstream())[:2]
    request = file(world, first)
    with world.store.lease(SOURCE, "rostersync run") as lease, ThreadPoolExecutor() as pool:
        with world.store.writing() as connection:
            joined = RunRequest(SOURCE, RunKind.REFRESH, wait=None, ids=(second,))
            assert requests.file(connection, joined, clock.now()) == request
            taking = pool.submit(requests.take, lease, clock.now(), 0, refresh=True)
            wait_for_a_waiter(world.store.engine)
        taken = taking.result(30)
    assert taken is not None
    assert taken.ids == (first, second)


def test_a_request_that_is_taken_while_it_is_joined_is_not_joined(
    postgres_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = settled(postgres_url, clock)
    first, second = sorted(world.upstream())[:2]
    request = file(world, first)
    found = requests._pending
    with world.store.lease(SOURCE, "rostersync run") as lease:

        def taken_meanwhile(*arguments: Any) -> Any:
            row = found(*arguments)
            taken = requests.take(lease, clock.now(), 0, refresh=True)
            assert taken is not None
            assert taken.ids == (first,)
            return row

        monkeypatch.setattr(requests, "_pending", taken_meanwhile)
        assert file(world, second) != request


# What the commands show ------------------------------------------------------------------------------------------


def test_runs_shows_a_refresh_and_sync_and_status_do_not(migrated_url: str, tmp_path: Path) -> None:
    with serve(tmp_path, migrated_url, 5) as site:
        first = site.json("sync")["runs"][0]
        with World(migrated_url, ManualClock(), size=0).store.writing() as connection:
            ids = (min(site.school.truth()),)
            requests.file(connection, RunRequest(SOURCE, RunKind.REFRESH, wait=None, ids=ids), ManualClock().now())
        own = site.json("sync")["runs"]
        assert [run["kind"] for run in own] == ["incremental"]
        assert [run["kind"] for run in site.json("runs")["runs"]] == ["refresh", "incremental", "full"]
        (source,) = site.json("status")["sources"]
        assert (source["last_run_id"], source["last_state"]) == (own[0]["run_id"], "succeeded")
        assert own[0]["run_id"] == first["run_id"] + 1
