"""A roster of nobody removes nobody, and dates no watermark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import World
from steps import before_page, settled

from rostersync.report import RunKind, RunState, Watermarks

if TYPE_CHECKING:
    from conftest import ManualClock


def empty_the_school(world: World) -> None:
    for key in world.upstream():
        world.school.purge(key)


@pytest.mark.parametrize("size", [1, 12])
def test_an_empty_list_over_a_filled_replica_removes_nobody(migrated_url: str, clock: ManualClock, size: int) -> None:
    world = settled(migrated_url, clock, size=size, per_page=5)
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
    assert "the API lists no students" in report.notices[0]
    world.school.create()
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.kind, report.counts.inserted, report.notices) == (RunKind.FULL, 1, ())
    assert None not in (report.watermarks.modified, report.watermarks.deleted)


def test_a_school_that_empties_while_it_is_first_read_is_an_empty_school(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)
    before_page(world, 3, lambda: empty_the_school(world))
    report = world.sync()
    assert (report.state, report.watermarks, len(report.notices)) == (RunState.SUCCEEDED, Watermarks(), 1)
