"""Attacks on the crawls and their watermarks: each once made a run say that it succeeded, and lose somebody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from harness import World

from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.faults import Faults
from rostersync.simulator.switches import Switches
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.plan import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.simulator.messages import Request, Response

GUARD_OFF = SyncPolicy(guard=GuardPolicy(max_deletions=1000, max_deletion_percent=100))


def first_run_while_one_leaves_and_one_comes(
    world: World, *, come: Callable[[World], object] = lambda w: w.school.create(), leave: Any = None
) -> None:
    """Before page 3 somebody of page 1 leaves, so that a row slips, and somebody else comes."""
    victim = min(world.upstream())
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            (leave or world.school.purge)(victim)
            come(world)

    world.app.on_request = happen
    report = world.sync()
    world.app.on_request = None
    world.pass_time(hours=1)
    if report.state is RunState.SUCCEEDED:
        world.sync()  # what the books leave to the next run
        assert world.upstream().keys() <= world.replica().keys()


def test_a_first_run_while_one_leaves_without_a_trace_and_one_comes_loses_nobody(
    migrated_url: str, clock: ManualClock
) -> None:
    first_run_while_one_leaves_and_one_comes(World(migrated_url, clock, policy=GUARD_OFF))


def test_a_newcomer_stamped_by_an_app_server_behind_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(stamp_skews=(-90.0,)))
    first_run_while_one_leaves_and_one_comes(world)


def test_nor_does_he_where_the_deleted_feed_is_always_empty(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(stamp_skews=(-90.0,), deleted_feed="empty"))
    first_run_while_one_leaves_and_one_comes(world, leave=world.school.delete)


def test_a_newcomer_who_commits_late_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    """Stamped a minute before the run, seen only during it."""
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(late_commit_seconds=60.0))
    world.pass_time(hours=1)
    world.school.create()
    world.pass_time(seconds=59.82)
    victim = min(world.upstream())
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            world.school.switches = replace(world.school.switches, late_commit_seconds=0.0001)
            world.school.purge(victim)
            world.pass_time(seconds=1)

    world.app.on_request = happen
    report = world.sync()
    world.app.on_request = None
    world.pass_time(hours=1)
    if report.state is RunState.SUCCEEDED:
        world.sync()
        assert world.upstream().keys() <= world.replica().keys()


def test_a_newcomer_without_created_at_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(without_keys=("created_at",)))
    first_run_while_one_leaves_and_one_comes(world)


def test_a_newcomer_hides_no_slip_without_a_date_and_with_our_clock_ahead(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(date_header=False, clock_skew=-3600.0))
    first_run_while_one_leaves_and_one_comes(world)


def test_nor_beside_a_deletion_that_the_feed_shows(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(date_header=False, clock_skew=-3600.0))
    first_run_while_one_leaves_and_one_comes(world, leave=world.school.delete)


def test_a_date_on_some_responses_only_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    """The second reading of page 1 bears no Date; our clock is an hour behind."""
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(clock_skew=3600.0), faults=Faults())
    handle = world.app.handle
    seen: list[int] = []

    def handled(request: Request) -> Response:
        response = handle(request)
        if make.on_roster(request) and request.first("page") == "1":
            seen.append(1)
            if len(seen) % 2 == 0:
                response.headers.pop("Date")
        return response

    world.app.handle = handled  # type: ignore[method-assign]
    first_run_while_one_leaves_and_one_comes(world)


def test_a_stale_date_from_a_cache_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, faults=Faults())
    handle = world.app.handle
    seen: list[int] = []

    def handled(request: Request) -> Response:
        response = handle(request)
        if make.on_roster(request) and request.first("page") == "1":
            seen.append(1)
            if len(seen) % 2 == 0:
                response.headers["Date"] = "Mon, 02 Mar 2026 06:00:00 GMT"
        return response

    world.app.handle = handled  # type: ignore[method-assign]
    first_run_while_one_leaves_and_one_comes(world)


def test_a_date_ahead_of_the_stamps_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    """A gateway stamps Date an hour ahead of the application's clock; ours is right."""
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(date_skew=3600.0))
    first_run_while_one_leaves_and_one_comes(world, leave=world.school.delete)


def haunted(document: dict[str, Any]) -> dict[str, Any]:
    """Return the answer with somebody more in it, who bears `deleted_at`."""
    ghost = {
        "id": 7,
        "first_name": "Ghost",
        "created_at": "2024-01-01T00:00:00.000Z",
        "deleted_at": "2026-03-02T07:55:00.000Z",
    }
    meta = document["meta"] | {"total_count": document["meta"]["total_count"] + 1}
    return {"students": [*document["students"], ghost], "meta": meta}


def test_a_deleted_row_of_the_modified_feed_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    """A student deleted before the run stands in the modified feed, with deleted_at, and not in the list."""
    world = World(migrated_url, clock, policy=GUARD_OFF, faults=Faults())
    world.app.faults.add(make._spoiled(haunted), make.on_modified_feed, times=None)
    first_run_while_one_leaves_and_one_comes(world, come=lambda _: None, leave=world.school.delete)


def test_a_deleted_row_of_the_modified_feed_leaves_a_quiet_roster_clean(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, faults=Faults())
    world.app.faults.add(make._spoiled(haunted), make.on_modified_feed, times=None)
    assert world.sync().state is RunState.SUCCEEDED


def test_two_equal_records_without_an_id_are_counted_as_two(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.school.inject(None, {"first_name": "Nameless"})
    world.school.inject(None, {"first_name": "Nameless"})
    assert world.sync().state is RunState.SUCCEEDED


def small_pages(url: str, clock: ManualClock, switches: Switches | None = None) -> World:
    world = World(url, clock, policy=GUARD_OFF, per_page=3, size=12, faults=Faults(), switches=switches)
    world.sync()
    world.pass_time(hours=1)
    world.school.delete(max(world.upstream()))
    world.pass_time(hours=1)
    world.sync()  # so that the deleted feed has proved to work
    world.pass_time(hours=3)
    return world


@pytest.mark.parametrize("order", ["id", "updated_at"])
def test_a_total_from_a_replica_behind_does_not_make_a_modified_feed_clean(
    migrated_url: str, clock: ManualClock, order: Literal["id", "updated_at"]
) -> None:
    """Somebody leaves the first page, so that a row slips; then somebody else changes, of whom the total knows not."""
    switches = Switches(order=order, lag_seconds=0.9, lag_share=1e-12)
    world = small_pages(migrated_url, clock, switches)
    keys = sorted(world.upstream())
    for key in keys[:7]:
        world.school.update(key, nickname="Changed")
        world.pass_time(seconds=5)
    world.pass_time(hours=1)
    asked: list[Request] = []

    def happen(request: Request) -> None:
        if not make.on_modified_feed(request):
            return
        asked.append(request)
        if len(asked) == 3:
            (world.school.delete if order == "id" else world.school.touch)(keys[0])
        if len(asked) == 4:
            world.pass_time(seconds=1)
            world.school.touch(keys[9])
        world.school.switches = replace(switches, lag_share=1.0 if len(asked) == 5 else 1e-12)

    world.app.on_request = happen
    world.sync()
    world.app.on_request = None
    world.school.switches = switches
    world.pass_time(hours=1)
    world.sync()
    assert world.replica() == world.upstream()


def test_a_get_from_a_lagging_replica_does_not_make_a_modified_feed_clean(
    migrated_url: str, clock: ManualClock
) -> None:
    """Pages and feeds are fresh, GET is answered by a replica a minute behind."""
    world = small_pages(migrated_url, clock)
    keys = sorted(world.upstream())[:7]
    for k in keys:
        world.school.update(k, nickname="Changed")
    world.pass_time(hours=1)  # so that M and the overlap do not show them again
    x, lost = keys[0], keys[6]
    old = msgspec.json.encode({"student": world.school.truth()[x]})
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            world.school.delete(x)

    def lagging(exchange: make.Exchange) -> Response:
        true = exchange.proceed()
        return replace(true, status=200, body=old) if true.status == 404 else true

    world.app.on_request = happen
    world.app.faults.add(lagging, make.on_student(x), times=2)
    world.sync()
    world.app.on_request = None
    world.pass_time(hours=1)
    world.sync()
    assert world.replica()[lost].nickname == "Changed"


def test_without_a_date_a_change_read_late_in_a_run_does_not_date_its_watermark(
    migrated_url: str, clock: ManualClock
) -> None:
    """Our clock is an hour ahead, there is no Date, and the run lasts longer than the overlap."""
    world = World(
        migrated_url, clock, policy=GUARD_OFF, per_page=100, switches=Switches(date_header=False, clock_skew=-3600.0)
    )
    world.sync()
    world.pass_time(hours=2)
    one, other, gone = sorted(world.upstream())[:3]
    for k in (gone,):
        world.school.touch(k)  # something for the feed
    world.pass_time(minutes=1)
    world.school.delete(other)
    world.pass_time(minutes=1)
    state = {"n": 0}

    def slow(request: Request) -> None:
        # right after the modified feed was answered, the deleted feed is late by 20 minutes
        if request.first("deleted_since") and not state["n"]:
            state["n"] = 1
            world.school.update(one, nickname="Lost")  # just after the feed was read
            world.pass_time(minutes=20)
            world.school.restore(other)  # bumps: read by ids[] in this run

    # the deleted feed still lists him in this answer
    def still(document: dict[str, Any]) -> dict[str, Any]:
        meta = document["meta"] | {"total_count": document["meta"]["total_count"] + 1}
        return {"students": [*document["students"], {"id": other}], "meta": meta}

    world.app.faults.add(make._spoiled(still), make.on_deleted_feed, times=1)
    world.app.on_request = slow
    report = world.sync()
    assert report.state is RunState.SUCCEEDED
    assert report.kind is RunKind.INCREMENTAL
    world.app.on_request = None
    world.pass_time(hours=1)
    report = world.sync()
    assert report.state is RunState.SUCCEEDED
    assert report.kind is RunKind.INCREMENTAL
    assert world.replica()[one].nickname == "Lost"


def test_a_change_read_late_in_a_full_run_without_a_date_does_not_date_its_watermark(
    migrated_url: str, clock: ManualClock
) -> None:
    """The same in a full run: the books cannot bring the change, for the since filter lies in the future."""
    world = World(
        migrated_url, clock, policy=GUARD_OFF, per_page=5, switches=Switches(date_header=False, clock_skew=-3600.0)
    )
    one, last = sorted(world.upstream())[7], max(world.upstream())
    done: list[Any] = []

    def slow(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            world.school.update(one, nickname="Lost")
            world.pass_time(minutes=25)
            world.school.update(last, nickname="Newest")

    world.app.on_request = slow
    report = world.sync()
    world.app.on_request = None
    assert report.state is RunState.SUCCEEDED, report
    world.pass_time(hours=1)
    report = world.sync()
    assert report.kind is RunKind.INCREMENTAL
    assert world.replica()[one].nickname == "Lost"


def test_a_clock_that_was_ahead_once_does_not_switch_off_max_age(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.clock.time += timedelta(days=365)
    world.school.switches = replace(world.school.switches, clock_skew=-365 * 86400.0)
    world.sync()
    world.clock.time -= timedelta(days=365)
    world.school.switches = replace(world.school.switches, clock_skew=0.0)
    world.pass_time(days=8)
    assert world.sync().kind is RunKind.FULL


def set_servers_clock(world: World, seconds: float) -> None:
    switches = world.school.switches
    world.school.switches = replace(switches, clock_skew=switches.clock_skew + seconds)


def test_a_change_made_while_the_servers_clock_was_behind_a_watermark_that_it_has_passed_again_is_read(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.sync()
    one, other = sorted(world.upstream())[:2]
    set_servers_clock(world, -3600)
    world.school.update(one, nickname="Behind")
    world.school.delete(other)
    world.pass_time(hours=3)
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.SUCCEEDED)
    assert world.replica() == world.upstream()
    world.pass_time(hours=1)
    assert world.sync().kind is RunKind.INCREMENTAL


def test_a_fall_of_the_servers_clock_is_measured_from_the_later_watermark(
    migrated_url: str, clock: ManualClock
) -> None:
    """The deleted feed's waits with a hold, hours behind."""
    world = World(migrated_url, clock, size=40, policy=SyncPolicy(guard=GuardPolicy(max_deletions=0)))
    world.sync()
    world.school.delete(min(world.upstream()))
    for _ in range(2):
        world.pass_time(hours=3)
        assert world.sync().state is RunState.HELD
    set_servers_clock(world, -400)
    world.pass_time(seconds=10)
    assert world.sync().kind is RunKind.FULL


def test_a_clock_that_falls_little_by_little_is_measured_from_where_the_older_watermark_was_dated(
    migrated_url: str, clock: ManualClock
) -> None:
    """Each step is too small to tell, and no time passes for the watermarks to move."""
    world = World(migrated_url, clock, policy=GUARD_OFF)
    world.sync()
    kinds = []
    for _ in range(3):
        set_servers_clock(world, -250)
        world.pass_time(seconds=10)
        kinds.append(world.sync().kind)
    assert kinds == [RunKind.INCREMENTAL, RunKind.FULL, RunKind.INCREMENTAL]


def test_a_watermark_that_was_not_trusted_goes_although_removals_are_held(
    migrated_url: str, clock: ManualClock
) -> None:
    """Our clock is set back afterwards, and covers the fall of the server's."""
    world = World(migrated_url, clock, policy=SyncPolicy(guard=GuardPolicy(max_deletions=0)))
    world.sync()
    one = min(world.upstream())
    set_servers_clock(world, -1000)
    world.school.delete(one)
    world.pass_time(hours=1)
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.HELD)
    clock.time -= timedelta(hours=2)
    set_servers_clock(world, 7200)  # it stays where it is
    world.pass_time(hours=3)
    report = world.sync()
    assert (report.kind, report.state) == (RunKind.FULL, RunState.HELD)
    assert world.sync(report.kind, approves=report.run_id).state is RunState.SUCCEEDED
    assert one not in world.replica()


def test_a_fall_is_told_although_the_watermarks_were_dated_without_a_date(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF)
    one, other = sorted(world.upstream())[:2]
    world.school.touch(one)  # so that our clock is believed
    world.pass_time(minutes=2)
    world.dateless = 1.0
    world.sync()
    world.dateless = 0.0
    set_servers_clock(world, -3600)
    world.school.update(other, nickname="Behind")
    world.pass_time(hours=3)
    assert world.sync().kind is RunKind.FULL
    assert world.replica() == world.upstream()


def test_a_rise_between_the_two_feeds_that_is_taken_back_after_the_run_is_told(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(clock_skew=-7200.0))
    world.sync()
    world.pass_time(hours=3)

    def rise(request: Request) -> None:
        if request.first("deleted_since"):
            set_servers_clock(world, 5400)
            world.app.on_request = None

    world.app.on_request = rise
    assert world.sync().kind is RunKind.INCREMENTAL
    set_servers_clock(world, -5400)
    world.school.delete(min(world.upstream()))
    world.pass_time(hours=3)
    assert world.sync().kind is RunKind.FULL
    assert world.replica() == world.upstream()


def test_a_fall_amid_the_roster_hides_no_slip(migrated_url: str, clock: ManualClock) -> None:
    """Who leaves and who comes behind it bear stamps from before the windows of the feeds."""
    world = World(migrated_url, clock, policy=GUARD_OFF)
    victim = min(world.upstream())
    done: list[Any] = []

    def happen(request: Request) -> None:
        if request.first("page") == "3" and not done:
            done.append(1)
            set_servers_clock(world, -3600)
            world.school.delete(victim)
            world.school.create()

    world.app.on_request = happen
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()


def test_a_server_that_stays_where_it_is_ahead_or_behind_is_read_incrementally(
    migrated_url: str, clock: ManualClock
) -> None:
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(clock_skew=-5000.0))
    world.sync()
    world.pass_time(hours=1)
    assert world.sync().kind is RunKind.INCREMENTAL
    set_servers_clock(world, 9000)
    world.pass_time(hours=1)
    assert world.sync().kind is RunKind.INCREMENTAL
    assert world.replica() == world.upstream()


def test_the_newest_change_seen_is_kept_for_a_run_that_sees_none(migrated_url: str, clock: ManualClock) -> None:
    """Without a Date our clock is believed up to there; it was behind in the first run, and who had changed is gone."""
    world = World(migrated_url, clock, policy=GUARD_OFF, switches=Switches(date_header=False, clock_skew=3600.0))
    one = min(world.upstream())
    world.school.update(one, nickname="Newest")
    newest = world.upstream()[one].updated_at
    assert world.sync().watermarks.modified != newest
    world.school.delete(one)
    world.pass_time(minutes=5)
    assert world.sync().watermarks.modified != newest
    world.pass_time(hours=2)
    assert world.sync().watermarks.modified == newest


def test_whoever_the_first_reading_of_the_deleted_feed_listed_is_in_doubt_to_the_end(
    migrated_url: str, clock: ManualClock
) -> None:
    """Restored amid the crawl, or shown by a replica that lags behind: he could make up for a row that slipped."""
    world = World(migrated_url, clock, size=9, per_page=3, policy=SyncPolicy(attempts=1))
    last = max(world.upstream())
    world.school.delete(last)
    read: list[bool] = []

    def restore(request: Request) -> None:
        if read == [True]:
            world.school.restore(last, bump=False)
        if read or make.on_deleted_feed(request):
            read.append(True)

    world.app.on_request = restore
    assert world.full().state is RunState.INCOMPLETE
