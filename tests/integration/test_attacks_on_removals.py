"""Attacks on proofs, holds and the deleted feed: each once removed the living, kept the dead, or ended a hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest
from harness import World, on_past_days

from rostersync.report import RunState
from rostersync.simulator import faults as make
from rostersync.simulator.faults import Faults
from rostersync.simulator.messages import json_response
from rostersync.simulator.switches import Switches
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.plan import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.simulator.messages import Request, Response

GUARD_OFF = SyncPolicy(guard=GuardPolicy(max_deletions=1000, max_deletion_percent=100))


def settled(url: str, clock: ManualClock, **options: Any) -> World:
    world = World(url, clock, faults=Faults(), **{"per_page": 100, "policy": GUARD_OFF, **options})
    world.sync()
    world.pass_time(hours=1)
    return world


def six_leave(world: World) -> list[int]:
    gone = sorted(world.upstream())[:6]
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    return gone


def rows_too(*more: dict[str, Any]) -> make.Fault:
    """A list of one page holds these rows as well."""

    def spoil(document: dict[str, Any]) -> dict[str, Any]:
        rows = [*document["students"], *more]
        return {"students": rows, "meta": document["meta"] | {"total_count": len(rows), "total_pages": 1}}

    return make._spoiled(spoil)


def listing(*keys: int) -> make.Fault:
    """The deleted feed lists these as well."""
    return rows_too(*({"id": key} for key in keys))


def test_an_approval_without_a_control_removes_nobody_outside_its_plan(migrated_url: str, clock: ManualClock) -> None:
    """Six of nine are gone and held; then the endpoint answers 404 for everybody, and the feed lists the living."""
    world = settled(
        migrated_url,
        clock,
        size=9,
        policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)),
        switches=Switches(ids_filter="ignored"),
    )
    six_leave(world)
    a, b, c = world.upstream()
    held = world.sync()
    assert held.state is RunState.HELD
    world.app.faults.add(make.http_status(400, html=False), make.on_ids, times=None)
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    world.app.faults.add(listing(a, b, c), on_past_days, times=None)
    world.sync(approves=held.run_id)
    assert {a, b, c} <= world.replica().keys()


def test_whom_get_has_shown_alive_is_a_control_where_the_deleted_feed_lists_everybody(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=6)
    world.app.faults.add(make.forbidden(), make.on_ids, times=None)
    gone, *others = sorted(world.upstream())
    world.school.delete(gone)
    world.app.faults.add(listing(*others), on_past_days, times=None)
    world.pass_time(hours=1)
    world.requests()
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)
    assert world.replica() == world.upstream()
    asked = [path for path, _ in world.requests() if path.rsplit("/", 1)[1].isdigit()]
    assert len(asked) == 6 + 1  # each once, and whoever is gone once more: those shown alive after them are the control


def test_a_404_is_not_confirmed_by_a_student_who_was_shown_before_it(migrated_url: str, clock: ManualClock) -> None:
    """GET answers for the first, then answers 404 to all: whoever it showed before says nothing of that."""
    world = settled(migrated_url, clock, size=6)
    world.app.faults.add(make.forbidden(), make.on_ids, times=None)
    first, *others = sorted(world.upstream())
    world.app.faults.add(listing(first, *others), on_past_days, times=None)
    for key in others:
        world.app.faults.add(make.not_found(), make.on_student(key), times=None)
    broken: list[int] = []

    def breaks_after_the_first(request: Request) -> None:
        if request.path.endswith(f"/{first}"):
            broken.append(first)
            if len(broken) == 2:
                world.app.faults.add(make.not_found(), make.on_student(first), times=None)

    world.app.on_request = breaks_after_the_first
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.HELD, 0)
    assert world.replica() == world.upstream()


def test_an_approval_needs_a_control_where_there_is_one(migrated_url: str, clock: ManualClock) -> None:
    """The endpoint answers 404 for everybody, those included who are not in question."""
    world = settled(migrated_url, clock, size=9, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    gone = six_leave(world)
    held = world.sync()
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    report = world.sync(approves=held.run_id)
    assert (report.state, report.counts.deleted, report.counts.removals_held) == (RunState.HELD, 0, len(gone))


@pytest.mark.parametrize("style", ["stub", "empty"], ids=["listed", "no longer listed"])
def test_one_answer_that_lies_for_a_moment_removes_nobody(
    migrated_url: str, clock: ManualClock, style: Literal["stub", "empty"]
) -> None:
    """He is listed as deleted and lives, and the first GET says that he is gone; a list by ids cannot spare him."""
    world = settled(migrated_url, clock, size=12, switches=Switches(ids_filter="ignored", deleted_feed=style))
    key = min(world.upstream())
    world.app.faults.add(listing(key), on_past_days, times=None)
    world.app.faults.add(make.not_found(), make.on_student(key), times=1)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    assert key in world.replica()


def test_one_answer_that_lies_for_a_moment_keeps_nobody_out(migrated_url: str, clock: ManualClock) -> None:
    """He was restored, and the first GET says that he is still gone."""
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(hours=1)
    assert world.sync().counts.deleted == 1
    world.school.restore(key)
    world.app.faults.add(make.not_found(), make.on_student(key), times=1)
    world.pass_time(hours=1)
    assert world.sync().counts.restored == 1


@pytest.mark.parametrize("per_page", [3, 100])
@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_a_deleted_feed_that_lists_all_the_living_holds_nothing(
    migrated_url: str, clock: ManualClock, per_page: int, ids_filter: Literal["honoured", "ignored"]
) -> None:
    """Pages are small, or lists by ids cannot spare anybody: it is known all the same."""
    switches = Switches(deleted_feed="ignored", ids_filter=ids_filter)
    world = settled(migrated_url, clock, size=40, per_page=per_page, switches=switches, policy=SyncPolicy())
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)


def test_a_deleted_feed_that_lists_everybody_who_ever_was_holds_nothing(migrated_url: str, clock: ManualClock) -> None:
    """Those who left long ago are stored as tombstones, and tell nothing of the feed."""
    world = settled(migrated_url, clock, size=80, switches=Switches(ids_filter="ignored"))
    left = sorted(world.upstream())[:16]
    for key in left:
        world.school.delete(key)
    world.pass_time(hours=1)
    assert world.sync().counts.deleted == len(left)
    world.school.switches = replace(world.school.switches, deleted_feed="ignored")
    world.app.faults.add(listing(*left), make.on_deleted_feed, times=None)
    world.pass_time(hours=1)
    world.policy = SyncPolicy()
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)


@pytest.mark.parametrize("per_page", [5, 100])
def test_a_deleted_feed_that_lists_everybody_is_known_in_a_small_school_where_one_leaves(
    migrated_url: str, clock: ManualClock, per_page: int
) -> None:
    """He is listed like all the others, and nobody is left as a control: nothing must wait for an approval."""
    switches = Switches(deleted_feed="ignored", ids_filter="ignored")
    world = settled(migrated_url, clock, size=15, per_page=per_page, switches=switches, policy=SyncPolicy())
    key = min(world.upstream())
    world.school.delete(key)
    world.app.faults.add(listing(*world.upstream(), key), make.on_deleted_feed, times=None)
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    report = world.full()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)


def archived_students_have_no_record(world: World) -> None:
    for key in sorted(world.upstream())[:4]:
        world.school.archive(key, withdrawn_on="2026-01-01")
        world.app.faults.add(make.not_found(), make.on_student(key), times=None)


def the_feed_leaves_out_the_archived(world: World) -> None:
    for key in sorted(world.upstream())[::3]:
        world.school.archive(key)
    handle = world.app.handle

    def active(request: Request) -> Response:
        only = [("archived", "0")] if request.first("deleted_since") else []
        return handle(replace(request, query=[*request.query, *only]))

    world.app.handle = active  # type: ignore[method-assign]


def one_record_is_bad(world: World) -> None:
    world.school.inject(99_000_001, {"id": 99_000_001, "first_name": ["no text"]})


def the_list_shows_the_deleted(world: World) -> None:
    world.school.switches = replace(world.school.switches, deleted_listed=True)
    for key in sorted(world.upstream())[:-5][:20]:
        world.school.delete(key)


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
@pytest.mark.parametrize("size", [19, 40], ids=["one page", "pages"])
@pytest.mark.parametrize(
    "oddity",
    [
        archived_students_have_no_record,
        the_feed_leaves_out_the_archived,
        one_record_is_bad,
        the_list_shows_the_deleted,
    ],
)
def test_a_deleted_feed_that_ignores_its_filter_removes_and_holds_nobody_whomever_it_lists(
    migrated_url: str,
    clock: ManualClock,
    ids_filter: Literal["honoured", "ignored"],
    size: int,
    oddity: Callable[[World], None],
) -> None:
    switches = Switches(deleted_feed="ignored", ids_filter=ids_filter)
    world = World(migrated_url, clock, size=size, per_page=20, switches=switches, faults=Faults(), policy=SyncPolicy())
    oddity(world)
    world.pass_time(hours=1)
    for order in (world.full, world.sync, world.full, world.sync):
        report = order()
        assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0), report.error
        assert world.replica() == world.upstream()
        world.pass_time(hours=1)


@pytest.mark.parametrize(
    "instead", [None, [("deleted_since", "2000-01-01")], []], ids=["refuses it", "lists all the deleted", "the living"]
)
def test_a_server_that_does_not_take_a_day_to_come_still_tells_who_left(
    migrated_url: str, clock: ManualClock, instead: list[tuple[str, str]] | None
) -> None:
    world = settled(migrated_url, clock, size=40)
    for key in sorted(world.upstream())[:20]:
        world.school.delete(key)
    world.pass_time(days=30)
    assert world.full().counts.deleted == 20
    handle = world.app.handle

    def heedless(request: Request) -> Response:
        if not make.on_deleted_feed(request) or on_past_days(request):
            return handle(request)
        if instead is None:
            return json_response(400, {"error": "deleted_since is in the future"})
        query = [pair for pair in request.query if pair[0] != "deleted_since"]
        return handle(replace(request, query=[*query, *instead]))

    world.app.handle = heedless  # type: ignore[method-assign]
    world.school.delete(min(world.upstream()))
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 1)


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
@pytest.mark.parametrize(("size", "leave"), [(9, 1), (15, 2), (60, 7)])
def test_a_deleted_feed_that_lists_the_living_is_known_when_many_have_left(
    migrated_url: str, clock: ManualClock, size: int, leave: int, ids_filter: Literal["honoured", "ignored"]
) -> None:
    """They are stored as living, and such a feed does not tell of them: nor may it date a watermark behind them."""
    switches = Switches(deleted_feed="ignored", ids_filter=ids_filter)
    world = settled(migrated_url, clock, size=size, switches=switches, policy=SyncPolicy())
    for key in sorted(world.upstream())[:leave]:
        world.school.delete(key)
    world.school.create()
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 0)
    world.school.switches = Switches(ids_filter=ids_filter)
    world.policy = GUARD_OFF
    world.pass_time(hours=1)
    assert world.sync().counts.deleted == leave
    assert world.replica() == world.upstream()


def test_a_row_that_bears_deleted_at_counts_in_a_deleted_feed_that_lists_the_living(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, switches=Switches(deleted_feed="ignored"))
    key = min(world.upstream())
    world.school.delete(key)
    marked = {"id": key, "deleted_at": world.clock.now().isoformat()}
    world.app.faults.add(rows_too(marked), make.on_deleted_feed, times=None)
    assert world.sync().counts.deleted == 1


@pytest.mark.parametrize(("size", "gone", "back"), [(90, 60, 25), (40, 21, 18), (40, 20, 18), (100, 99, 80)])
def test_a_deleted_feed_that_lists_for_good_who_came_back_still_tells_who_left(
    migrated_url: str, clock: ManualClock, size: int, gone: int, back: int
) -> None:
    """A mass deletion is just being undone."""
    world = settled(migrated_url, clock, size=size)
    left = sorted(world.upstream())[-gone:]
    for key in left:
        world.school.delete(key)
    world.pass_time(minutes=5)
    for key in left[:back]:
        world.school.restore(key)
    world.app.faults.add(listing(*left[:back]), on_past_days, times=None)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, gone - back)
    assert world.replica() == world.upstream()


def test_a_deleted_feed_with_a_record_without_an_id_leaves_its_watermark(migrated_url: str, clock: ManualClock) -> None:
    """Nobody knows whom it means; the others are removed all the same."""
    world = settled(migrated_url, clock, size=12)
    before = world.reports[-1].watermarks
    world.school.delete(min(world.upstream()))
    world.app.faults.add(rows_too({"first_name": "Nameless"}), on_past_days, times=None)
    report = world.sync()
    assert (report.state, report.counts.deleted) == (RunState.INCOMPLETE, 1)
    assert report.error == "the deleted feed lists records without a readable id"
    assert report.watermarks.deleted == before.deleted
    assert report.watermarks.modified != before.modified


def test_an_approval_whose_plan_was_closed_while_it_waited_is_no_success(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    six_leave(world)
    held = world.sync()
    first = world.sync(approves=held.run_id)
    assert first.state is RunState.SUCCEEDED
    report = world.sync(approves=held.run_id)  # filed by a second administrator a moment before
    assert report.exit_status != 0


def test_a_run_whose_deleted_feed_was_useless_ends_no_hold(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    six_leave(world)
    assert world.sync().state is RunState.HELD
    world.school.switches = replace(world.school.switches, deleted_feed="ignored")

    # the filter is ignored: the feed is the list
    handle = world.app.handle

    def ignoring(request: Request) -> Response:
        if request.first("deleted_since"):
            request = replace(request, query=[p for p in request.query if p[0] != "deleted_since"])
        return handle(request)

    world.app.handle = ignoring  # type: ignore[method-assign]
    world.pass_time(minutes=5)
    report = world.sync()
    assert (report.state, report.counts.removals_held) == (RunState.HELD, 6)


def test_one_whom_a_stale_list_by_ids_shows_and_get_does_not_is_removed(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.update(key, nickname="Newer")
    world.pass_time(hours=1)
    world.sync()
    old = {**world.school.truth()[key], "updated_at": "2020-01-01T00:00:00.000Z"}
    world.school.delete(key)
    world.pass_time(minutes=20)
    stale = make._spoiled(lambda d: {"students": [old], "meta": d["meta"] | {"total_count": 1, "total_pages": 1}})
    world.app.faults.add(stale, make.on_ids, times=None)
    report = world.sync()
    assert report.state is RunState.SUCCEEDED
    world.app.faults.clear()
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert key not in world.replica()


def test_the_time_of_a_deletion_that_get_told_before_is_kept(migrated_url: str, clock: ManualClock) -> None:
    """A stub in the feed, GET 200 with deleted_at, proved while the roster was read."""
    world = settled(
        migrated_url, clock, size=12, per_page=5, switches=Switches(deleted_feed="stub", deleted_get="record")
    )
    key = min(world.upstream())
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "2" and not done:
            done.append(world.clock.now())
            world.school.delete(key)
            world.pass_time(minutes=3)

    world.app.on_request = happen
    world.full()
    [row] = world.rows("SELECT deleted_at FROM deleted_student")
    assert str(row["deleted_at"])[11:19] == done[0].strftime("%H:%M:%S")


@pytest.mark.parametrize("status", [403, 404, 414, 500])
def test_a_list_by_ids_that_is_refused_does_not_stop_the_run(
    migrated_url: str, clock: ManualClock, status: int
) -> None:
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.app.faults.add(make.http_status(status), make.on_ids, times=None)
    report = world.sync()
    assert report.state is RunState.SUCCEEDED, report.error


def test_a_deleted_row_without_a_readable_id_does_not_let_the_watermark_pass(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=12)
    key = min(world.upstream())
    world.school.delete(key)
    world.pass_time(minutes=20)
    nameless = make._spoiled(lambda d: {**d, "students": [{"identifier": "x"} for _ in d["students"]]})
    world.app.faults.add(nameless, make.on_deleted_feed, times=None)
    world.sync()
    world.app.faults.clear()
    world.pass_time(hours=1)
    world.sync()
    assert key not in world.replica()


def test_duplicates_within_a_page(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, faults=Faults(), policy=GUARD_OFF, per_page=100)
    twice = make._spoiled(lambda d: {**d, "students": d["students"] + d["students"][:2]})
    world.app.faults.add(twice, make.on_list, times=None)
    world.sync()
    assert world.replica().keys() == world.upstream().keys()


def test_a_page_that_repeats_one_and_lacks_another_is_not_one_whole_list(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, faults=Faults(), policy=GUARD_OFF, per_page=100)
    twice = make._spoiled(lambda d: {**d, "students": d["students"][:-1] + d["students"][:1]})
    world.app.faults.add(twice, make.on_list, times=None)
    report = world.sync()
    assert report.state is RunState.INCOMPLETE


def test_a_restore_is_not_lost_by_an_approval_without_control(migrated_url: str, clock: ManualClock) -> None:
    """All living are in question; the endpoint is out of order; a restored student stands in the modified feed."""
    world = settled(migrated_url, clock, size=3, policy=SyncPolicy(guard=GuardPolicy(max_deletions=1)))
    a, b, c = sorted(world.upstream())
    world.school.delete(c)
    world.pass_time(minutes=1)
    assert world.sync().state is RunState.SUCCEEDED
    world.pass_time(hours=1)
    world.school.delete(a)
    world.school.delete(b)
    world.pass_time(hours=25)
    held = world.sync()
    assert held.state is RunState.HELD
    world.school.restore(c)
    world.pass_time(minutes=1)
    world.app.faults.add(make.not_found(), make.on_student(), times=None)
    world.sync(approves=held.run_id)
    world.app.faults.clear()
    world.pass_time(hours=2)
    world.sync()
    assert c in world.replica()


def test_removals_of_a_clock_that_was_a_year_ahead_do_not_weigh_on_the_guard_for_a_year(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    *gone, last = sorted(world.upstream())[:6]
    year = timedelta(days=365)
    clock.time += year
    world.school.switches = replace(world.school.switches, clock_skew=-year.total_seconds())  # ours alone is wrong
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    world.policy = GUARD_OFF
    assert world.sync().counts.deleted == 5
    world.policy = SyncPolicy(guard=GuardPolicy(max_deletions=5))
    clock.time -= year
    world.school.switches = replace(world.school.switches, clock_skew=0.0)
    world.school.delete(last)
    world.pass_time(days=2)
    assert world.sync().state is RunState.SUCCEEDED


def test_removals_of_today_weigh_on_the_guard_when_the_clock_went_back_an_hour(
    migrated_url: str, clock: ManualClock
) -> None:
    world = settled(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(5, max_deletion_percent=100)))
    *gone, last = sorted(world.upstream())[:6]
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    assert world.sync().counts.deleted == 5
    clock.time -= timedelta(hours=1)
    world.school.delete(last)
    world.pass_time(minutes=5)
    assert world.sync().state is RunState.HELD


def test_one_empty_answer_of_the_deleted_feed_ends_no_hold(migrated_url: str, clock: ManualClock) -> None:
    world = settled(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=5)))
    six_leave(world)
    assert world.sync().state is RunState.HELD
    world.pass_time(hours=1)
    world.app.faults.add(make.empty_list(), make.on_deleted_feed)
    report = world.sync()
    assert (report.state, report.counts.removals_held) == (RunState.HELD, 6)
    world.pass_time(hours=1)
    report = world.sync(approves=report.run_id)
    assert (report.state, report.counts.deleted) == (RunState.SUCCEEDED, 6)
    assert world.replica() == world.upstream()


@pytest.mark.parametrize("ids_filter", ["honoured", "ignored"])
def test_a_hold_whose_students_came_back_ends_by_itself(
    migrated_url: str, clock: ManualClock, ids_filter: Literal["honoured", "ignored"]
) -> None:
    policy = SyncPolicy(guard=GuardPolicy(max_deletions=5))
    world = settled(migrated_url, clock, size=40, policy=policy, switches=Switches(ids_filter=ids_filter))
    gone = six_leave(world)
    assert world.sync().state is RunState.HELD
    for key in gone:
        world.school.restore(key)
    world.pass_time(hours=1)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.rows("SELECT held_run_id FROM sync_health")[0]["held_run_id"] is None
    assert world.replica() == world.upstream()
