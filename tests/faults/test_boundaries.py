"""A process that dies at any boundary of a run, and a reader who looks at each: the roster is old, or it is new."""

from __future__ import annotations

import os
import random
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from crashes import Crash, CrashInjector
from harness import World

from rostersync.report import RunKind, RunState
from rostersync.simulator import churn
from rostersync.simulator.switches import Switches
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

pytestmark = pytest.mark.long

RUNS = int(os.environ.get("ROSTERSYNC_TEST_BOUNDARIES", "2"))
"""How many different runs are killed at each of their steps, on each database."""


class Day:
    """A school and its replica on the eve of a run, which follows from the seed: of either kind, or an approval."""

    def __init__(self, url: str, clock: ManualClock, seed: int) -> None:
        rng = random.Random(seed)
        switches = Switches(
            deleted_feed=rng.choice(["full", "full_deleted_at", "stub", "ids"]),
            ids_filter=rng.choice(["honoured", "ignored"]),
            order=rng.choice(["id", "-updated_at"]),
        )
        approval = rng.random() < 0.25
        policy = SyncPolicy(guard=GuardPolicy(0 if approval else 1000, max_deletion_percent=100))
        self.world = World(
            url,
            clock,
            size=rng.randrange(3, 14),
            seed=seed,
            switches=switches,
            policy=policy,
            per_page=rng.choice([2, 5, 50]),
        )
        self.world.sync()
        self.world.pass_time(hours=1)
        churn(self.world.school, rng, rng.randrange(1, 9))
        if approval:
            self.world.school.delete(min(self.world.upstream()))
        self.world.pass_time(minutes=5)
        self.kind = rng.choice([RunKind.INCREMENTAL, RunKind.FULL])
        self.approves: int | None = None
        if approval:
            held = self.world.sync(self.kind)
            assert held.state is RunState.HELD
            self.approves = held.run_id

    def run(self, at_step: Callable[[], None] | None = None, *, die_at: int = 0) -> bool:
        """Have the run done, and `at_step` at each request, statement and commit; tell whether it came to its end."""
        fuse = CrashInjector(self.world.store.engine, die_at, at_step)
        self.world.app.on_request = fuse.step
        try:
            self.world.sync(self.kind, self.approves)
        except Crash:
            return False
        finally:
            fuse.remove()
            self.world.app.on_request = None
        return True


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(RUNS))
def test_a_process_that_dies_at_any_request_statement_or_commit_leaves_the_old_roster_or_all_of_the_new(
    migrated_url: str, clock: ManualClock, seed: int
) -> None:
    day = Day(migrated_url, clock, seed)
    before = day.world.snapshot()
    for step in count(1):
        if day.run(die_at=step):
            break
        after = day.world.snapshot()
        if after != before:  # committed: what follows is tidying up
            assert len(after["sync_run"]) == len(before["sync_run"]) + 1, f"seed {seed}, step {step}"
            break
    assert step > 20
    day.world.pass_time(minutes=5)
    report = day.world.sync()
    if report.state is RunState.HELD:
        report = day.world.sync(report.kind, report.run_id)
    assert report.state is RunState.SUCCEEDED, f"seed {seed}"
    assert day.world.replica() == day.world.upstream(), f"seed {seed}"


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_reader_who_looks_at_every_step_of_a_run_sees_the_roster_of_before_and_then_that_of_after(
    migrated_url: str, clock: ManualClock, seed: int
) -> None:
    day = Day(migrated_url, clock, seed)
    seen: list[dict[str, list[tuple[Any, ...]]]] = [day.world.snapshot()]

    def look() -> None:
        if (sight := day.world.snapshot()) != seen[-1]:
            seen.append(sight)

    assert day.run(look)
    look()
    assert len(seen) == 2, f"seed {seed}"
