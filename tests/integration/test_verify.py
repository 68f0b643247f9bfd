"""Proof on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import SOURCE, World
from sqlalchemy import text

from rostersync.daemon.verify import Verdict, verify
from rostersync.simulator import faults as make
from rostersync.simulator.faults import Faults

if TYPE_CHECKING:
    from conftest import ManualClock


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    world = World(migrated_url, clock, faults=Faults())
    world.sync()
    world.pass_time(hours=1)
    return world


def verified(world: World) -> Verdict:
    return verify(world.url, SOURCE, policy=world.policy, connect=world.connect, watch=lambda *_: None)


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


def test_a_login_is_no_difference(world: World) -> None:
    world.school.login(min(world.upstream()))
    assert verified(world).to_json()["state"] == "equal"


def test_differences_are_told_as_ids_and_names_of_fields(world: World) -> None:
    lost, spoilt, gone, *_ = sorted(world.upstream())
    with world.store.writing() as connection:
        connection.execute(text(f"DELETE FROM student WHERE id = {lost}"))
        connection.execute(text(f"UPDATE student SET nickname = 'Canary', content_hash = '' WHERE id = {spoilt}"))
    world.school.purge(gone)
    verdict = verified(world)
    assert verdict.exit_status == 1
    found = {difference.id: (difference.kind, difference.fields) for difference in verdict.differences}
    assert found == {lost: ("missing", ()), spoilt: ("differs", ("nickname",)), gone: ("surplus", ())}
    assert "Canary" not in repr(verdict.to_json())


def test_a_school_that_does_not_rest_cannot_be_told_of(world: World) -> None:
    world.app.on_request = lambda _: (world.pass_time(seconds=2), world.school.create())[0]
    verdict = verified(world)
    assert (verdict.exit_status, verdict.to_json()["state"]) == (1, "cannot tell")


def test_an_api_that_does_not_answer_cannot_be_told_of(world: World) -> None:
    world.app.faults.add(make.http_status(502), times=None)
    assert verified(world).to_json()["state"] == "cannot tell"
