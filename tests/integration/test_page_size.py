"""How many students a page is asked for, and what happens if the server gives fewer or refuses so many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from canary import EAR, TOKEN
from harness import GUARD_OFF, World

from rostersync.clock import SystemClock
from rostersync.managebac import ManageBac, Refused, TooLarge
from rostersync.report import RunKind, RunState
from rostersync.simulator import App, Faults, School, Server, Switches
from rostersync.simulator import faults as make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock

SIZE = 450
"""Five pages of 100, or three of 200."""

REFUSES = [Switches(per_page_cap=100, per_page_over_cap=status) for status in ("400", "422")]  # type: ignore[arg-type]
BOTH = pytest.mark.parametrize("switches", REFUSES, ids=["400", "422"])


def world_of(url: str, clock: ManualClock, **options: Any) -> World:
    return World(url, clock, **{"size": SIZE, "per_page": 200, "policy": GUARD_OFF, **options})


def asked(world: World) -> list[tuple[str, str]]:
    """Return page and per_page of each request for a list since the last call of this."""
    queries = [dict(query) for path, query in world.requests() if path.endswith("/students")]
    return [(query["page"], query["per_page"]) for query in queries]


# A sync ----------------------------------------------------------------------------------------------------------


def test_a_full_run_of_1200_students_makes_13_requests(migrated_url: str, clock: ManualClock) -> None:
    world = world_of(migrated_url, clock, size=1_200)
    assert world.full().requests == 14  # the first run also asks for one student
    assert world.full().requests == 13
    assert world.replica() == world.upstream()


@pytest.mark.parametrize("meta_without", [(), ("total_pages",), ("per_page",), ("per_page", "total_pages")], ids=str)
@pytest.mark.parametrize("meta_asked", [(), ("per_page",), ("total_pages",), ("per_page", "total_pages")], ids=str)
def test_a_server_that_silently_gives_fewer_loses_nobody(
    migrated_url: str, clock: ManualClock, meta_asked: tuple[str, ...], meta_without: tuple[str, ...]
) -> None:
    """Not even if its meta counts as if it had given what was asked for."""
    switches = Switches(per_page_cap=100, meta_asked=meta_asked, meta_without=meta_without)
    world = world_of(migrated_url, clock, switches=switches)
    report = world.full()
    assert report.state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()
    assert [size for _, size in asked(world)] == ["200"] * 11  # five pages twice, and the deleted feed
    assert world.full().counts.deleted == 0


@BOTH
def test_after_a_refusal_page_1_is_repeated_once_with_100_and_so_are_all_lists_that_follow(
    migrated_url: str, clock: ManualClock, switches: Switches
) -> None:
    world = world_of(migrated_url, clock, switches=switches)
    report = world.full()
    assert report.state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()
    roster = [(str(number), "100") for number in range(1, 6)]
    assert asked(world) == [("1", "200"), *roster, *roster, ("1", "100")]
    [event] = [event for event in map(json.loads, EAR.last) if event["event"] == "per_page_lowered"]
    assert event == {"event": "per_page_lowered", "level": "info", "asked": 200, "per_page": 100} | {
        "timestamp": event["timestamp"]
    }


@BOTH
def test_what_changes_is_read_with_100_as_well(migrated_url: str, clock: ManualClock, switches: Switches) -> None:
    world = world_of(migrated_url, clock, switches=switches, per_page=150)
    world.full()
    world.pass_time(hours=1)
    for key in sorted(world.upstream())[:120]:
        world.school.update(key, nickname="Many")
    for key in sorted(world.upstream())[-110:]:
        world.school.delete(key)
    world.pass_time(minutes=5)
    asked(world)
    report = world.sync()
    assert (report.state, report.kind) == (RunState.SUCCEEDED, RunKind.INCREMENTAL)
    assert world.replica() == world.upstream()
    assert [size for _, size in asked(world)].count("150") == 1


def test_a_refusal_that_is_not_about_the_size_costs_one_request(migrated_url: str, clock: ManualClock) -> None:
    world = world_of(migrated_url, clock, faults=Faults())
    world.app.faults.add(make.http_status(400), make.on_list, times=9)
    report = world.full()
    assert (report.state, report.requests) == (RunState.FAILED, 2)
    assert "does not accept the request (400 for /v2p1/students)" in (report.error or "")


def test_a_refusal_of_a_later_page_fails_the_run(migrated_url: str, clock: ManualClock) -> None:
    world = world_of(migrated_url, clock, faults=Faults())
    world.app.faults.add(make.http_status(422), make.on_list, skip=1)
    assert world.full().state is RunState.FAILED
    assert asked(world) == [("1", "200"), ("2", "200")]


def test_a_refusal_of_no_more_than_100_fails_the_run(migrated_url: str, clock: ManualClock) -> None:
    switches = Switches(per_page_cap=50, per_page_over_cap="400")
    world = world_of(migrated_url, clock, switches=switches, per_page=100)
    assert (world.full().state, world.reports[-1].requests) == (RunState.FAILED, 1)


@pytest.mark.parametrize("kib", [6, 12, 18])
def test_a_school_of_large_records_is_read_with_100_on_a_page(migrated_url: str, clock: ManualClock, kib: int) -> None:
    """200 of the larger ones are too much for an answer, and of the smaller ones another page may have more."""
    world = world_of(migrated_url, clock, size=250)
    for key in sorted(world.school.truth()):
        world.school.update(key, portfolio="x" * kib * 1024)
    assert world.full().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()
    roster = [(str(number), "100") for number in range(1, 4)]
    assert asked(world) == [("1", "200"), *roster, *roster, ("1", "100")]


def test_large_records_that_are_all_on_one_page_are_read_once(migrated_url: str, clock: ManualClock) -> None:
    world = world_of(migrated_url, clock, size=150)
    for key in sorted(world.school.truth()):
        world.school.update(key, portfolio="x" * 8 * 1024)
    assert world.full().state is RunState.SUCCEEDED
    assert asked(world) == [("1", "200"), ("1", "200")]  # the roster and the deleted feed


# The client ------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> App:
    return App(School(3, 250, SystemClock()), TOKEN)


@pytest.fixture
def api(app: App) -> Iterator[ManageBac]:
    with Server(app) as server, ManageBac(server.base_url, TOKEN, retries=0) as api:
        yield api


def sizes(app: App) -> list[str]:
    return [dict(query)["per_page"] for _, _, query in app.log]


def test_a_list_asks_for_200(app: App, api: ManageBac) -> None:
    students = api.students.list()
    assert len({student.id for student in students}) == 250
    assert (students.total_pages, sizes(app)) == (2, ["200"] * 2)


@BOTH
def test_a_list_that_is_refused_is_read_with_100(app: App, api: ManageBac, switches: Switches) -> None:
    app.school.switches = switches
    ids = set(app.school.truth())
    assert {student.id for student in api.students.list()} == ids
    second = api.students.list(page=2)
    assert len(list(second)) == 100
    assert (second.total_pages, second.per_page) == (3, 100)
    assert {student.id for student in api.students.list(per_page=120)} == ids
    assert sizes(app) == ["200"] + ["100"] * 7


def test_a_list_that_100_do_not_help_has_its_own_error(app: App, api: ManageBac) -> None:
    app.faults.add(make.http_status(400), times=2)
    with pytest.raises(Refused, match="does not accept the request") as raised:
        list(api.students.list(q="x"))
    assert (raised.value.status, raised.value.request) == (400, "GET /v2p1/students")
    assert raised.value.__context__ is None
    assert len(list(api.students.list())) == 250
    assert sizes(app) == ["200", "100", "200", "200"]


def test_a_list_that_is_being_read_keeps_its_size(app: App, api: ManageBac) -> None:
    """Its pages are numbered by that size, whatever other threads that share the client have found out since."""
    reading = api.students.list()
    assert reading.total_pages == 2
    app.faults.add(make.http_status(400))
    assert len(list(api.students.list())) == 250
    assert len({student.id for student in reading}) == 250
    assert sizes(app) == ["200", "200", "100", "100", "100", "200"]


def test_one_later_page_that_is_too_large_is_an_error(app: App, api: ManageBac) -> None:
    school = app.school
    for key in sorted(school.truth())[200:]:
        school.update(key, portfolio="x" * 50 * 1024)
    with pytest.raises(TooLarge) as raised:
        list(api.students.list())
    assert raised.value.hint == "choose a smaller sync.per_page"
