"""What reviewers found by asking what else could happen: each was wrong once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from harness import SOURCE, World, on_past_days
from sqlalchemy import make_url, text

from rostersync.errors import ConfigError
from rostersync.report import RunKind, RunRequest, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.messages import json_response
from rostersync.simulator.switches import Switches
from rostersync.store import Store, requests
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.plan import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import ManualClock

    from rostersync.managebac.students import Students
    from rostersync.simulator.messages import Request

GUARD_OFF = SyncPolicy(guard=GuardPolicy(max_deletions=1000, max_deletion_percent=100))


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    world = World(migrated_url, clock, policy=GUARD_OFF, per_page=100)
    world.sync()
    world.pass_time(hours=1)
    return world


def file(world: World, seconds: float = 600) -> int:
    request = RunRequest(SOURCE, RunKind.INCREMENTAL, wait=timedelta(seconds=seconds))
    with world.store.writing() as connection:
        return requests.file(connection, request, world.clock.now())


def served(change: Callable[[dict[str, Any]], dict[str, Any]]) -> make.Fault:
    """Return a fault that answers with what `change` makes of the true answer."""
    return make._spoiled(change)


def test_a_large_quarantine_does_not_stop_later_runs(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=600, per_page=200, policy=GUARD_OFF)
    for number in range(25):
        world.school.inject(900_000 + number, {"id": 900_000 + number, "email": ["not", "text"]})
    assert world.sync().state is RunState.SUCCEEDED
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED


def test_a_record_without_an_id_does_not_let_deletions_pass_unseen(world: World) -> None:
    world.school.inject(None, {"first_name": "Nameless"})
    world.full()
    world.pass_time(hours=1)
    gone = min(world.upstream())
    world.school.delete(gone)
    world.pass_time(hours=1)
    world.full()
    world.pass_time(hours=1)
    world.sync()
    assert gone not in world.replica()


def test_a_full_run_that_may_not_infer_from_absence_removes_whom_the_deleted_feed_tells(world: World) -> None:
    world.school.inject(None, {"first_name": "Nameless"})
    gone = min(world.upstream())
    world.school.delete(gone)
    world.pass_time(hours=1)
    report = world.full()
    assert report.counts.deleted == 1
    assert report.watermarks.deleted == report.watermarks.modified


def test_a_full_run_that_may_not_infer_from_absence_needs_a_deleted_feed_to_date_its_watermark(
    world: World,
) -> None:
    before = world.reports[0].watermarks.deleted
    world.school.inject(None, {"first_name": "Nameless"})
    world.school.switches = Switches(deleted_feed="ignored")
    world.pass_time(hours=1)
    report = world.full()
    assert report.state is RunState.SUCCEEDED
    assert report.watermarks.deleted == before


def test_a_full_run_of_one_page_asks_for_it_once_and_for_who_left(world: World) -> None:
    assert world.full().requests == 2


def test_a_full_run_tells_when_and_how_its_students_left(world: World) -> None:
    world.school.switches = replace(world.school.switches, deleted_feed="full_deleted_at")
    world.full()
    world.pass_time(hours=1)
    told, purged = sorted(world.upstream())[:2]
    world.school.delete(told)
    world.school.purge(purged)
    world.pass_time(hours=1)
    assert world.full().counts.deleted == 2
    earliest_first = world.rows("SELECT id, deletion_source FROM deleted_student ORDER BY deleted_at")
    assert [tuple(row.values()) for row in earliest_first] == [(told, "stream"), (purged, "sweep")]


def test_whom_a_full_run_shows_no_deleted_feed_puts_in_question(migrated_url: str, clock: ManualClock) -> None:
    """It lists some of the living, more than the guard allows, and the guard counts before GET is asked."""
    world = World(migrated_url, clock, size=20, per_page=50)
    world.full()
    list_as_deleted(world, sorted(world.upstream())[:6])
    world.pass_time(hours=1)
    report = world.full()
    assert (report.state, report.requests) == (RunState.SUCCEEDED, 3)


def list_as_deleted(world: World, keys: list[int]) -> None:
    """Let the deleted feed list these, who live, and nobody else."""

    def listed(document: dict[str, Any]) -> dict[str, Any]:
        return {"students": [{"id": key} for key in keys], "meta": {**document["meta"], "total_count": len(keys)}}

    world.app.faults.add(served(listed), on_past_days, times=None)


def test_a_full_run_that_could_not_sweep_ends_no_hold(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    world.sync()
    for key in sorted(world.upstream())[:6]:
        world.school.purge(key)
    world.pass_time(hours=1)
    held = world.full()
    world.school.inject(None, {"first_name": "Nameless"})
    world.pass_time(hours=1)
    world.full()
    assert world.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] == held.run_id


def test_the_living_whom_the_deleted_feed_lists_are_spared_by_one_list_request(world: World) -> None:
    list_as_deleted(world, sorted(world.upstream())[:3])
    world.requests()
    assert world.sync().requests == 4
    assert world.replica() == world.upstream()


def test_a_deleted_feed_that_lists_a_few_of_many_living_does_not_ignore_its_filter(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=40, per_page=100)
    world.sync()
    world.pass_time(hours=1)
    list_as_deleted(world, sorted(world.upstream())[:12])
    world.sync()
    assert not world.rows("SELECT deleted_feed_ignored FROM source")[0]["deleted_feed_ignored"]


def test_a_full_run_that_could_not_sweep_ends_no_hold_of_an_incremental_one(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    world.sync()
    gone = sorted(world.upstream())[:6]
    for key in gone:
        world.school.delete(key)
    world.pass_time(hours=1)
    held = world.sync()
    for key in gone:
        world.school.restore(key)
    world.school.inject(None, {"first_name": "Nameless"})
    world.pass_time(hours=1)
    assert world.full().state is RunState.SUCCEEDED
    assert world.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] == held.run_id


def test_a_restore_whose_proof_failed_is_not_lost_when_the_deleted_feed_still_lists_him(world: World) -> None:
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=30)
    world.sync()
    world.school.restore(key)
    world.pass_time(minutes=30)

    def still_listed(document: dict[str, Any]) -> dict[str, Any]:
        meta = document["meta"]
        meta["total_count"] += 1
        return {"students": [*document["students"], {"id": key}], "meta": meta}

    world.app.faults.add(served(still_listed), on_past_days, times=None)
    world.app.faults.add(make.http_status(502), make.on_student(key), times=None)
    assert world.sync().state is RunState.INCOMPLETE
    world.app.faults.clear()
    world.pass_time(hours=1)
    world.sync()
    assert key in world.replica()


def test_a_stale_answer_to_a_list_by_ids_is_asked_for_again(world: World) -> None:
    key = min(world.upstream())
    world.school.update(key, nickname="Newer")
    world.pass_time(hours=1)
    world.sync()
    world.pass_time(hours=1)

    def listed(document: dict[str, Any]) -> dict[str, Any]:
        return {"students": [{"id": key}], "meta": {**document["meta"], "total_count": 1}}

    def lagging(document: dict[str, Any]) -> dict[str, Any]:
        old = [{**row, "nickname": "Older", "updated_at": "2020-01-01T00:00:00.000Z"} for row in document["students"]]
        return {**document, "students": old}

    world.app.faults.add(served(listed), on_past_days, times=None)
    world.app.faults.add(served(lagging), make.on_ids, times=None)
    assert world.sync().counts.stale == 1
    assert world.replica()[key].nickname == "Newer"


def test_records_whose_proof_never_comes_do_not_keep_the_others_in_quarantine(world: World) -> None:
    keys = [world.school.create() for _ in range(101)]
    moment = "2026-01-01T00:00:00.000Z"
    with world.store.writing() as connection:
        for key in keys:
            row = f"INSERT INTO quarantine VALUES ('{SOURCE}', {key}, 'reason', '{moment}', '{moment}')"
            connection.execute(text(row))
        later = "2026-03-02T12:00:00.000Z"
        connection.execute(text(f"UPDATE source SET modified_watermark = '{later}'"))
    world.pass_time(hours=4)
    for key in keys[:100]:
        world.app.faults.add(make.http_status(404, html=True), make.on_student(key), times=None)
    world.requests()
    for _ in range(2):
        world.sync()
        world.pass_time(hours=1)
        assert len({path for path, _ in world.requests() if not path.endswith("/students")}) == 100
    assert keys[100] in world.replica()


def test_a_change_from_true_to_1_in_an_unknown_key_makes_a_version(world: World) -> None:
    key = world.school.create(vaccinated=True)
    world.pass_time(minutes=1)
    world.sync()
    world.school.update(key, vaccinated=1)
    world.pass_time(minutes=5)
    world.sync()
    assert len(world.rows(f"SELECT op FROM student_history WHERE id = {key}")) == 2


@pytest.mark.parametrize(
    ("zone", "stamp"), [("America/New_York", "0001-01-01T00:00:00.000Z"), ("Asia/Tokyo", "9999-12-31T23:59:59.000Z")]
)
def test_the_ends_of_the_calendar_are_read_back_in_any_zone_of_the_server(
    postgres_url: str, clock: ManualClock, zone: str, stamp: str
) -> None:
    with Store(postgres_url, clock, create=True).writing() as connection:
        name = make_url(postgres_url).database
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET timezone = '{zone}'"))
    world = World(postgres_url, clock)
    key = world.school.create()
    record = {**world.school.truth()[key], "last_accessed_at": stamp}
    for nickname in ("Before", "After"):
        world.school.inject(key, {**record, "nickname": nickname})
        world.pass_time(minutes=30)
        assert world.sync().state is RunState.SUCCEEDED
    assert world.replica()[key].nickname == "After"


def test_a_dry_run_takes_a_file_that_was_never_set_up_for_an_empty_database(
    sqlite_url: str, clock: ManualClock
) -> None:
    world = World(sqlite_url, clock)
    assert world.store.path is not None
    for path in world.store.path.parent.iterdir():
        path.unlink()
    world.store.path.touch()
    assert world.dry_run().counts.inserted == len(world.upstream())


# Requests --------------------------------------------------------------------------------------------------------


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
    request = file(world)
    assert file(world) == request  # two wait for it
    late: list[int] = []

    def one_leaves_and_one_comes(_request: Request) -> None:
        if not late:
            world.executor()._abandon(request)
            late.append(file(world))

    with world.store.lease(SOURCE, "rostersync run") as lease:
        request = requests.take(lease, world.clock.now(), 0)
        assert request is not None
        world.app.on_request = one_leaves_and_one_comes
        world.executor()._execute(lease, request, lambda *_: None)
    assert late != [request]


def test_a_callers_own_report_survives_what_becomes_of_later_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, opened = world.connect, []

    @contextmanager
    def connect_once(source: str) -> Iterator[Students]:
        opened.append(source)
        if len(opened) > 1:
            raise ConfigError(["the token is gone"])
        request = RunRequest(SOURCE, RunKind.FULL, wait=timedelta(hours=1))
        with world.store.writing() as connection:
            requests.file(connection, request, world.clock.now())
        with connect(source) as api:
            yield api

    monkeypatch.setattr(world, "connect", connect_once)
    assert world.sync().state is RunState.SUCCEEDED


def test_what_an_approval_could_not_prove_is_told_to_whoever_asked(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    world.sync()
    world.pass_time(hours=1)
    gone = sorted(world.upstream())[:6]
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    held = world.sync()
    world.school.restore(gone[0])
    world.pass_time(minutes=5)
    with world.store.lease(SOURCE, "rostersync run") as lease:
        executor = world.executor()

        def do_it(_seconds: float) -> None:
            clock.advance(0.1)
            if request := requests.take(lease, clock.now(), 0):
                executor._execute(lease, request, lambda *_: None)

        clock.sleep = do_it  # type: ignore[method-assign]
        report = world.sync(approves=held.run_id)
    assert str(gone[0]) in report.notices[0]


def test_a_deleted_student_whose_record_cannot_be_decoded_is_removed(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, per_page=100, switches=Switches(deleted_get="record", deleted_feed="stub"))
    world.sync()
    key = min(world.upstream())
    world.school.delete(key)
    record = {"id": key, "email": ["not", "text"], "deleted_at": world.clock.now().isoformat()}
    world.app.faults.add(lambda _: json_response(200, {"student": record}), make.on_student(key), times=None)
    world.pass_time(minutes=1)
    assert world.sync().counts.deleted == 1
    assert key not in world.replica()
