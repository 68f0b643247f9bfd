"""A record that cannot be decoded goes to quarantine, harms no other, and leaves it when it decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from harness import GUARD_OFF, SOURCE, World
from sqlalchemy import text
from steps import asked_by_id, served, settled

from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.simulator.switches import Switches

if TYPE_CHECKING:
    from conftest import ManualClock

THREE_ODD = {"class_grade_number": "KG", "nationalities": "US", "parent_ids": 5}


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5)


def test_a_bad_record_goes_to_quarantine_and_leaves_it_when_it_decodes(world: World) -> None:
    key = min(world.upstream())
    good = world.school.truth()[key]
    world.school.inject(key, {**good, "nickname": "no\0text"})
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.quarantined) == (RunState.SUCCEEDED, 1)
    [entry] = world.rows("SELECT id, reason FROM quarantine")
    assert entry["id"] == key
    assert entry["reason"] == "nickname: a NUL character, which no database can store"
    world.school.inject(key, {**good, "nickname": "Fixed"})
    world.pass_time(hours=1)
    world.sync()
    assert world.rows("SELECT * FROM quarantine") == []
    assert world.replica()[key].nickname == "Fixed"


def test_a_student_stays_in_quarantine_as_long_as_their_removal_is_held(world: World) -> None:
    key = min(world.upstream())
    world.school.inject(key, {"id": key, "email": "no\0text"})
    world.pass_time(minutes=1)
    world.sync()
    world.pass_time(hours=1)
    world.sync()  # the last one that lists them
    world.pass_time(hours=1)
    world.school.switches = Switches(ids_filter="ignored")
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    assert world.sync().state is RunState.HELD
    assert [row["id"] for row in world.rows("SELECT id FROM quarantine")] == [key]


def test_records_for_which_get_never_answers_do_not_keep_the_others_in_quarantine(world: World) -> None:
    world.school.switches = Switches(ids_filter="ignored")
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
        assert len(set(asked_by_id(world))) == 100
    assert keys[100] in world.replica()


# Records without an id -------------------------------------------------------------------------------------------


def test_a_record_without_an_id_leaves_quarantine_when_a_full_run_no_longer_shows_it(world: World) -> None:
    record = world.school.inject(None, {"first_name": "Nameless"})
    world.sync()
    assert len(world.rows("SELECT * FROM quarantine")) == 1
    world.school.purge(record)
    world.full()
    assert world.rows("SELECT * FROM quarantine") == []


def test_two_equal_records_without_an_id_are_counted_as_two(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.school.inject(None, {"first_name": "Nameless"})
    world.school.inject(None, {"first_name": "Nameless"})
    assert world.sync().state is RunState.SUCCEEDED


# A changed API ---------------------------------------------------------------------------------------------------


def test_many_bad_records_are_a_changed_api(world: World) -> None:
    before = world.snapshot()
    for number in range(25):
        world.school.inject(900_000 + number, {"id": 900_000 + number, "city": True} | THREE_ODD)
    report = world.full()
    assert report.state is RunState.FAILED
    assert report.counts.fetched == 0
    assert "changed" in (report.error or "")
    assert world.snapshot()["current_student"] == before["current_student"]


def test_records_with_up_to_three_odd_values_are_stored_and_counted_by_field(world: World) -> None:
    """They are no sign of a changed API, however many they are."""
    keys = range(900_000, 900_025)
    for key in keys:
        world.school.inject(key, {"id": key, "birthday": "17/05/2009", "graduated_on": ""} | THREE_ODD)
    world.school.inject(900_025, {"id": 900_025, "nationalities": "US"})
    report = world.full()
    assert (report.state, report.counts.quarantined) == (RunState.SUCCEEDED, 0)
    [notice] = report.notices
    assert notice == (
        "some values do not fit their fields and are kept in extra; records by field: "
        "birthday 25, class_grade_number 25, nationalities 26, parent_ids 25"
    )
    stored = world.replica()[900_000]
    assert (stored.class_grade_number, stored.nationalities, stored.parent_ids) == (None, None, None)
    assert stored.extra == THREE_ODD | {"birthday": "17/05/2009", "graduated_on": ""}
    world.pass_time(hours=1)
    world.school.inject(900_000, {"id": 900_000, "class_grade_number": 0})
    report = world.full()
    assert "birthday 24, class_grade_number 24, nationalities 25, parent_ids 24" in report.notices[0]


def test_a_record_that_is_read_again_is_counted_as_it_was_read_last(migrated_url: str, clock: ManualClock) -> None:
    """A record without a stamp is decoded in each reading of a list."""
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.school.inject(900_000, {"id": 900_000, "class_grade_number": "KG"})
    [notice] = world.sync().notices
    assert notice.endswith("records by field: class_grade_number 1")


def test_times_without_an_offset_are_noticed_once_in_a_run(world: World) -> None:
    before = world.replica()
    for key in sorted(before)[:3]:
        record = world.school.truth()[key]
        world.school.inject(key, {**record, "updated_at": record["updated_at"].removesuffix("Z")})
    report = world.full()
    assert report.notices == ("the API sends an updated_at without an offset from UTC; it is taken as UTC",)
    assert report.counts.quarantined == report.counts.updated == 0
    assert world.replica() == before


def test_a_large_quarantine_does_not_stop_later_runs(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=600, per_page=200, policy=GUARD_OFF)
    for number in range(25):
        world.school.inject(900_000 + number, {"id": 900_000 + number, "email": "no\0text"})
    assert world.sync().state is RunState.SUCCEEDED
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED


@pytest.mark.parametrize("row", [None, {"x": 1}])
def test_a_modified_feed_with_a_record_without_an_id_is_incomplete_and_its_watermark_waits(
    world: World, row: Any
) -> None:
    key = min(world.upstream())
    world.school.update(key, nickname="Changed")
    world.pass_time(minutes=5)

    def unreadable(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "students": [row if found["id"] == key else found for found in document["students"]]}

    before = world.reports[-1].watermarks
    world.app.faults.add(served(unreadable), make.on_modified_feed, times=None)
    report = world.sync()
    assert (report.state, report.error) == (
        RunState.INCOMPLETE,
        "the modified feed lists records without a readable id",
    )
    assert report.watermarks.modified == before.modified
    assert (report.watermarks.deleted or before.deleted) != before.deleted
    world.app.faults.clear()
    world.pass_time(hours=3)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_a_full_run_moves_the_watermark_in_spite_of_a_record_without_an_id(world: World) -> None:
    world.school.inject(None, {"first_name": "Nameless"})
    assert world.sync().state is RunState.INCOMPLETE
    world.pass_time(hours=1)
    before = world.reports[-1].watermarks.modified
    report = world.full()
    assert (report.state, report.watermarks.modified != before) == (RunState.SUCCEEDED, True)
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
