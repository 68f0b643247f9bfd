"""A student's status is the served one, or what `archived` and the dates imply, also for rows of earlier versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from earlier import back_to
from sqlalchemy import text, update
from steps import settled

from rostersync.managebac.decoding.records import decode_student
from rostersync.records import with_status
from rostersync.report import RunKind
from rostersync.store.schema.rows import NAMES, values_of
from rostersync.store.schema.tables import student
from rostersync.store.store import Store

if TYPE_CHECKING:
    from conftest import ManualClock
    from harness import World

    from rostersync.records import Student

OLD = "2025-01-31"


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock)


def enrolled(world: World) -> set[int]:
    return {row["id"] for row in world.rows("SELECT id FROM enrolled_student")}


def test_a_student_who_is_enrolled_again_is_enrolled_although_an_old_date_remains(world: World) -> None:
    key = min(world.upstream())
    for archived in (True, False):
        world.school.update(key, archived=archived, withdrawn_on=OLD)
        world.pass_time(minutes=5)
        world.sync()
        assert (key in enrolled(world)) is not archived
    assert str(world.replica()[key].withdrawn_on) == OLD


def test_a_served_status_decides_whatever_else_is_served(world: World) -> None:
    key = min(world.upstream())
    world.school.update(key, archived=False, status="withdrawn")
    world.pass_time(minutes=5)
    world.sync()
    assert (world.replica()[key].status, key in enrolled(world)) == ("withdrawn", False)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "graduated"},
        {"archived": True},
        {"archived": True, "withdrawn_on": OLD},
        {"archived": True, "graduated_on": "last summer"},
        {"archived": True, "withdrawn_on": " "},
        {"archived": False, "graduated_on": "last summer"},
        {"withdrawn_on": OLD},
        {"graduated_on": "last summer"},
        {"house": "graduated_on"},
    ],
)
def test_rows_in_bulk_have_the_status_that_single_rows_have(fields: dict[str, Any]) -> None:
    decoded: Student | Any = decode_student({"id": 1, **fields})
    assert values_of(decoded)[NAMES.index("status")] == with_status(decoded).status


# An upgrade ------------------------------------------------------------------------------------------------------


def test_after_the_upgrade_a_full_run_mends_statuses_and_only_they_get_a_version(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock)
    wrong, right = sorted(world.upstream())[:2]
    for key, archived in ((wrong, False), (right, True)):
        world.school.update(key, archived=archived, withdrawn_on=OLD)
    world.pass_time(minutes=5)
    world.sync()
    as_before_the_upgrade(world, wrong)
    world.store = Store(world.url, clock, create=True, auto_upgrade=True)
    world.pass_time(minutes=5)
    report = world.sync(RunKind.INCREMENTAL)
    assert report.kind is RunKind.FULL
    assert world.replica() == world.upstream()
    made = world.rows(f"SELECT id, changed_fields FROM student_history WHERE run_id = {report.run_id}")
    assert [row["id"] for row in made] == [wrong]
    world.pass_time(minutes=30)
    quiet = world.sync()
    assert (quiet.kind, quiet.counts.updated) == (RunKind.INCREMENTAL, 0)


def as_before_the_upgrade(world: World, wrong: int) -> None:
    """Bring the database to the state of revision 0006, whose rule had another status for the student `wrong`."""
    with world.store.writing() as connection:
        connection.execute(update(student).where(student.c.id == wrong).values(status="withdrawn"))
        connection.execute(update(student).values(content_hash=b"of another record"))
        for statement in back_to("0006", connection.dialect.name):
            connection.execute(text(statement))
