"""Lists and GET are two projections of a student: a key that one of them lacks is neither lost nor kept too long."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ManualClock
from harness import GUARD_OFF
from msgspec.structs import replace
from msgspec.structs import replace as with_values
from steps import asked_by_id, served, settled

from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.switches import Switches
from rostersync.store.status import health
from rostersync.sync.verify import verify

if TYPE_CHECKING:
    from harness import World

    from rostersync.report import RunReport

LISTS_OMIT = ("parent_ids", "homeroom_advisor_id")
GET_OMITS = ("program", "program_code", "house")
SPLIT = Switches(lists_omit=LISTS_OMIT, get_omits=GET_OMITS)


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, switches=SPLIT)


def refresh(world: World, *ids: int) -> RunReport:
    report = world.executor().refresh(world.source, ids, timedelta(seconds=5), world.scope)
    assert report is not None
    return report


def versions(world: World, key: int) -> list[Any]:
    return world.rows(f"SELECT op, changed_fields FROM student_history WHERE id = {key} ORDER BY valid_from")


def waiting(world: World) -> int:
    return len(world.rows("SELECT id FROM student_detail WHERE waiting_since IS NOT NULL"))


# What each projection lacks --------------------------------------------------------------------------------------


def test_a_student_is_stored_with_the_keys_of_both_projections(world: World) -> None:
    assert world.replica() == world.upstream()
    assert any(student.parent_ids for student in world.replica().values())


def test_a_run_without_changes_asks_nobody_and_writes_nothing(world: World) -> None:
    report = world.sync()
    assert (report.requests, report.counts.updated) == (2, 0)
    world.requests()
    assert (world.full().counts.updated, asked_by_id(world)) == (0, [])


def test_a_school_whose_lists_serve_everything_pays_one_request(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock)
    world.school.update(min(world.upstream()), nickname="Changed")
    world.pass_time(minutes=5)
    world.sync()
    assert (world.reports[0].requests, world.reports[1].requests) == (3, 2)
    assert world.rows("SELECT id FROM student_detail") == []


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_a_refresh_loses_nothing_that_get_lacks_and_history_does_not_flip(
    migrated_url: str, clock: ManualClock, ids_filter: Any
) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter=ids_filter))
    key = min(world.upstream())
    for name in ("One", "Two"):
        world.school.update(key, nickname=name)
        world.pass_time(minutes=5)
        refresh(world, key)
        assert world.replica() == world.upstream()
        world.pass_time(hours=1)
        world.sync()
    changes = [str(row["changed_fields"]).replace("'", '"') for row in versions(world, key)[1:]]
    assert changes == ['["nickname"]'] * 2


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_a_refresh_brings_a_change_that_only_get_shows(migrated_url: str, clock: ManualClock, ids_filter: Any) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter=ids_filter))
    key = min(world.upstream())
    world.school.update(key, parent_ids=[31_000_000])
    world.pass_time(minutes=5)
    refresh(world, key)
    assert world.replica()[key].parent_ids == (31_000_000,)
    assert world.replica() == world.upstream()


def test_a_change_of_a_key_that_only_get_serves_comes_with_the_next_run(world: World) -> None:
    key = min(world.upstream())
    world.school.update(key, parent_ids=[31_000_000], homeroom_advisor_id=None)
    world.pass_time(minutes=5)
    world.requests()
    report = world.sync()
    assert (report.counts.updated, asked_by_id(world)) == (1, [f"/v2p1/students/{key}"])
    assert world.replica() == world.upstream()


def test_two_changes_with_one_stamp_are_not_taken_for_one(world: World) -> None:
    key = min(world.upstream())
    world.school.update(key, parent_ids=[31_000_000])
    world.sync()
    world.school.change_unnoticed(key, parent_ids=[32_000_000])  # the same second, so the same updated_at
    world.pass_time(hours=1)
    world.sync()
    assert world.replica() == world.upstream()


def test_a_change_that_bumps_no_stamp_comes_within_a_week(world: World) -> None:
    key = min(world.upstream())
    world.school.change_unnoticed(key, parent_ids=[31_000_000])
    world.pass_time(days=6)
    world.full()
    assert world.replica()[key].parent_ids != (31_000_000,)
    world.pass_time(days=2)
    world.sync()
    assert world.replica() == world.upstream()


def test_a_new_student_and_a_restored_one_have_their_details(world: World) -> None:
    gone = min(world.upstream())
    world.school.delete(gone)
    new = world.school.create(parent_ids=[31_000_000])
    world.pass_time(minutes=5)
    world.sync()
    assert world.replica()[new].parent_ids == (31_000_000,)
    assert world.rows(f"SELECT id FROM student_detail WHERE id = {gone}") == []
    world.school.restore(gone)
    world.pass_time(minutes=5)
    world.sync()
    assert world.replica() == world.upstream()


# The budget ------------------------------------------------------------------------------------------------------


def test_no_more_students_than_the_budget_are_asked_for_and_the_others_wait_for_the_next_run(
    migrated_url: str, clock: ManualClock
) -> None:
    policy = with_values(GUARD_OFF, details_per_run=5)
    world = settled(migrated_url, clock, switches=SPLIT, policy=policy)
    assert len(asked_by_id(world)) == 5
    assert world.replica() != world.upstream()
    for _ in range(2):
        world.pass_time(hours=1)
        world.sync()
    assert world.replica() == world.upstream()
    assert waiting(world) == 0


def test_a_student_for_whom_get_never_answers_lets_the_others_have_their_turn(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=SPLIT, policy=with_values(GUARD_OFF, details_per_run=2), size=6)
    first, second, *others = sorted(world.upstream())
    for key in (first, second):
        world.app.faults.add(make.http_status(403), make.on_student(key), times=None)
        world.school.update(key, parent_ids=[31_000_000])
    for key in others:
        world.school.update(key, parent_ids=[32_000_000])
    for _ in range(5):
        world.pass_time(hours=1)
        assert world.sync().state is RunState.SUCCEEDED
    assert all(world.replica()[key].parent_ids == (32_000_000,) for key in others)
    world.app.faults.clear()
    for _ in range(3):
        world.pass_time(hours=1)
        world.sync()
    assert world.replica() == world.upstream()


def test_a_404_for_a_detail_removes_nobody(world: World) -> None:
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    for key in world.upstream():
        world.school.update(key, parent_ids=[31_000_000])
    world.pass_time(minutes=5)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica_ids() == world.living_ids()
    world.app.faults.clear()
    world.pass_time(hours=1)
    world.sync()
    assert world.replica() == world.upstream()


# Four cases ------------------------------------------------------------------------------------------------------


def test_a_withdrawal_that_get_brings_before_any_list_shows_one_ends_with_the_student_enrolled_again(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=Switches(ids_filter="ignored"), size=0)
    keys = [world.school.create() for _ in range(4)]
    world.pass_time(hours=1)
    world.full()
    key = keys[0]
    world.school.archive(key, withdrawn_on="2026-03-02")
    world.pass_time(minutes=5)
    refresh(world, key)
    assert world.replica() == world.upstream()
    world.school.unarchive(key)
    world.pass_time(minutes=5)
    world.sync()
    assert world.replica()[key].status == "enrolled"
    assert world.replica() == world.upstream()
    world.pass_time(hours=1)
    world.full()
    assert world.replica() == world.upstream()


@pytest.mark.parametrize("kind", [RunKind.FULL, RunKind.INCREMENTAL])
def test_one_list_row_that_has_the_parents_once_clears_nobodys(world: World, kind: RunKind) -> None:
    stray = sorted(world.upstream())[3]
    parents = world.school.truth()[stray]["parent_ids"]

    def with_parents(document: dict[str, Any]) -> dict[str, Any]:
        rows = [{**row, "parent_ids": parents} if row["id"] == stray else row for row in document["students"]]
        return {**document, "students": rows}

    world.school.touch(stray)
    world.pass_time(minutes=5)
    world.app.faults.add(served(with_parents), make.on_list, times=None)
    world.sync(kind)
    assert world.replica() == world.upstream()
    world.app.faults.clear()
    for _ in range(2):
        world.pass_time(hours=1)
        world.full()
        assert world.replica() == world.upstream()


def test_the_tables_are_the_same_whatever_was_read_first(migrated_url: str) -> None:
    """A list row before GET, or GET before the list row."""
    found = []
    for turn, order in enumerate(("list first", "get first")):
        world = settled(
            migrated_url, ManualClock(), switches=replace(SPLIT, ids_filter="ignored"), source=f"school{turn}"
        )
        key = min(world.upstream())
        world.school.update(key, nickname="Changed", parent_ids=[31_000_000], program="Changed")
        world.pass_time(minutes=30)
        if order == "get first":
            refresh(world, key)
        world.sync()
        if order == "list first":
            refresh(world, key)
        world.pass_time(hours=1)
        world.sync()
        assert world.replica() == world.upstream()
        (row,) = world.rows(
            f"SELECT d.record, s.content_hash FROM student_detail d JOIN student s"
            f" ON s.source = d.source AND s.id = d.id WHERE d.source = 'school{turn}' AND d.id = {key}"
        )
        found.append((world.replica()[key].nickname, bytes(row["record"]), bytes(row["content_hash"])))
    first, second = found
    assert first == second


# When lists serve another key ------------------------------------------------------------------------------------


def test_a_key_that_lists_begin_to_serve_is_the_lists_from_the_next_full_run_on(world: World) -> None:
    world.school.switches = replace(SPLIT, lists_omit=("homeroom_advisor_id",))
    world.pass_time(hours=1)
    world.full()
    assert world.replica() == world.upstream()
    key = next(key for key, student in world.upstream().items() if student.parent_ids)
    world.school.update(key, parent_ids=None)
    world.app.faults.add(make.http_status(403), make.on_student(), times=None)
    world.pass_time(minutes=5)
    world.sync()
    assert world.replica()[key].parent_ids is None


def test_a_verification_compares_what_lists_serve(world: World) -> None:
    key = min(world.upstream())
    verdict = verify(
        world.url, world.source, world.scope, policy=world.policy, connect=world.connect, progress=lambda *_: None
    )
    assert (verdict.found, verdict.pending, verdict.error) == (0, 0, None)
    world.school.change_unnoticed(key, parent_ids=[31_000_000])
    world.school.change_unnoticed(key, nickname="Other")
    verdict = verify(
        world.url, world.source, world.scope, policy=world.policy, connect=world.connect, progress=lambda *_: None
    )
    assert [(d.id, d.fields) for d in verdict.differences] == [(key, ("nickname",))]


def test_status_tells_how_many_students_are_still_to_be_asked_for(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=SPLIT, policy=with_values(GUARD_OFF, details_per_run=5))
    for waiting_now in (7, 2, 0):
        with world.store.reading() as connection:
            (row,) = health(connection)
        assert row.details_waiting == waiting_now
        world.sync()
