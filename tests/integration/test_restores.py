"""A restored student comes back once GET shows them alive, and no restore is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import World, on_past_days
from reports import ask
from sqlalchemy import select
from steps import listing, settled

from rostersync.models import StudentHistory
from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_a_restore_lifts_the_tombstone(world: World) -> None:
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    world.school.restore(key)
    world.pass_time(minutes=5)
    counts = world.sync().counts
    assert (counts.restored, counts.stale) == (1, 0)
    assert world.replica() == world.upstream()
    versions = ask(world.url, select(StudentHistory).filter_by(id=key).order_by(StudentHistory.valid_from))
    assert [version.op for version in versions] == ["insert", "delete", "restore"]


def test_a_tombstone_is_not_lifted_by_a_list_alone(world: World) -> None:
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    world.school.restore(key)
    world.pass_time(minutes=5)
    world.app.faults.add(make.not_found(), make.on_student(key), times=None)
    report = world.sync()
    assert (report.counts.restored, report.counts.ignored) == (0, 1)
    assert key not in world.replica()


def test_a_404_that_does_not_come_twice_keeps_no_restored_student_out(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(hours=1)
    assert world.sync().counts.deleted == 1
    world.school.restore(key)
    world.app.faults.add(make.not_found(), make.on_student(key), times=1)
    world.pass_time(hours=1)
    assert world.sync().counts.restored == 1


def test_a_restore_that_get_cannot_confirm_holds_back_the_watermark_of_the_modified_feed(world: World) -> None:
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=30)
    before = world.sync().watermarks
    world.school.restore(key)
    world.pass_time(minutes=30)
    world.app.faults.add(make.http_status(502), make.on_student(key), times=None)
    report = world.sync()
    assert report.state is RunState.INCOMPLETE
    assert report.watermarks.modified == before.modified
    assert report.watermarks.deleted != before.deleted


def test_a_restore_that_get_could_not_confirm_is_not_lost_where_the_deleted_feed_still_lists_the_student(
    world: World,
) -> None:
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=30)
    world.sync()
    world.school.restore(key)
    world.pass_time(minutes=30)
    world.app.faults.add(listing(key), on_past_days, times=None)
    world.app.faults.add(make.http_status(502), make.on_student(key), times=None)
    assert world.sync().state is RunState.INCOMPLETE
    world.app.faults.clear()
    world.pass_time(hours=1)
    world.sync()
    assert key in world.replica()


def test_a_restore_is_not_lost_by_an_approval_without_a_control(migrated_url: str, clock: ManualClock) -> None:
    """All the living are candidates, GET answers 404 for everybody, and the modified feed lists a restored student."""
    world = settled(migrated_url, clock, size=3, policy=SyncPolicy(guard=GuardPolicy(max_deletions=1)))
    a, b, c = sorted(world.upstream())
    world.school.delete(c)
    world.pass_time(minutes=1)
    assert world.sync().state is RunState.SUCCEEDED
    world.pass_time(hours=1)
    world.school.delete(a)
    world.school.delete(b)
    world.pass_time(hours=25)
    held = world.sync()
    assert held.state is RunState.HELD
    world.school.restore(c)
    world.pass_time(minutes=1)
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    world.sync(approves=held.run_id)
    world.app.faults.clear()
    world.pass_time(hours=2)
    world.sync()
    assert c in world.replica()
