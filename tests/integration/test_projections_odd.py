"""Odd servers and bad days, for a replica that is made of two projections."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from harness import GUARD_OFF, World
from msgspec.structs import replace
from msgspec.structs import replace as with_values
from sqlalchemy import event
from steps import asked_by_id, keep_creating, served, settled

from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.simulator.switches import Switches
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.simulator.faults import Exchange, Fault
    from rostersync.simulator.messages import Response

PARENTS = Switches(lists_omit=("parent_ids",))
SPLIT = Switches(lists_omit=("parent_ids", "homeroom_advisor_id"), get_omits=("program", "program_code", "house"))


def refresh(world: World, *ids: int) -> Any:
    return world.executor().refresh(world.source, ids, timedelta(seconds=5), world.scope)


def got(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Return a fault by which GET answers with what `change` makes of the student."""

    def fault(exchange: Exchange) -> Response:
        true = exchange.proceed()
        document = msgspec.json.decode(true.body)
        return replace(true, body=msgspec.json.encode({"student": change(document["student"])}))

    return fault


def runs(world: World, count: int) -> None:
    for _ in range(count):
        world.pass_time(hours=1)
        world.sync()


# Learning what GET serves ----------------------------------------------------------------------------------------


def on_first_get(world: World, then: Any) -> None:
    """Call `then` with the id of the first student who is asked for singly, just before the answer."""

    def happen(request: Any) -> None:
        last = request.path.rsplit("/", 1)[1]
        if last.isdigit():
            world.app.on_request = None
            then(int(last))

    world.app.on_request = happen


def test_it_is_learned_that_get_serves_parents_though_the_first_student_asked_for_has_none(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, switches=PARENTS, per_page=100, policy=GUARD_OFF)
    on_first_get(world, lambda key: world.school.change_unnoticed(key, parent_ids=None))
    world.sync()
    runs(world, 3)
    world.pass_time(days=8)
    world.full()
    world.full()
    assert world.replica() == world.upstream()


def test_it_is_learned_what_get_serves_though_get_always_fails_for_one_student(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, switches=PARENTS, per_page=100, policy=GUARD_OFF)
    first = []

    def fail(key: int) -> None:
        first.append(key)
        world.app.faults.add(make.http_status(403), make.on_student(key), times=None)

    on_first_get(world, fail)
    world.sync()
    runs(world, 5)
    world.full()
    found, expected = world.replica(), world.upstream()
    assert {key for key in expected if found[key] != expected[key]} <= set(first)


# Wrong in the end ------------------------------------------------------------------------------------------------


def test_lists_without_stamps_let_those_wait_for_whom_the_budget_was_too_small(
    migrated_url: str, clock: ManualClock
) -> None:
    switches = replace(PARENTS, without_keys=("updated_at",))
    world = settled(migrated_url, clock, switches=switches, policy=with_values(GUARD_OFF, details_per_run=2), size=6)
    runs(world, 4)
    assert world.replica() == world.upstream()
    for key in world.upstream():
        world.school.update(key, nickname="Changed", parent_ids=[31_000_000])
    runs(world, 4)
    assert world.replica() == world.upstream()


def test_one_answer_of_get_with_a_key_that_only_lists_serve_clears_nobodys(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=SPLIT)
    stray, key = [key for key, student in world.upstream().items() if student.program][:2]
    program = world.school.truth()[stray]["program"]

    def with_program(student: dict[str, Any]) -> dict[str, Any]:
        return {**student, "program": program}

    world.school.touch(stray)
    world.pass_time(hours=1)
    world.app.faults.add(got(with_program), make.on_student(stray), times=1)
    world.sync()
    world.school.update(key, nickname="Changed")
    runs(world, 1)
    assert world.replica() == world.upstream()
    assert world.full().counts.updated == 0


def test_one_answer_of_get_with_a_key_that_only_lists_serve_does_not_let_a_refresh_clear_it(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"))
    stray, key = [key for key, student in world.upstream().items() if student.program][:2]
    world.app.faults.add(got(lambda row: {**row, "program": "Stray"}), make.on_student(stray), times=1)
    refresh(world, stray)
    world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    refresh(world, key)
    assert world.replica()[key] == world.upstream()[key]


def test_a_tombstone_that_get_alone_shows_alive_does_not_keep_its_old_parents(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored", restore_bumps=False))
    gone = next(key for key, student in world.upstream().items() if student.parent_ids)
    world.school.delete(gone)
    runs(world, 1)
    world.school.restore(gone)
    world.school.change_unnoticed(gone, parent_ids=None)
    world.pass_time(hours=1)
    refresh(world, gone)
    assert world.replica()[gone].parent_ids is None


# Writes without a change -----------------------------------------------------------------------------------------


def test_a_served_status_that_get_lacks_is_written_once(migrated_url: str, clock: ManualClock) -> None:
    switches = Switches(status_key=True, get_omits=("status",), ids_filter="ignored")
    world = settled(migrated_url, clock, switches=switches)
    key = min(world.upstream())
    world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)
    refresh(world, key)
    assert world.replica() == world.upstream()
    world.pass_time(hours=1)
    assert world.sync().counts.updated == 0
    assert world.full().counts.updated == 0


def test_a_get_that_changes_nothing_leaves_the_served_status(migrated_url: str, clock: ManualClock) -> None:
    switches = Switches(status_key=True, get_omits=("status",), ids_filter="ignored")
    world = settled(migrated_url, clock, switches=switches)
    refresh(world, *sorted(world.upstream())[:6])
    world.pass_time(hours=1)
    assert world.full().counts.updated == 0


def test_a_key_that_get_renders_otherwise_does_not_flip_with_each_reading(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=PARENTS)
    world.app.faults.add(got(lambda row: {**row, "class_grade": "Year 7"}), make.on_student(), times=None)
    for _ in range(3):  # nobody changes
        world.pass_time(days=8)
        world.sync()
        world.full()
    versions = len(world.rows("SELECT id FROM student_history"))
    assert versions == len(world.upstream())


# Cost ------------------------------------------------------------------------------------------------------------


def test_a_server_without_a_date_is_not_asked_for_every_student_in_each_run(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=replace(PARENTS, date_header=False))
    runs(world, 2)
    world.requests()
    world.sync()
    assert len(asked_by_id(world)) == 1  # whoever changed last


def test_a_get_that_knows_nobody_is_not_asked_for_everybody_in_each_run(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=PARENTS)
    for key in world.upstream():
        world.school.touch(key)
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    runs(world, 1)
    world.requests()
    runs(world, 1)
    assert len(asked_by_id(world)) <= 3


def test_a_get_that_is_forbidden_costs_nothing_in_a_quiet_run(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, per_page=100, policy=GUARD_OFF)
    world.app.faults.add(make.forbidden(), make.on_student(), times=None)
    world.sync()
    world.requests()
    assert world.sync().state is RunState.SUCCEEDED
    assert asked_by_id(world) == []


def test_what_get_serves_is_learned_though_its_stamps_lack_the_milliseconds(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, switches=replace(PARENTS, grain_ms=1), per_page=100, policy=GUARD_OFF)

    def rounded(student: dict[str, Any]) -> dict[str, Any]:
        return {**student, "updated_at": student["updated_at"][:19] + "Z"}

    world.app.faults.add(got(rounded), make.on_student(), times=None)
    for key in world.school.truth():
        world.school.touch(int(key))
        world.pass_time(seconds=0.5)
    world.sync()
    runs(world, 2)
    assert all(world.replica()[key].parent_ids == student.parent_ids for key, student in world.upstream().items())


def test_a_quiet_run_of_a_school_whose_lists_serve_everything_looks_for_no_details(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock)
    seen: list[str] = []
    event.listen(world.store.engine, "before_cursor_execute", lambda *found: seen.append(found[2]))
    world.sync()
    assert [statement for statement in seen if "JOIN" in statement and "student_detail" in statement] == []
    # Nor does it count the students, which takes longer than the rest of the run in a large school.
    assert [
        statement for statement in seen if re.search(r"count\(\*\).*\sFROM (\w+\.)?student\s", statement, re.DOTALL)
    ] == []


# Odd schools -----------------------------------------------------------------------------------------------------


def test_a_bad_list_row_beside_a_good_answer_of_get(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=SPLIT)
    bad = sorted(world.upstream())[2]

    def spoil(document: dict[str, Any]) -> dict[str, Any]:
        rows = [{**row, "year_group_id": {"a": 1}} if row["id"] == bad else row for row in document["students"]]
        return {**document, "students": rows}

    world.app.faults.add(served(spoil), make.on_list, times=None)
    world.school.update(bad, parent_ids=[31_000_000], nickname="Changed")
    runs(world, 3)
    world.pass_time(days=8)
    world.full()
    world.full()
    world.app.faults.clear()
    runs(world, 1)
    world.full()
    assert world.replica() == world.upstream()


def test_no_budget_at_all(migrated_url: str, clock: ManualClock) -> None:
    policy = with_values(GUARD_OFF, details_per_run=0)
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"), policy=policy)
    keys = sorted(world.upstream())[:6]
    for name in ("One", "Two"):
        for key in keys:
            world.school.update(key, nickname=name, parent_ids=[31_000_000])
        runs(world, 1)
        refresh(world, *keys)
        assert all(world.replica()[key] == world.upstream()[key] for key in keys)
        assert world.full().counts.updated == 0
        runs(world, 1)
        assert all(world.replica()[key] == world.upstream()[key] for key in keys)


def test_a_first_run_that_is_not_clean(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"), per_page=3, policy=GUARD_OFF)
    keep_creating(world)
    assert world.sync().state is RunState.INCOMPLETE
    world.app.on_request = None
    refresh(world, *list(world.upstream())[:4])
    runs(world, 3)
    assert world.replica() == world.upstream()
    assert world.full().counts.updated == 0


def test_keys_with_strange_names(migrated_url: str, clock: ManualClock) -> None:
    names = ("source", "run_id", "", "\ue000extra", "a" * 20_000, "deleted_atx", "ключ", "x y", "'", "id2", "$.a")
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"))

    def more(student: dict[str, Any]) -> dict[str, Any]:
        return student | {name: [1] for name in names}

    world.app.faults.add(got(more), make.on_student(), times=None)
    for key in world.upstream():
        world.school.update(key, nickname="Changed")
    runs(world, 1)
    first = world.replica()
    assert all(set(names) <= student.extra.keys() for student in first.values())
    refresh(world, *sorted(first)[:6])
    assert world.replica() == first
    assert world.full().counts.updated == 0
    assert world.replica() == first
    world.app.faults.clear()
    for key in world.upstream():
        world.school.update(key, nickname="Again")
    runs(world, 1)
    assert world.replica() == world.upstream()


@pytest.mark.parametrize("value", [[], None])
def test_empty_parents_and_none(migrated_url: str, clock: ManualClock, value: Any) -> None:
    world = settled(migrated_url, clock, switches=SPLIT)
    key = next(key for key, student in world.upstream().items() if student.parent_ids)
    for given in (value, [31_000_000], value):
        world.school.update(key, parent_ids=given)
        runs(world, 1)
        assert world.replica() == world.upstream()
        refresh(world, key)
        assert world.replica() == world.upstream()
        assert world.full().counts.updated == 0


@pytest.mark.parametrize("deleted_get", ["404", "record"])
def test_a_held_plan_that_is_approved_and_a_dry_run(migrated_url: str, clock: ManualClock, deleted_get: Any) -> None:
    policy = with_values(GUARD_OFF, guard=GuardPolicy(max_deletions=1), details_per_run=3)
    world = settled(migrated_url, clock, switches=replace(SPLIT, deleted_get=deleted_get), policy=policy)
    for key in sorted(world.upstream())[:4]:
        world.school.delete(key)
    world.pass_time(minutes=5)
    world.dry_run()
    held = world.sync()
    assert held.state is RunState.HELD
    runs(world, 5)
    held = world.sync()
    world.dry_run(approves=held.run_id)
    assert world.sync(approves=held.run_id).state is RunState.SUCCEEDED
    runs(world, 3)
    assert world.replica() == world.upstream()
    assert (
        verify(
            world.url, world.source, world.scope, policy=world.policy, connect=world.connect, progress=lambda *_: None
        ).found
        == 0
    )


def test_many_keys(migrated_url: str, clock: ManualClock) -> None:
    """More keys than are remembered."""
    world = World(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"), per_page=100, policy=GUARD_OFF)
    for turn, key in enumerate(sorted(world.upstream())):
        world.school.update(key, **{f"key_{turn}_{number}": number for number in range(60)})
    world.pass_time(hours=1)
    world.sync()
    runs(world, 3)
    assert world.replica() == world.upstream()
    refresh(world, *sorted(world.upstream())[:6])
    runs(world, 1)
    assert world.full().counts.updated == 0
    for key in sorted(world.upstream()):
        world.school.clear(key, *(f"key_{turn}_{number}" for turn in range(12) for number in range(60)))
    runs(world, 1)
    assert world.replica() == world.upstream()


def test_huge_extra(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"))
    key = min(world.upstream())
    world.school.update(key, bag="x" * 60_000)
    runs(world, 1)
    world.app.faults.add(got(lambda student: {**student, "other": "y" * 60_000}), make.on_student(key), times=None)
    refresh(world, key)
    runs(world, 2)
    assert world.full().state is RunState.SUCCEEDED


# Answers that lag -------------------------------------------------------------------------------------------------


def test_an_answer_of_get_that_lags_brings_nothing_back_that_lists_serve(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"))
    key = min(world.upstream())
    old = world.school.truth()[key]
    world.school.update(key, nickname="New")
    runs(world, 1)
    world.app.faults.add(got(lambda _: old), make.on_student(key), times=None)
    refresh(world, key)
    assert world.replica()[key].nickname == "New"


def test_a_list_row_that_lags_brings_nothing_back_that_only_lists_serve(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, switches=replace(SPLIT, ids_filter="ignored"))
    key = min(world.upstream())
    old = world.school.truth()[key]
    world.school.update(key, program="New", nickname="New")
    world.pass_time(minutes=5)
    world.sync()

    def lagging(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "students": [old if row["id"] == key else row for row in document["students"]]}

    world.app.faults.add(served(lagging), make.on_modified_feed, times=None)
    assert world.sync().counts.stale == 1
    assert (world.replica()[key].program, world.replica()[key].nickname) == ("New", "New")


def test_a_change_between_the_list_and_the_first_answer_of_get_is_no_key_that_lists_lack(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, size=0, per_page=100, policy=GUARD_OFF)
    for _ in range(3):
        world.school.create()
    world.pass_time(hours=1)

    def archive(key: int) -> None:
        world.pass_time(minutes=1)
        world.school.archive(key, withdrawn_on="2026-03-02")

    on_first_get(world, archive)
    world.sync()
    runs(world, 1)
    assert world.replica() == world.upstream()
    world.school.create()
    world.requests()
    runs(world, 2)
    assert len(asked_by_id(world)) <= 1
    assert world.replica() == world.upstream()


def test_a_student_whose_row_never_changes_is_judged_again_when_lists_serve_the_key(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, switches=PARENTS)
    key = next(key for key, student in world.upstream().items() if student.parent_ids)
    world.app.faults.add(make.http_status(403), make.on_student(), times=None)
    world.school.switches = Switches()
    for student in world.upstream():
        world.school.touch(student)
    world.school.update(key, parent_ids=None)
    runs(world, 1)  # the lists have the parents, but only a full run decides that they serve them
    assert world.replica()[key].parent_ids
    world.pass_time(hours=1)
    world.full()
    assert world.replica() == world.upstream()
