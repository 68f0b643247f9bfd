"""Histories: days of a school and of its replica, with everything that can go wrong, made from one number.

While the history goes on, upstream changes between any two requests, requests fail, and the process dies at any step;
no run may remove a student who lives all the while. Then the faults stop, the school rests, holds are approved, one run
is made, and the replica must equal upstream.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from conftest import ManualClock
from crashes import Crash, CrashInjector
from harness import World
from msgspec.structs import replace

from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.faults import Fault, Faults, Match
from rostersync.simulator.switches import Switches
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.simulator.messages import Request
    from rostersync.simulator.state import School
    from rostersync.store.store import Store

BUSY_FOR = 60
"""For so many requests of a run the school keeps changing: a run over a school that never rests is long."""

OVERLAP = 600.0  # seconds; late commits, lag and skewed stamps together stay below it, as the design asks


@dataclass
class HistoryStats:
    """What happened in a history, for the message of a failure and for the figures of many."""

    seed: int
    runs: int = 0
    refreshes: int = 0
    crashes: int = 0
    faults: int = 0
    requests: int = 0
    held: int = 0
    incomplete: int = 0
    failed: int = 0
    needs_full: bool = False


class Diverged(AssertionError):
    """The replica is not what upstream is."""


def draw_switches(rng: random.Random) -> Switches:
    """Return one of the plausible ManageBacs."""
    feed = rng.choice(["full", "full_deleted_at", "stub", "full", "ids", "ignored", "empty"])
    return Switches(
        order=rng.choice(["id", "id", "-id", "updated_at", "-updated_at", "random"]),
        since=rng.choice(["inclusive", "exclusive"]),
        per_page_cap=rng.choice([2, 3, 5, 200]),
        past_the_end=rng.choice(["empty", "404", "repeat"]),
        pages_of_nothing=rng.choice([0, 1]),
        ids_filter=rng.choice(["honoured", "honoured", "ignored"]),
        ids_cap=rng.choice([None, None, 1, 3]),
        deleted_feed=feed,
        deleted_get=rng.choice(["404", "404", "record"]),
        delete_bumps=rng.random() < 0.1,
        restore_bumps=rng.random() < 0.85,
        archive_bumps=True,
        login_bumps=rng.random() < 0.2,
        grain_ms=rng.choice([1, 1000]),
        nulls=rng.random() < 0.1,
        # What GET alone serves must be there in its first answer, for that is what a run learns it from.
        lists_omit=rng.choice([(), (), ("parent_ids",), ("last_name", "parent_ids"), ("archived", "ui_language")]),
        get_omits=rng.choice([(), (), ("program", "house"), ("nickname",), ("year_group_id", "middle_name")]),
        status_key=rng.random() < 0.3,
        unarchive_clears_dates=rng.random() < 0.7,
        clock_skew=rng.choice([0.0, 0.0, 0.0, 40.0, -40.0, 5000.0, -5000.0]),
        date_header=rng.random() < 0.85,
        stamp_skews=rng.choice([(0.0,), (0.0,), (0.0, -90.0), (0.0, 90.0, -90.0)]),
        late_commit_seconds=rng.choice([0.0, 0.0, 0.0, 100.0]),
        late_commit_share=0.5,
        lag_seconds=rng.choice([0.0, 0.0, 0.0, 100.0]),
        lag_share=0.3,
    )


def with_maximum(switches: Switches, rng: random.Random) -> Switches:
    """Return these switches with what the server does if it is asked for more rows than it puts on a page."""
    asked: list[tuple[str, ...]] = [(), (), ("per_page",), ("per_page", "total_pages")]
    return replace(
        switches,
        per_page_cap=rng.choice([switches.per_page_cap, switches.per_page_cap, 100]),
        per_page_over_cap=rng.choice(["cut", "cut", "400", "422"]),
        meta_asked=rng.choice(asked),
    )


_MOST_RUNS = 40
"""So many runs with a budget of two are enough for all students of a history."""

STEPS = (-7200, -4000, -1000, -250, 250, 5000)
"""By how many seconds a clock is set."""

CHANGES: dict[str, Callable[[School, int, random.Random], None]] = {
    "update": lambda school, key, rng: school.update(key, nickname=f"Nick {rng.randrange(1000)}"),
    "family": lambda school, key, rng: school.update(
        key, last_name=f"Name {rng.randrange(9)}", parent_ids=[31_000_000 + rng.randrange(1000)]
    ),
    "clear": lambda school, key, _: school.clear(key, "nickname", "homeroom_advisor_id"),
    "archive": lambda school, key, _: school.archive(key, withdrawn_on="2026-03-02"),
    "unarchive": lambda school, key, _: school.unarchive(key),
    "login": lambda school, key, _: school.login(key),
}

ACTS = ("create", "update", *CHANGES, "delete", "delete", "restore", "swap", "swap")
"""What happens at a school; in a swap one leaves and one comes, so that no total shows that rows have moved."""

FAULTS: list[tuple[Callable[[], Fault], Match | None]] = [
    (lambda: make.http_status(500), None),
    (lambda: make.http_status(502, html=True), None),
    (lambda: make.rate_limited("text-utc"), None),
    (lambda: make.rate_limited("epoch"), None),
    (lambda: make.rate_limited("missing"), None),
    (make.html_200, None),
    (make.truncated_json, None),
    (make.unauthorized, None),
    (make.forbidden, None),
    (make.not_found, None),
    (make.reset, None),
    (make.never_answers, None),
    (make.empty_list, make.on_roster),  # of a feed nobody could tell such a lie from the truth
    (make.not_all_counts, make.on_list),
    (lambda: make.without_meta("total_count"), make.on_list),
]


class History:
    """One history, played once."""

    def __init__(self, seed: int, url: str, store: Store | None = None, *, maximum: bool = True) -> None:
        """Prepare a history. Without a `maximum` the server cuts pages, as in all histories of earlier versions."""
        self.rng = random.Random(seed)
        self.stats = HistoryStats(seed)
        self.clock = ManualClock(datetime(2026, 3, 2, 8, tzinfo=UTC))
        self.faults = Faults()
        rng = self.rng
        policy = SyncPolicy(
            overlap=timedelta(seconds=OVERLAP),
            max_age=rng.choice([timedelta(days=7), timedelta(hours=6)]),
            attempts=rng.choice([2, 3]),
            details_per_run=rng.choice([500, 500, 500, 2]),
            guard=GuardPolicy(rng.choice([0, 2, 25]), rng.choice([5.0, 50.0, 100.0]), rng.choice([0, 3])),
        )
        if store is not None:
            store.clock = self.clock
        size, switches, per_page = rng.choice([0, 1, 2, 3, 4, 6, 9, 13]), draw_switches(rng), rng.choice([2, 3, 5, 50])
        if maximum:
            pages = random.Random(f"pages {seed}")
            switches, per_page = with_maximum(switches, pages), pages.choice([per_page, 200])
        self.world = World(
            url,
            self.clock,
            size=size,
            seed=seed,
            switches=switches,
            faults=self.faults,
            policy=policy,
            per_page=per_page,
            safe_per_page=min(100, switches.per_page_cap),  # as small as the school and its server's maximum
            retries=rng.choice([1, 3]),
            store=store,
            source=f"h{seed}",
            shuffled=rng.random() < 0.3,
        )
        self.world.dateless = rng.choice([0.0, 0.0, 0.0, 0.2])
        self.days = rng.choice([1, 1, 1, 1, 1, 1, 2, 2, 3, 5])
        self.steps_at = rng.randrange(self.days) if rng.random() < 0.25 else None
        self.unrest = rng.choice([0.0, 0.05, 0.3])
        self.fault_share = rng.choice([0.0, 0.0, 0.03])
        self.moved: dict[int, float] = {}
        """When a student last came or went, by the monotonic clock."""
        self.happened_at = 0.0
        self.writers = random.Random(f"writers {seed}")
        self.world.app.on_request = self._before_request
        self.die_at_request = 0
        self.asked = 0

    def play(self) -> HistoryStats:
        """Play the history; raises `Diverged` when the replica does not equal upstream in the end."""
        for day in range(self.days):
            if day == self.steps_at:
                self._step_a_clock()
            self._live(self.rng.choice([0, 1, 3, 8]))
            self.world.pass_time(seconds=self.rng.choice([1, 30, 700, 4000, 30_000]))
            if self.writers.random() < 0.3:
                self._refresh()
            kept, since = self._kept(), self.clock.monotonic() - self._unseen_for()
            self._sync()
            self._require(kept, since)
            self._require_head_count()
        self._rest()
        self._final()
        return self.stats

    # What happens ------------------------------------------------------------------------------------------------

    def _before_request(self, _request: Request) -> None:
        self.stats.requests += 1
        self.asked += 1
        if self.die_at_request and self.asked >= self.die_at_request:
            raise Crash
        if self.asked <= BUSY_FOR and self.rng.random() < self.unrest:
            self._live(self.rng.choice([1, 1, 2]))
        if self.asked <= BUSY_FOR and self.writers.random() < 0.02:
            self._file_refresh()
        if self.rng.random() < self.fault_share:
            self.stats.faults += 1
            fault, match = self.rng.choice(FAULTS)
            self.faults.add(fault(), match, times=self.rng.choice([1, 1, 2, 6]))

    def _live(self, events: int) -> None:
        """Let things happen at the school."""
        self.happened_at = self.clock.monotonic()
        for _ in range(events):
            with suppress(LookupError):  # whoever is in sight may be gone already: a deletion that commits late
                self._happen(self.rng.choice(ACTS))

    def _happen(self, act: str) -> None:
        school, rng, now = self.world.school, self.rng, self.clock.monotonic()
        if act == "restore" and (gone := school.pick_deleted(rng)) is not None:
            self.stats.needs_full |= not school.switches.restore_bumps
            self.moved[gone] = now
            school.restore(gone)
            return
        someone = school.pick(rng, lambda _: True)
        if act == "create" or someone is None:
            self.moved[school.create()] = now
        elif act in CHANGES:
            CHANGES[act](school, someone, rng)
        else:
            self.moved[someone] = now
            school.delete(someone)
            if act == "swap":
                self.moved[school.create()] = now

    def _step_a_clock(self) -> None:
        """Set one of the clocks, once: what two steps undo between two runs nobody can see."""
        seconds, switches = self.rng.choice(STEPS), self.world.school.switches
        if self.rng.random() < 0.5:
            self.clock.time += timedelta(seconds=seconds)
            seconds = -seconds  # the school's clock is told by how far it is ahead of ours
        else:
            # What changes until the clock has passed the watermark again bears stamps from before it. And what is still
            # to come to light when a slow clock is put right bears stamps from long before.
            self.stats.needs_full |= seconds < -OVERLAP
            self.stats.needs_full |= seconds > OVERLAP and switches.clock_skew < 0 and self._unseen_for() > 0
        self.world.school.switches = replace(switches, clock_skew=switches.clock_skew + seconds)

    def _sync(self) -> None:
        """Have one run made by a process that may die at any step of it."""
        self.stats.runs += 1
        begun = self.clock.monotonic()
        self.asked = 0
        self.die_at_request = self.rng.choice([0, 0, 0, 0, self.rng.randrange(1, 20)])
        fuse = CrashInjector(self.world.store.engine, self.rng.choice([0, 0, 0, self.rng.randrange(1, 120)]))
        try:
            report = self.world.sync(self.rng.choice([RunKind.INCREMENTAL] * 4 + [RunKind.FULL]))
        except Crash:
            self.stats.crashes += 1
            return
        finally:
            fuse.remove()
            self.die_at_request = 0
            self.stats.needs_full |= self._pages_may_differ_since(begun)
        self._note(report.state)
        if report.state is RunState.HELD and self.rng.random() < 0.5:
            self.world.pass_time(seconds=5)
            self._note(self.world.sync(report.kind, approves=report.run_id).state)

    def _pages_may_differ_since(self, begun: float) -> bool:
        """Return whether the pages of one list may have shown different pasts of it, because a replica lagged."""
        switches = self.world.school.switches
        lags = switches.lag_seconds > 0 and self.happened_at >= begun - self._unseen_for()
        return lags and len(self.world.school.truth()) > min(switches.per_page_cap, self.world.per_page)

    def _written(self) -> list[int]:
        """Return some students who were written to: they may live, or be gone by now, or be unknown to the replica."""
        known = sorted(self.world.living_ids() | self.world.school.deleted())
        return self.writers.sample(known, min(len(known), self.writers.choice([1, 1, 2, 5])))

    def _refresh(self) -> None:
        """Have some students refreshed, by a process that may die at any step of it."""
        self.stats.refreshes += 1
        self.asked = 0
        fuse = CrashInjector(self.world.store.engine, self.writers.choice([0, 0, 0, self.writers.randrange(1, 60)]))
        try:
            self.world.executor().refresh(self.world.source, self._written(), timedelta(seconds=1), self.world.scope)
        except Crash:
            self.stats.crashes += 1
        finally:
            fuse.remove()

    def _file_refresh(self) -> None:
        """Have some students refreshed by another process, which gives up at once, amid a run or a refresh."""
        self.stats.refreshes += 1
        self.world.executor().refresh(self.world.source, self._written(), timedelta(0), self.world.scope)

    def _unseen_for(self) -> float:
        """Return for how many seconds what happens may not be seen everywhere."""
        switches = self.world.school.switches
        return switches.late_commit_seconds + switches.lag_seconds

    def _kept(self) -> set[int]:
        """Return who lives, and lives in the replica."""
        return self.world.living_ids() & self.world.replica_ids()

    def _require(self, kept: set[int], since: float) -> None:
        """Raise `Diverged` when one of these is missing who lives, and neither came nor went after `since`."""
        missing = kept & self.world.living_ids() - self.world.replica_ids()
        if wronged := {key for key in missing if self.moved.get(key, since) <= since}:
            raise Diverged(f"seed {self.stats.seed}: removed {sorted(wronged)}, who live ({self.stats})")

    def _require_head_count(self) -> None:
        """Raise `Diverged` when the replica keeps another number of students than it has."""
        kept, counted = self.world.head_count()
        if kept != counted:
            raise Diverged(f"seed {self.stats.seed}: keeps {kept} students, and has {counted} ({self.stats})")

    def _note(self, state: RunState) -> None:
        self.stats.held += state is RunState.HELD
        self.stats.incomplete += state is RunState.INCOMPLETE
        self.stats.failed += state is RunState.FAILED

    # And the end -------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Let the faults stop and the school come to rest; a list without any order is a fault."""
        self.unrest = self.fault_share = 0.0
        self.world.dateless = 0.0
        self.faults.clear()
        switches = self.world.school.switches
        calm = replace(switches, lag_share=0.0, order="id" if switches.order == "random" else switches.order)
        self.world.pass_time(seconds=3 * OVERLAP)  # so that no overlap covers what a watermark passed by
        self.world.school.switches = calm
        self.stats.needs_full |= switches.deleted_feed in {"ignored", "empty"}
        # A run that receives nobody does not ask what GET serves.
        self.stats.needs_full |= bool(switches.lists_omit) and not self.world.knows_what_get_serves()

    def _read_details(self) -> None:
        """Let runs ask for everybody who waits for GET: one run may ask for a few only."""
        for _ in range(_MOST_RUNS):
            report = self.world.sync(RunKind.FULL)
            if report.state is RunState.HELD:
                self.world.sync(report.kind, approves=report.run_id)
            if not self.world.details_waiting():
                break
        self.world.pass_time(seconds=3 * OVERLAP)

    def _final(self) -> None:
        if self.world.policy.details_per_run < _MOST_RUNS:
            self._read_details()
        kind = RunKind.FULL if self.stats.needs_full else RunKind.INCREMENTAL
        report = self.world.sync(kind)
        if report.state is RunState.HELD:
            report = self.world.sync(report.kind, approves=report.run_id)
        empty = report.state is RunState.FAILED and "no student" in (report.error or "")
        if report.state is not RunState.SUCCEEDED and not empty:
            raise Diverged(f"seed {self.stats.seed}: the last run is {report.state}: {report.error} ({self.stats})")
        self._require_head_count()
        expected, found = self.world.upstream(), self.world.replica()
        if found != expected and not empty:
            lost = sorted(expected.keys() - found.keys())
            invented = sorted(found.keys() - expected.keys())
            differ = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
            raise Diverged(
                f"seed {self.stats.seed}: lost {lost}, invented {invented}, differ {differ}"
                f" ({self.stats}, {self.world.school.switches})"
            )
