"""Proof on demand."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from harness import SOURCE, World
from sqlalchemy import delete as delete_rows
from sqlalchemy import update
from steps import delete, keep_creating, served, settled, with_rows

from rostersync.models import Student
from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.sync.verify import Difference, Verification, verify
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from conftest import ManualClock

    from rostersync.simulator.messages import Request


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, per_page=5, policy=SyncPolicy())


def verified(world: World) -> Verification:
    return verify(world.url, SOURCE, world.scope, policy=world.policy, connect=world.connect, progress=lambda *_: None)


def spoil(world: World, key: int, **values: object) -> None:
    """Write into a stored student by hand."""
    with world.store.writing() as connection:
        connection.execute(update(Student).where(Student.id == key).values(nickname="Spoilt", **values))


def test_a_replica_that_is_exact_is_equal_and_nothing_is_written(world: World) -> None:
    before = world.snapshot()
    verdict = verified(world)
    assert (verdict.exit_status, verdict.found, verdict.students) == (0, 0, len(world.upstream()))
    assert world.snapshot() == before


def test_what_changed_since_the_last_run_is_pending_and_no_difference(world: World) -> None:
    one, other, *_ = sorted(world.upstream())
    world.school.create()
    world.school.update(one, nickname="Changed")
    world.school.delete(other)
    world.pass_time(minutes=1)
    verdict = verified(world)
    assert (verdict.exit_status, verdict.pending, verdict.found) == (0, 3, 0)


def test_what_changed_late_in_a_long_verification_is_pending(world: World) -> None:
    key = min(world.upstream())

    def change_on_the_second_request(_: Request) -> None:
        world.app.on_request = None
        world.pass_time(minutes=20)
        world.school.update(key, nickname="Changed")

    def wait_for_the_second_request(_: Request) -> None:
        world.app.on_request = change_on_the_second_request

    world.app.on_request = wait_for_the_second_request
    verdict = verified(world)
    assert (verdict.exit_status, verdict.pending, verdict.found) == (0, 1, 0)


def test_removals_that_the_feed_told_and_that_are_held_are_pending(world: World) -> None:
    delete(world, 5)
    assert world.sync().state is RunState.HELD
    verdict = verified(world)
    assert (verdict.exit_status, verdict.pending, verdict.found) == (0, 5, 0)


def test_what_a_run_brings_amid_a_verification_is_pending(world: World) -> None:
    lost, changed, gone, *_ = sorted(world.upstream())
    world.school.purge(lost)

    def changes_and_a_run(request: Request) -> None:
        if request.path.endswith(f"/{lost}"):  # the lists were read, and what they showed is old now
            world.app.on_request = None
            world.school.update(changed, nickname="Changed")
            world.school.delete(gone)
            world.pass_time(minutes=1)
            assert world.sync().counts.deleted == 1

    world.app.on_request = changes_and_a_run
    verdict = verified(world)
    assert (verdict.pending, verdict.differences) == (1, [Difference(lost, "surplus")])  # the third is gone in both


def test_a_login_is_no_difference(world: World) -> None:
    world.school.login(min(world.upstream()))
    assert verified(world).to_json()["state"] == "equal"


def test_differences_are_told_as_ids_and_names_of_fields(world: World) -> None:
    lost, spoilt, gone, *_ = sorted(world.upstream())
    with world.store.writing() as connection:
        connection.execute(delete_rows(Student).where(Student.id == lost))
    spoil(world, spoilt, content_hash=b"")
    world.school.purge(gone)
    verdict = verified(world)
    assert verdict.exit_status == 1
    found = {difference.id: (difference.kind, difference.fields) for difference in verdict.differences}
    assert found == {lost: ("missing", ()), spoilt: ("differs", ("nickname",)), gone: ("surplus", ())}
    assert "Spoilt" not in repr(verdict.to_json())


def test_ids_that_are_stored_twice_are_differences(world: World) -> None:
    one, other, *_ = sorted(world.upstream())
    with world.store.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE student DROP CONSTRAINT pk_student")
        else:
            connection.exec_driver_sql("CREATE TABLE kept AS SELECT * FROM student")
            connection.exec_driver_sql("DROP TABLE student")
            connection.exec_driver_sql("CREATE TABLE student AS SELECT * FROM kept")
            connection.exec_driver_sql("DROP TABLE kept")
        connection.exec_driver_sql(f"INSERT INTO student SELECT * FROM student WHERE id IN ({one}, {other})")
    verdict = verified(world)
    assert (verdict.exit_status, verdict.found) == (1, 2)
    assert verdict.differences == [Difference(one, "twice"), Difference(other, "twice")]


def test_a_stored_field_that_a_hand_has_spoilt_differs_although_its_hash_does_not(world: World) -> None:
    key = max(world.upstream())
    spoil(world, key)
    verdict = verified(world)
    assert (verdict.exit_status, verdict.differences) == (1, [Difference(key, "differs", ("nickname",))])


def test_every_row_is_compared_however_many_there_are(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, size=501, per_page=200)  # one more than are compared at a time
    world.sync()
    world.pass_time(hours=1)
    spoil(world, max(world.upstream()))
    assert verified(world).found == 1


def test_a_difference_of_a_record_that_is_stamped_in_the_future_does_not_wait_for_ever(world: World) -> None:
    key = min(world.upstream())
    world.school.inject(key, {**world.school.truth()[key], "updated_at": "2099-01-01T00:00:00.000Z"})
    world.pass_time(minutes=1)
    world.sync()
    world.pass_time(hours=1)
    assert verified(world).to_json()["state"] == "equal"
    spoil(world, key)
    assert verified(world).differences == [Difference(key, "differs", ("nickname",))]


def test_a_school_that_does_not_rest_cannot_be_told_of(world: World) -> None:
    keep_creating(world)
    verdict = verified(world)
    assert (verdict.exit_status, verdict.to_json()["state"]) == (1, "cannot tell")


def test_an_api_that_does_not_answer_cannot_be_told_of(world: World) -> None:
    world.app.faults.add(make.http_status(502), times=None)
    assert verified(world).to_json()["state"] == "cannot tell"


def test_a_student_of_whom_get_tells_nothing_cannot_be_told_of(world: World) -> None:
    gone = min(world.upstream())
    world.school.purge(gone)
    world.app.faults.add(make.http_status(502), make.on_student(gone), times=None)
    verdict = verified(world)
    assert (verdict.exit_status, verdict.found, verdict.to_json()["state"]) == (1, 0, "cannot tell")


def test_what_differs_is_told_although_nobody_can_tell_of_others(world: World) -> None:
    gone, spoilt, *_ = sorted(world.upstream())
    world.school.purge(gone)
    world.app.faults.add(make.http_status(502), make.on_student(gone), times=None)
    spoil(world, spoilt)
    told = verified(world).to_json()
    assert (told["state"], [each["id"] for each in told["differences"]]) == ("differs", [spoilt])
    assert told["error"]


def test_a_student_who_is_still_listed_and_whom_get_does_not_know_is_not_missing(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, per_page=100)
    world.sync()
    key = min(world.upstream())
    ghost = world.school.truth()[key]
    world.school.delete(key)
    world.pass_time(minutes=1)
    world.sync()

    world.app.faults.add(with_rows(ghost), make.on_roster, times=None)
    world.pass_time(hours=1)
    assert world.full().counts.ignored == 1
    world.pass_time(hours=1)
    assert verified(world).to_json()["state"] == "equal"


def test_a_restored_student_whom_no_incremental_run_will_bring_is_missing(world: World) -> None:
    """Restored without a new updated_at, and the deleted feed goes on listing the student."""
    key = min(world.upstream())
    delete_for_good(world, key)
    world.school.restore(key, bump=False)
    world.sync()
    world.pass_time(hours=1)
    assert verified(world).differences == [Difference(key, "missing")]


def test_a_full_run_restores_a_student_whom_the_deleted_feed_goes_on_listing(world: World) -> None:
    key = min(world.upstream())
    delete_for_good(world, key)
    world.school.restore(key, bump=False)
    report = world.full()
    assert (report.state, report.counts.restored) == (RunState.SUCCEEDED, 1)
    assert verified(world).to_json()["state"] == "equal"


def delete_for_good(world: World, key: int) -> None:
    """Delete a student, whom the deleted feed then lists for good, and sync; an hour passes."""
    deleted_at = world.clock.now()
    world.school.delete(key)
    rows = {"students": [{"id": key}], "meta": {"current_page": 1, "total_pages": 1, "total_count": 1, "per_page": 5}}

    def reaches_back(request: Request) -> bool:
        asked = request.first("deleted_since")
        return make.on_deleted_feed(request) and asked is not None and datetime.fromisoformat(asked) <= deleted_at

    world.app.faults.add(served(lambda _: rows), reaches_back, times=None)
    world.pass_time(minutes=1)
    world.sync()
    world.pass_time(hours=1)


@pytest.mark.parametrize("named", [True, False], ids=["with an id", "without one"])
def test_a_record_that_cannot_be_decoded_cannot_be_told_of(world: World, named: bool) -> None:
    world.school.inject(70_000 if named else None, {"email": "no\0text"} | ({"id": 70_000} if named else {}))
    world.pass_time(minutes=1)
    world.sync()
    world.pass_time(hours=1)
    verdict = verified(world)
    assert (verdict.exit_status, verdict.found, verdict.to_json()["state"]) == (1, 0, "cannot tell")
