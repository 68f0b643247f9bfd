"""A row that is older than the stored one does not replace it, unless GET or a full run brings the same."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update
from steps import asked_by_id, list_as_deleted, served, settled, with_rows

from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.store.schema.tables import student

if TYPE_CHECKING:
    from conftest import ManualClock
    from harness import World


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_a_row_that_is_older_than_the_stored_one_is_asked_for_again(world: World) -> None:
    key = min(world.upstream())
    world.school.update(key, nickname="Changed")
    with world.store.writing() as connection:  # as if an app server whose clock is ahead had stamped it before
        later = world.clock.now() + timedelta(hours=1)
        connection.execute(update(student).where(student.c.id == key).values(updated_at=later))
    world.pass_time(minutes=5)
    world.requests()
    report = world.sync()
    assert (report.counts.stale, report.counts.updated) == (1, 1)
    assert f"/v2p1/students/{key}" in asked_by_id(world)
    assert world.replica() == world.upstream()


def test_a_full_run_takes_an_older_row_as_it_is(world: World) -> None:
    key = min(world.upstream())
    with world.store.writing() as connection:
        later = world.clock.now() + timedelta(hours=1)
        connection.execute(update(student).where(student.c.id == key).values(updated_at=later, content_hash=b"other"))
    world.requests()
    report = world.full()
    assert (report.counts.stale, report.counts.updated) == (0, 1)
    assert asked_by_id(world) == []
    assert world.replica() == world.upstream()


def test_a_stale_answer_to_a_list_by_ids_is_asked_for_again(world: World) -> None:
    key = min(world.upstream())
    world.school.update(key, nickname="Newer")
    world.pass_time(hours=1)
    world.sync()
    world.pass_time(hours=1)

    def lagging(document: dict[str, Any]) -> dict[str, Any]:
        old = [{**row, "nickname": "Older", "updated_at": "2020-01-01T00:00:00.000Z"} for row in document["students"]]
        return {**document, "students": old}

    list_as_deleted(world, key)
    world.app.faults.add(served(lagging), make.on_ids, times=None)
    assert world.sync().counts.stale == 1
    assert world.replica()[key].nickname == "Newer"


def test_a_student_whom_only_a_stale_list_by_ids_shows_is_removed(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.update(key, nickname="Newer")
    world.pass_time(hours=1)
    world.sync()
    old = {**world.school.truth()[key], "updated_at": "2020-01-01T00:00:00.000Z"}
    world.school.delete(key)
    world.pass_time(minutes=20)
    stale = served(lambda d: {"students": [old], "meta": d["meta"] | {"total_count": 1, "total_pages": 1}})
    world.app.faults.add(stale, make.on_ids, times=None)
    report = world.sync()
    assert report.state is RunState.SUCCEEDED
    world.app.faults.clear()
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert key not in world.replica()


@pytest.mark.parametrize("asked", [1, 2])
def test_a_student_who_is_gone_is_removed_however_many_others_are_asked_for(world: World, asked: int) -> None:
    gone, living = sorted(world.upstream())[:2]
    old = {**world.school.truth()[gone], "updated_at": "2020-01-01T00:00:00.000Z"}
    world.school.delete(gone)
    if asked > 1:  # another student's row is older than the stored one as well, but GET returns that student
        world.school.update(living, nickname="Changed")
        with world.store.writing() as connection:
            later = world.clock.now() + timedelta(hours=1)
            connection.execute(update(student).where(student.c.id == living).values(updated_at=later))
    world.pass_time(minutes=5)
    world.app.faults.add(with_rows(old), make.on_modified_feed, times=None)
    nobody = served(lambda d: {"students": [], "meta": d["meta"] | {"total_count": 0, "total_pages": 0}})
    world.app.faults.add(nobody, make.on_deleted_feed, times=None)
    counts = world.sync().counts
    assert (counts.stale, counts.deleted) == (asked, 1)
    assert world.replica() == world.upstream()
