"""Whole runs against the stand-in, on both databases."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest
from harness import Crash, CrashInjector, World
from sqlalchemy import select, text, update

from rostersync.clock import floor_seconds
from rostersync.errors import DatabaseUnreachable, LockHeld
from rostersync.report import RunKind, RunState, Watermarks
from rostersync.simulator import churn
from rostersync.simulator.faults import Faults, http_status, not_found, on_deleted_feed, on_student
from rostersync.simulator.switches import Switches
from rostersync.store import runs
from rostersync.store.models import Source, student
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.plan import SyncPolicy

if TYPE_CHECKING:
    from datetime import datetime

    from conftest import ManualClock

    from rostersync.simulator.messages import Request

GUARD_OFF = SyncPolicy(guard=GuardPolicy(max_deletions=1000, max_deletion_percent=100))


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return World(migrated_url, clock, policy=GUARD_OFF)


def settle(world: World) -> None:
    """Sync for the first time, and let the overlap pass."""
    world.sync()
    world.pass_time(hours=1)


def proofs(world: World) -> list[str]:
    """Return the paths of single students that were asked for since the requests were looked at last."""
    return [path for path, _ in world.requests() if not path.endswith("/students")]


def test_the_first_run_is_full_and_brings_every_student_in_every_field(world: World) -> None:
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.SUCCEEDED)
    assert report.counts.inserted == len(world.upstream()) > 0
    assert world.replica() == world.upstream()


def test_a_run_without_changes_asks_twice_and_writes_no_student(world: World) -> None:
    settle(world)
    world.requests()
    before = world.snapshot()
    report = world.sync()
    assert len(world.requests()) == report.requests <= 3
    assert report.duration_s == pytest.approx(report.requests * 0.05)
    after = world.snapshot()
    for view in ("current_student", "deleted_student", "student_history"):
        assert after[view] == before[view]


def test_rows_that_are_read_again_within_the_overlap_are_not_written(world: World) -> None:
    settle(world)
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
    settle(world)
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
    settle(world)
    key = next(key for key, row in world.upstream().items() if row.homeroom_advisor_id)
    world.school.clear(key, "homeroom_advisor_id")
    world.pass_time(minutes=5)
    world.sync()
    assert world.replica()[key].homeroom_advisor_id is None


def test_a_deletion_makes_a_tombstone_that_keeps_what_was_known(world: World) -> None:
    settle(world)
    key, row = min(world.upstream().items())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.requests()
    report = world.sync()
    assert report.counts.deleted == 1
    first, control, again = proofs(world)
    assert first == again != control  # he is asked for on both sides of the living one
    [tombstone] = world.rows("SELECT id, email, deletion_source FROM deleted_student")
    assert (tombstone["id"], tombstone["email"], tombstone["deletion_source"]) == (key, row.email, "stream")


@pytest.mark.parametrize("style", ["stub", "full", "full_deleted_at"])
def test_each_style_of_the_deleted_feed_makes_the_same_tombstone(
    migrated_url: str, clock: ManualClock, style: str
) -> None:
    world = World(migrated_url, clock, switches=Switches(deleted_feed=style))  # type: ignore[arg-type]
    settle(world)
    key, row = min(world.upstream().items())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    [tombstone] = world.rows("SELECT id, email FROM deleted_student")
    assert (tombstone["id"], tombstone["email"]) == (key, row.email)


def test_a_tombstone_bears_the_moment_that_the_deleted_feed_tells(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, switches=Switches(deleted_feed="full_deleted_at"))
    settle(world)
    world.school.delete(min(world.upstream()))
    moment = floor_seconds(world.clock.now())  # the grain of its stamps
    world.pass_time(minutes=5)
    world.sync()
    with world.store.reading() as connection:
        assert connection.scalar(select(student.c.deleted_at).where(student.c.deleted_at.is_not(None))) == moment


def test_a_restore_lifts_the_tombstone(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    world.school.restore(key)
    world.pass_time(minutes=5)
    counts = world.sync().counts
    assert (counts.restored, counts.stale) == (1, 0)
    assert world.replica() == world.upstream()
    operations = world.rows(f"SELECT op FROM student_history WHERE id = {key} ORDER BY valid_from")
    assert [row["op"] for row in operations] == ["insert", "delete", "restore"]


def test_a_tombstone_is_not_lifted_by_a_list_alone(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    world.school.restore(key)
    world.pass_time(minutes=5)
    world.app.faults.add(not_found(), on_student(key), times=None)
    report = world.sync()
    assert (report.counts.restored, report.counts.ignored) == (0, 1)
    assert key not in world.replica()


def test_a_row_that_is_older_than_the_stored_one_is_asked_for_again(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    world.school.update(key, nickname="Changed")
    with world.store.writing() as connection:  # as if an app server whose clock is ahead had stamped it before
        later = world.clock.now() + timedelta(hours=1)
        connection.execute(update(student).where(student.c.id == key).values(updated_at=later))
    world.pass_time(minutes=5)
    world.requests()
    report = world.sync()
    assert (report.counts.stale, report.counts.updated) == (1, 1)
    assert f"/v2p1/students/{key}" in [path for path, _ in world.requests()]
    assert world.replica() == world.upstream()


def test_a_full_run_takes_an_older_row_as_it_is(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    with world.store.writing() as connection:
        later = world.clock.now() + timedelta(hours=1)
        connection.execute(update(student).where(student.c.id == key).values(updated_at=later, content_hash=b"other"))
    world.requests()
    report = world.full()
    assert (report.counts.stale, report.counts.updated) == (0, 1)
    assert f"/v2p1/students/{key}" not in [path for path, _ in world.requests()]
    assert world.replica() == world.upstream()


def test_a_removal_that_leaves_no_trace_is_found_by_a_full_run(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    world.school.purge(key)
    world.pass_time(minutes=5)
    world.sync()
    assert key in world.replica()
    world.full()
    assert world.replica() == world.upstream()
    [tombstone] = world.rows("SELECT deletion_source FROM deleted_student")
    assert tombstone["deletion_source"] == "sweep"


def test_a_dry_run_counts_what_the_run_then_does_and_leaves_no_trace(world: World) -> None:
    settle(world)
    churn(world.school, random.Random(3), 60)
    world.pass_time(minutes=5)
    before = world.snapshot()
    dry = world.dry_run()
    assert world.snapshot() == before
    report = world.sync()
    assert (dry.state, dry.run_id) == (RunState.DRY_RUN, None)
    assert dry.counts == report.counts
    assert report.counts.fetched > 0


def test_a_dry_run_of_a_first_run_creates_no_database(tmp_path: object, sqlite_url: str, clock: ManualClock) -> None:
    world = World(sqlite_url, clock)
    assert world.store.path is not None
    world.store.path.unlink()
    dry = world.dry_run()
    assert dry.counts.inserted == len(world.upstream())
    assert [path.name for path in world.store.path.parent.iterdir() if path.suffix == ".db"] == []


def test_a_dry_run_on_an_empty_postgresql_database_leaves_it_empty(postgres_url: str, clock: ManualClock) -> None:
    world = World(postgres_url, clock)
    with world.store.engine.connect() as connection, connection.begin():
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    assert world.dry_run().counts.inserted == len(world.upstream())
    assert world.rows("SELECT * FROM pg_tables WHERE schemaname = 'public'") == []


def test_a_feed_that_never_rests_ends_incomplete_and_its_watermark_waits(world: World) -> None:
    settle(world)
    for key in world.upstream():
        world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    known = "SELECT modified_watermark, last_clean_modified_at FROM source"
    before = world.rows(known)
    world.app.on_request = lambda _: (world.pass_time(seconds=2), world.school.create())[0]
    report = world.sync()
    assert (report.state, report.exit_status) == (RunState.INCOMPLETE, 1)
    assert report.counts.updated == 12
    assert report.error == "the modified feed kept changing while it was read"
    assert world.rows(known) == before
    world.app.on_request = None
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


@pytest.mark.parametrize("kind", RunKind)
def test_a_morning_on_which_everybody_logs_in_ends_succeeded(
    migrated_url: str, clock: ManualClock, kind: RunKind
) -> None:
    """Six pages of changes, and a login with a new stamp between any two requests; rows stay in their places."""
    world = World(migrated_url, clock, size=60, per_page=10, policy=GUARD_OFF, switches=Switches(login_bumps=True))
    settle(world)
    students = sorted(world.upstream())
    for key in students:
        world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    logins = itertools.cycle(students)

    def somebody_logs_in(_request: Request) -> None:
        world.pass_time(seconds=1)
        world.school.login(next(logins))

    world.app.on_request = somebody_logs_in
    report = world.sync(kind)
    assert (report.state, report.counts.updated, report.requests) == (RunState.SUCCEEDED, 60, 13)
    assert {row.nickname for row in world.replica().values()} == {"Changed"}


def test_where_logins_move_rows_about_everything_that_was_read_is_applied(
    migrated_url: str, clock: ManualClock
) -> None:
    switches = Switches(login_bumps=True, order="updated_at")
    world = World(migrated_url, clock, size=60, per_page=10, policy=GUARD_OFF, switches=switches)
    settle(world)
    students = sorted(world.upstream())
    for key in students:
        world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    logins = itertools.cycle(students)
    world.app.on_request = lambda _: (world.pass_time(seconds=1), world.school.login(next(logins)))[0]
    report = world.sync()
    assert (report.state, report.counts.updated) == (RunState.INCOMPLETE, 60)
    assert report.watermarks.modified == world.reports[0].watermarks.modified


def test_a_deleted_feed_that_never_rests_ends_incomplete_and_its_watermark_waits(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=40, policy=GUARD_OFF)
    settle(world)
    delete(world, 6)
    world.app.on_request = lambda request: (
        world.school.delete(min(world.upstream())) if on_deleted_feed(request) else world.pass_time(seconds=1)
    )
    report = world.sync()
    assert (report.state, report.error) == (
        RunState.INCOMPLETE,
        "the deleted feed kept changing while it was read",
    )
    assert report.watermarks.deleted == world.reports[0].watermarks.deleted
    assert report.watermarks.modified != world.reports[0].watermarks.modified
    world.app.on_request = None
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_a_roster_that_never_rests_infers_nothing_from_absence(world: World) -> None:
    settle(world)
    gone = min(world.upstream())
    world.school.purge(gone)
    world.app.on_request = lambda _: (world.pass_time(seconds=2), world.school.create())[0]
    before = world.rows("SELECT modified_watermark, deleted_watermark FROM source")
    report = world.full()
    assert (report.state, report.counts.deleted) == (RunState.INCOMPLETE, 0)
    assert report.error == "the roster kept changing while it was read"
    assert gone in world.replica()
    assert world.rows("SELECT modified_watermark, deleted_watermark FROM source") == before


def put_watermarks(world: World, moment: datetime) -> None:
    with world.store.writing() as connection:
        connection.execute(update(Source).values(modified_watermark=moment, deleted_watermark=moment))


def test_a_watermark_in_the_servers_future_makes_the_run_full_and_is_replaced(world: World) -> None:
    settle(world)
    put_watermarks(world, world.clock.now() + timedelta(hours=1))
    began = world.clock.now()
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.SUCCEEDED)
    for mark in (report.watermarks.modified, report.watermarks.deleted):
        assert mark is not None
        assert mark <= began


def test_a_watermark_that_is_ahead_by_less_than_the_overlap_does_not_go_back(world: World) -> None:
    settle(world)
    ahead = world.clock.now() + timedelta(minutes=9)
    put_watermarks(world, ahead)
    for report in (world.sync(), world.full()):
        assert report.state is RunState.SUCCEEDED
        assert report.watermarks == Watermarks(ahead, ahead)
    assert [run.kind for run in world.reports[-2:]] == [RunKind.INCREMENTAL, RunKind.FULL]


# A deleted feed that lists the living ----------------------------------------------------------------------------


@pytest.mark.parametrize("per_page", [12, 100], ids=["several pages", "one page"])
def test_a_deleted_feed_that_ignores_its_filter_dates_no_watermark_and_is_told(
    migrated_url: str, clock: ManualClock, per_page: int
) -> None:
    world = World(migrated_url, clock, size=30, per_page=per_page, switches=Switches(deleted_feed="ignored"))
    first = world.sync()
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.INCREMENTAL, RunState.SUCCEEDED)
    assert report.watermarks.deleted == first.watermarks.deleted
    assert world.full().state is RunState.SUCCEEDED
    assert world.rows("SELECT deleted_feed_ignored FROM source")[0]["deleted_feed_ignored"]


def test_a_roster_over_several_pages_finds_out_that_the_deleted_feed_ignores_its_filter(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=30, per_page=12, switches=Switches(deleted_feed="ignored"))
    assert world.full().state is RunState.SUCCEEDED
    assert world.rows("SELECT deleted_feed_ignored FROM source")[0]["deleted_feed_ignored"]


# The guard and its holds -----------------------------------------------------------------------------------------


@pytest.fixture
def guarded(migrated_url: str, clock: ManualClock) -> World:
    world = World(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    settle(world)
    return world


def delete(world: World, count: int) -> list[int]:
    gone = sorted(world.upstream())[:count]
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    return gone


def test_too_many_removals_are_held_and_the_living_are_applied(guarded: World) -> None:
    gone = delete(guarded, 6)
    guarded.requests()
    new = guarded.school.create()
    before = guarded.rows("SELECT deleted_watermark FROM source")
    report = guarded.sync()
    assert (report.state, report.exit_status) == (RunState.HELD, 3)
    assert (report.counts.removals_held, report.counts.deleted) == (6, 0)
    assert "6 of 40 students" in (report.error or "")
    assert proofs(guarded) == []  # they are made on approval
    assert new in guarded.replica()
    assert set(gone) <= set(guarded.replica())
    assert guarded.rows("SELECT deleted_watermark FROM source") == before


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_an_approval_carries_out_what_is_proved_again_and_names_the_rest(
    guarded: World, ids_filter: Literal["honoured", "ignored"]
) -> None:
    guarded.school.switches = Switches(ids_filter=ids_filter)
    gone = delete(guarded, 6)
    held = guarded.sync()
    guarded.school.restore(gone[0])
    guarded.pass_time(minutes=5)
    report = guarded.sync(approves=held.run_id)
    assert report.state is RunState.SUCCEEDED
    assert report.counts.deleted == 5
    [notice] = report.notices
    assert str(gone[0]) in notice
    assert guarded.replica() == guarded.upstream()
    assert guarded.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] is None


def test_removals_outside_the_approved_plan_face_the_guard_anew(guarded: World) -> None:
    delete(guarded, 6)
    held = guarded.sync()
    late = delete(guarded, 6)
    report = guarded.sync(approves=held.run_id)
    assert report.state is RunState.HELD
    assert (report.counts.deleted, report.counts.removals_held, report.notices) == (6, 6, ())
    assert guarded.rows(f"SELECT id FROM held_removal WHERE run_id = {held.run_id}") == []
    planned = guarded.rows(f"SELECT id FROM held_removal WHERE run_id = {report.run_id}")
    assert {row["id"] for row in planned} == set(late)


def test_a_removal_outside_the_approved_plan_that_the_guard_lets_pass_is_carried_out_too(guarded: World) -> None:
    delete(guarded, 6)
    held = guarded.sync()
    delete(guarded, 1)
    report = guarded.sync(approves=held.run_id)
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 7)


def test_approved_removals_do_not_count_for_the_next_day(guarded: World) -> None:
    delete(guarded, 6)
    guarded.sync(approves=guarded.sync().run_id)
    delete(guarded, 2)
    assert guarded.sync().state is RunState.SUCCEEDED


def test_the_percentage_is_of_the_living(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=80, per_page=100)
    settle(world)
    delete(world, 4)
    assert world.sync().state is RunState.SUCCEEDED


def test_an_incomplete_run_ends_no_hold(guarded: World) -> None:
    gone = delete(guarded, 6)
    held = guarded.sync()
    for key in gone[:3]:
        guarded.school.restore(key)
    guarded.pass_time(minutes=5)
    guarded.app.faults.add(http_status(502), on_student(gone[5]), times=None)
    assert guarded.sync().state is RunState.INCOMPLETE
    assert guarded.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] == held.run_id


def test_the_last_students_go_when_that_is_approved_for_nobody_is_left_as_a_control(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=3)
    settle(world)
    delete(world, 3)
    held = world.sync()
    assert held.state is RunState.HELD
    assert world.sync(approves=held.run_id).state is RunState.SUCCEEDED
    assert world.replica() == {}


def test_a_hold_ends_when_a_later_clean_run_passes_the_guard(guarded: World) -> None:
    gone = delete(guarded, 6)
    guarded.sync()
    for key in gone[:3]:
        guarded.school.restore(key)
    guarded.pass_time(minutes=5)
    report = guarded.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 3)
    assert guarded.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] is None
    assert guarded.rows("SELECT * FROM held_removal") == []


def test_the_removals_of_the_last_day_count(guarded: World) -> None:
    delete(guarded, 2)
    assert guarded.sync().state is RunState.SUCCEEDED
    delete(guarded, 2)
    assert guarded.sync().state is RunState.HELD
    guarded.pass_time(hours=25)
    assert guarded.sync().state is RunState.SUCCEEDED


def test_a_dry_run_of_a_held_run_has_its_exit_status(guarded: World) -> None:
    delete(guarded, 6)
    dry = guarded.dry_run()
    assert (dry.state, dry.exit_status, dry.counts.removals_held) == (RunState.DRY_RUN, 3, 6)


def test_removals_are_held_when_no_living_student_can_be_fetched(guarded: World) -> None:
    delete(guarded, 1)
    guarded.app.faults.add(not_found(), on_student(), times=None)
    guarded.requests()
    report = guarded.sync()
    assert report.state is RunState.HELD
    assert report.counts.removals_held == 1
    assert len(set(proofs(guarded))) == 1 + 3
    assert guarded.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] == report.run_id
    guarded.app.faults.clear()
    guarded.sync()
    assert guarded.replica() == guarded.upstream()


def test_a_proof_that_cannot_be_had_leaves_its_student_alone_and_the_rest_goes_on(guarded: World) -> None:
    gone = delete(guarded, 2)
    guarded.pass_time(hours=1)
    guarded.app.faults.add(http_status(502), on_student(gone[0]), times=None)
    before = guarded.reports[-1].watermarks
    report = guarded.sync()
    assert report.state is RunState.INCOMPLETE
    assert report.counts.deleted == 1
    assert report.watermarks.deleted == before.deleted
    assert report.watermarks.modified != before.modified
    assert gone[0] in guarded.replica()
    guarded.app.faults.clear()
    guarded.pass_time(hours=1)  # no overlap shows the deletion again: the watermark must have waited
    assert guarded.sync().state is RunState.SUCCEEDED
    assert guarded.replica() == guarded.upstream()


def test_a_restore_whose_proof_cannot_be_had_keeps_the_watermark_of_the_modified_feed(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=30)
    before = world.sync().watermarks
    world.school.restore(key)
    world.pass_time(minutes=30)
    world.app.faults.add(http_status(502), on_student(key), times=None)
    report = world.sync()
    assert report.state is RunState.INCOMPLETE
    assert report.watermarks.modified == before.modified
    assert report.watermarks.deleted != before.deleted


def test_a_full_run_with_a_proof_that_cannot_be_had_moves_no_watermark(world: World) -> None:
    settle(world)
    known = "SELECT last_clean_full_at, history_starts_at FROM sync_health"
    [before] = world.rows(known)
    assert None not in (before["last_clean_full_at"], before["history_starts_at"])
    [gone] = delete(world, 1)
    world.app.faults.add(http_status(502), on_student(gone), times=None)
    for run in (world.full, world.sync):
        report = run()
        assert report.state is RunState.INCOMPLETE
        assert world.rows(known) == [before]
        if report.kind is RunKind.FULL:
            assert report.watermarks == world.reports[0].watermarks
    world.app.faults.clear()
    world.full()
    [after] = world.rows(known)
    assert after["last_clean_full_at"] > before["last_clean_full_at"]
    assert after["history_starts_at"] == before["history_starts_at"]
    world.sync()
    assert world.rows(known) == [after]


def test_without_a_date_no_watermark_moves_every_run_is_full_and_says_why(world: World) -> None:
    settle(world)
    before = world.reports[-1].watermarks
    world.dateless = 1.0
    for _ in range(2):
        world.pass_time(hours=1)
        report = world.sync()
        assert (report.kind, report.state, report.watermarks) == (RunKind.FULL, RunState.SUCCEEDED, before)
        assert "the server sends no Date" in report.notices[0]
    world.dateless = 0.0
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.kind, report.notices) == (RunKind.INCREMENTAL, ())
    assert report.watermarks != before


def test_a_date_on_later_responses_only_moves_no_watermark(world: World) -> None:
    settle(world)
    before = world.reports[-1].watermarks
    world.dateless = 1.0
    world.app.on_request = lambda _: setattr(world, "dateless", 0.0 if world.app.log else 1.0)
    world.app.log.clear()
    report = world.sync()
    assert (report.kind, report.watermarks) == (RunKind.FULL, before)


# Bad records -----------------------------------------------------------------------------------------------------


def test_a_bad_record_goes_to_quarantine_and_leaves_it_when_it_decodes(world: World) -> None:
    settle(world)
    key = min(world.upstream())
    good = world.school.truth()[key]
    world.school.inject(key, {**good, "year_group_id": {"nested": 1}})
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.quarantined) == (RunState.SUCCEEDED, 1)
    [entry] = world.rows("SELECT id, reason FROM quarantine")
    assert entry["id"] == key
    assert "year_group_id" in entry["reason"]
    world.school.inject(key, {**good, "nickname": "Mended"})
    world.pass_time(hours=1)
    world.sync()
    assert world.rows("SELECT * FROM quarantine") == []
    assert world.replica()[key].nickname == "Mended"


def test_a_record_without_an_id_is_counted_and_stops_the_sweep(world: World) -> None:
    world.school.inject(None, {"first_name": "Nameless"})
    report = world.sync()
    assert (report.state, report.counts.quarantined) == (RunState.SUCCEEDED, 1)
    key = min(world.upstream())
    world.school.purge(key)
    world.full()
    assert key in world.replica()


def test_a_record_without_an_id_leaves_quarantine_when_a_full_run_no_longer_shows_it(world: World) -> None:
    nameless = world.school.inject(None, {"first_name": "Nameless"})
    world.sync()
    assert len(world.rows("SELECT * FROM quarantine")) == 1
    world.school.purge(nameless)
    world.full()
    assert world.rows("SELECT * FROM quarantine") == []


def test_many_bad_records_are_a_changed_api(world: World) -> None:
    settle(world)
    before = world.snapshot()
    for number in range(25):
        world.school.inject(900_000 + number, {"id": 900_000 + number, "email": ["not", "text"]})
    report = world.full()
    assert report.state is RunState.FAILED
    assert report.counts.fetched == 0
    assert "changed" in (report.error or "")
    assert world.snapshot()["current_student"] == before["current_student"]


def empty_the_school(world: World) -> None:
    for key in world.upstream():
        world.school.purge(key)


@pytest.mark.parametrize("size", [1, 12])
def test_an_empty_list_over_a_filled_replica_removes_nobody(migrated_url: str, clock: ManualClock, size: int) -> None:
    world = World(migrated_url, clock, size=size)
    settle(world)
    empty_the_school(world)
    report = world.full()
    assert report.state is RunState.FAILED
    assert f"holds {size}" in (report.error or "")
    assert "permissions" in (report.hint or "")
    assert len(world.replica()) == size


def test_an_empty_school_dates_no_watermark_and_is_read_in_full_until_it_has_a_student(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=0)
    report = world.sync()
    assert (report.state, report.watermarks) == (RunState.SUCCEEDED, Watermarks())
    assert "no student at all" in report.notices[0]
    world.school.create()
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.kind, report.counts.inserted, report.notices) == (RunKind.FULL, 1, ())
    assert None not in (report.watermarks.modified, report.watermarks.deleted)


def test_a_school_that_empties_while_it_is_first_read_is_an_empty_school(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)

    def happen(request: Request) -> None:
        if request.first("page") == "3":
            empty_the_school(world)

    world.app.on_request = happen
    report = world.sync()
    assert (report.state, report.watermarks, len(report.notices)) == (RunState.SUCCEEDED, Watermarks(), 1)


# One transaction -------------------------------------------------------------------------------------------------


def test_a_kill_between_any_two_statements_of_a_run_leaves_the_old_state(world: World) -> None:
    settle(world)
    churn(world.school, random.Random(4), 12)
    world.pass_time(minutes=5)
    before = world.snapshot()
    step = 1
    while crashes(world, step):
        after = world.snapshot()
        if after != before:  # the transaction is through: all of it is there, and what follows is tidying up
            assert after["watermarks"] != before["watermarks"]
            assert world.replica() == world.upstream()
            break
        step += 1
    assert step > 30
    world.sync()
    assert world.replica() == world.upstream()


def crashes(world: World, step: int) -> bool:
    """Have a run done by a process that dies at this step; tell whether the run got so far."""
    fuse = CrashInjector(world.store.engine, step)
    try:
        world.sync()
    except Crash:
        return True
    finally:
        fuse.remove()
    return False


def test_two_processes_cannot_write_one_source(world: World) -> None:
    settle(world)
    with world.store.lease("main", "somebody else"), pytest.raises(LockHeld, match="somebody else"):
        world.sync()
    assert world.rows("SELECT state FROM run_request ORDER BY request_id DESC")[0]["state"] == "withdrawn"
    assert world.sync().state is RunState.SUCCEEDED


def test_a_failed_run_is_recorded_with_its_reason_and_changes_nothing(migrated_url: str, clock: ManualClock) -> None:
    faults = Faults()
    world = World(migrated_url, clock, faults=faults)
    settle(world)
    before = world.snapshot()
    faults.add(http_status(502), times=None)
    report = world.sync()
    assert (report.state, report.exit_status, report.counts.fetched) == (RunState.FAILED, 1, 0)
    after = world.snapshot()
    assert len(after["sync_run"]) == len(before["sync_run"]) + 1
    assert replace_runs(after) == replace_runs(before)


def replace_runs(snapshot: dict[str, list[tuple[object, ...]]]) -> dict[str, list[tuple[object, ...]]]:
    return {name: rows for name, rows in snapshot.items() if name != "sync_run"}


@pytest.mark.parametrize("arrives", [True, False], ids=["committed", "lost"])
def test_the_unknown_outcome_of_a_commit_is_settled_by_the_run_record(
    migrated_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """The connection dies at COMMIT, before or after the server has done it; the run knows which."""
    world = World(migrated_url, clock)
    dialect = world.store.engine.dialect
    commit, error = dialect.do_commit, dialect.loaded_dbapi.OperationalError
    record = runs._record_run
    recorded: list[int] = []

    def note(*arguments: Any) -> int:
        recorded.append(record(*arguments))
        return recorded[-1]

    def die(connection: Any) -> None:
        if recorded != [1]:
            commit(connection)
            return
        recorded.append(0)  # once is enough
        (commit if arrives else dialect.do_rollback)(connection)
        raise error("the connection is lost")

    monkeypatch.setattr(runs, "_record_run", note)
    monkeypatch.setattr(dialect, "do_commit", die)
    if arrives:
        assert world.sync().state is RunState.SUCCEEDED
    else:
        with pytest.raises(DatabaseUnreachable):
            world.sync()
    monkeypatch.undo()
    assert len(world.rows("SELECT run_id FROM sync_run")) == int(arrives)
    assert world.replica() == (world.upstream() if arrives else {})


def test_a_student_stays_in_quarantine_as_long_as_his_removal_is_held(world: World) -> None:
    world.sync()
    key = min(world.upstream())
    world.school.inject(key, {"id": key, "email": ["not", "text"]})
    world.pass_time(minutes=1)
    world.sync()
    world.pass_time(hours=1)
    world.sync()  # the last one that lists him
    world.pass_time(hours=1)
    world.school.switches = Switches(ids_filter="ignored")
    world.app.faults.add(not_found(), on_student(), times=None)  # for everybody
    assert world.sync().state is RunState.HELD
    assert [row["id"] for row in world.rows("SELECT id FROM quarantine")] == [key]
