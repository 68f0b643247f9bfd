"""One school per source name: another school's students never become this one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import TOKEN, World
from steps import asked_by_id, settled

from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.simulator.app import App
from rostersync.simulator.state import School
from rostersync.simulator.switches import Switches

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_a_new_token_of_the_same_school_is_accepted(world: World) -> None:
    world.token = "canary-token-renewed"
    assert world.sync().state is RunState.SUCCEEDED
    world.requests()
    world.sync()
    assert len(world.requests()) == 2  # nobody is asked for again


def test_a_known_student_in_a_list_by_ids_is_proof_enough_of_the_same_school(world: World) -> None:
    world.token = "canary-token-renewed"
    world.app.faults.add(make.http_status(502), make.on_student(), times=None)
    assert world.sync().state is RunState.SUCCEEDED


def test_a_known_student_by_get_is_proof_of_the_same_school_where_lists_by_ids_show_others(world: World) -> None:
    world.school.switches = Switches(ids_filter="ignored")
    world.token = "canary-token-renewed"
    assert world.sync().state is RunState.SUCCEEDED


def test_a_new_token_that_leads_to_another_school_fails_the_run_and_changes_nothing(
    world: World, clock: ManualClock
) -> None:
    before = world.replica()
    world.token = "canary-token-of-another-school"
    world.school = School(2, 0, clock)
    for number in range(12):
        world.school.create(id=70_000 + number)
    world.app = App(world.school, TOKEN)
    for run in (world.sync, world.full):
        report = run()
        assert report.state is RunState.FAILED
        assert "known students" in (report.error or "")
        assert "source forget" in (report.hint or "")
    assert world.replica() == before


def test_no_more_than_twenty_known_students_are_asked_for(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=30)
    world.sync()
    world.token = "canary-token-of-another-school"
    world.app = App(School(2, 0, clock), TOKEN)
    assert world.sync().state is RunState.FAILED
    assert len(set(asked_by_id(world))) == 20


def test_the_token_is_nowhere_in_the_database(world: World) -> None:
    rows = world.rows("SELECT * FROM source")
    assert rows[0]["fingerprint"] is not None
    assert TOKEN not in repr(rows)
    assert TOKEN.encode() not in bytes(rows[0]["fingerprint"])


def test_known_students_who_were_all_deleted_still_tell_their_school(migrated_url: str, clock: ManualClock) -> None:
    switches = Switches(deleted_get="record", deleted_feed="full_deleted_at")
    world = World(migrated_url, clock, size=3, switches=switches)
    world.sync()
    for key in world.upstream():
        world.school.delete(key)
    world.school.create()
    world.token = "canary-token-renewed"
    world.pass_time(hours=1)
    assert world.sync().state is not RunState.FAILED
