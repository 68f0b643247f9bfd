"""Ordinary runs: the replica gets what upstream has, unchanged rows are not written, and a run is one transaction."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from harness import GUARD_OFF, World
from reports import ask
from sqlalchemy import make_url, select, text
from steps import asked_by_id, settled

from rostersync.clock import floor_seconds
from rostersync.errors import DatabaseUnreachable, LockHeld
from rostersync.models import DeletedStudent, StudentHistory, SyncRun
from rostersync.report import RunKind, RunState
from rostersync.simulator import churn
from rostersync.simulator import faults as make
from rostersync.simulator.switches import Switches
from rostersync.store.replica import commit as committing
from rostersync.store.store import Store

if TYPE_CHECKING:
    from conftest import ManualClock

META = ("per_page", "current_page", "total_pages")


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_the_first_run_is_full_and_brings_every_student_in_every_field(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.SUCCEEDED)
    assert report.counts.inserted == len(world.upstream()) > 0
    assert world.replica() == world.upstream()


def test_a_run_without_changes_asks_twice_and_writes_no_student(world: World) -> None:
    world.requests()
    before = world.snapshot()
    report = world.sync()
    assert len(world.requests()) == report.requests <= 3
    assert report.duration_s == pytest.approx(report.requests * 0.05)
    after = world.snapshot()
    for view in ("current_student", "deleted_student", "student_history"):
        assert after[view] == before[view]


def test_rows_that_are_read_again_within_the_overlap_are_not_written(world: World) -> None:
    for key in list(world.upstream())[:3]:
        world.school.update(key, nickname="Changed")
    world.pass_time(seconds=30)
    assert world.sync().counts.updated == 3
    world.pass_time(seconds=30)
    again = world.sync().counts
    assert (again.fetched, again.unchanged, again.updated) == (3, 3, 0)


@pytest.mark.parametrize("seed", range(5))
def test_an_incremental_run_after_a_day_of_churn_equals_upstream_without_reading_the_whole_list(
    world: World, seed: int
) -> None:
    done = churn(world.school, random.Random(seed), 60)
    assert done["delete"] + done["restore"] + done["clear"] > 0
    world.pass_time(minutes=5)
    world.requests()
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.INCREMENTAL, RunState.SUCCEEDED)
    assert world.replica() == world.upstream()
    names = {"ids[]", "modified_since", "deleted_since"}
    lists = [dict(query) for path, query in world.requests() if path.endswith("/students")]
    assert all(names & set(query) for query in lists)


def test_a_cleared_field_is_cleared(world: World) -> None:
    key = next(key for key, row in world.upstream().items() if row.homeroom_advisor_id)
    world.school.clear(key, "homeroom_advisor_id")
    world.pass_time(minutes=5)
    world.sync()
    assert world.replica()[key].homeroom_advisor_id is None


def test_a_change_from_true_to_1_in_an_unknown_key_makes_a_version(world: World) -> None:
    key = world.school.create(vaccinated=True)
    world.pass_time(minutes=1)
    world.sync()
    world.school.update(key, vaccinated=1)
    world.pass_time(minutes=5)
    world.sync()
    assert len(ask(world.url, select(StudentHistory).filter_by(id=key))) == 2


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


def test_a_deletion_makes_a_tombstone_that_keeps_what_was_known(world: World) -> None:
    key, row = min(world.upstream().items())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.requests()
    report = world.sync()
    assert report.counts.deleted == 1
    first, control, again = asked_by_id(world)
    assert first == again != control  # the student is asked for before and after a living one
    [tombstone] = ask(world.url, select(DeletedStudent))
    assert (tombstone.id, tombstone.email, tombstone.deletion_source) == (key, row.email, "stream")


@pytest.mark.parametrize("style", ["stub", "full", "full_deleted_at", "ids"])
def test_each_style_of_the_deleted_feed_makes_the_same_tombstone(
    migrated_url: str, clock: ManualClock, style: str
) -> None:
    world = settled(migrated_url, clock, per_page=5, switches=Switches(deleted_feed=style))  # type: ignore[arg-type]
    key, row = min(world.upstream().items())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    [tombstone] = ask(world.url, select(DeletedStudent))
    assert (tombstone.id, tombstone.email) == (key, row.email)


@pytest.mark.parametrize("left_out", [("per_page",), ("current_page",), ("total_pages",), META])
@pytest.mark.parametrize("cap", [2, 200])
def test_a_meta_that_leaves_counts_out_loses_nobody(
    migrated_url: str, clock: ManualClock, left_out: tuple[str, ...], cap: int
) -> None:
    """Not even if the server silently puts fewer students on a page than it was asked for."""
    switches = Switches(meta_without=left_out, per_page_cap=cap)
    world = World(migrated_url, clock, size=13, per_page=5, switches=switches, policy=GUARD_OFF)
    assert world.sync(RunKind.FULL).state is RunState.SUCCEEDED
    assert len(world.replica()) == 13
    assert world.replica() == world.upstream()
    world.pass_time(hours=1)
    for key in sorted(world.upstream())[:7]:
        world.school.update(key, nickname="Seven")
    for key in sorted(world.upstream())[-5:]:
        world.school.delete(key)
    world.pass_time(minutes=5)
    assert (world.sync().state, world.reports[-1].kind) == (RunState.SUCCEEDED, RunKind.INCREMENTAL)
    assert len(world.replica()) == 8
    assert world.replica() == world.upstream()


def test_a_tombstone_bears_the_moment_that_the_deleted_feed_tells(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, per_page=5, switches=Switches(deleted_feed="full_deleted_at"))
    world.school.delete(min(world.upstream()))
    moment = floor_seconds(world.clock.now())  # the grain of its stamps
    world.pass_time(minutes=5)
    world.sync()
    assert ask(world.url, select(DeletedStudent.deleted_at)) == [moment]


# One transaction -------------------------------------------------------------------------------------------------


def test_two_processes_cannot_write_one_source(world: World) -> None:
    with world.store.lease("main", "another process"), pytest.raises(LockHeld, match="another process"):
        world.sync()
    assert world.rows("SELECT state FROM run_request ORDER BY request_id DESC")[0]["state"] == "withdrawn"
    assert world.sync().state is RunState.SUCCEEDED


def test_a_failed_run_is_recorded_with_its_reason_and_changes_nothing(world: World) -> None:
    before = world.snapshot()
    world.app.faults.add(make.http_status(502), times=None)
    report = world.sync()
    assert (report.state, report.exit_status, report.counts.fetched) == (RunState.FAILED, 1, 0)
    after = world.snapshot()
    assert len(after["sync_run"]) == len(before["sync_run"]) + 1
    assert after | {"sync_run": []} == before | {"sync_run": []}


@pytest.mark.parametrize("arrives", [True, False], ids=["committed", "lost"])
def test_the_unknown_outcome_of_a_commit_is_settled_by_the_run_record(
    migrated_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """The connection dies at COMMIT, before or after the server has done it; the run knows which."""
    world = World(migrated_url, clock)
    dialect = world.store.engine.dialect
    commit, error = dialect.do_commit, dialect.loaded_dbapi.OperationalError
    record = committing._record_run
    recorded: list[int] = []

    def note(*arguments: Any) -> int:
        recorded.append(record(*arguments))
        return recorded[-1]

    def die(connection: Any) -> None:
        if recorded != [1]:
            commit(connection)
            return
        recorded.append(0)  # once
        (commit if arrives else dialect.do_rollback)(connection)
        raise error("the connection is lost")

    monkeypatch.setattr(committing, "_record_run", note)
    monkeypatch.setattr(dialect, "do_commit", die)
    if arrives:
        assert world.sync().state is RunState.SUCCEEDED
    else:
        with pytest.raises(DatabaseUnreachable):
            world.sync()
    monkeypatch.undo()
    assert len(ask(world.url, select(SyncRun))) == int(arrives)
    assert world.replica() == (world.upstream() if arrives else {})
