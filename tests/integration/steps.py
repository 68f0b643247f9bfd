"""What many tests of whole runs share: a settled replica, students who leave, lists that list the wrong students."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import GUARD_OFF, World, on_past_days
from reports import ask
from sqlalchemy import select

from rostersync.models import SyncHealth
from rostersync.simulator import faults as make
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

    from rostersync.simulator.faults import Fault
    from rostersync.simulator.messages import Request

GUARD_AT_FIVE = SyncPolicy(guard=GuardPolicy(max_deletions=5))
"""More than five removals are held, and fewer where they are more than 5 % of the students."""


def settled(url: str, clock: ManualClock, **options: Any) -> World:
    """Return a school and its replica an hour after the first run. A page holds the whole list, and the guard is off.

    `options` are those of `World`, to have it otherwise.
    """
    world = World(url, clock, **{"per_page": 100, "policy": GUARD_OFF, **options})
    world.sync()
    world.pass_time(hours=1)
    return world


# What happens at the school --------------------------------------------------------------------------------------


def delete(world: World, count: int) -> list[int]:
    """Delete the first `count` students, and return their ids; five minutes pass."""
    gone = sorted(world.upstream())[:count]
    for key in gone:
        world.school.delete(key)
    world.pass_time(minutes=5)
    return gone


def before_page(world: World, number: int, event: Callable[[], object]) -> None:
    """Let `event` happen once, just before page `number` of a list is served."""

    def happen(request: Request) -> None:
        if request.first("page") == str(number):
            world.app.on_request = None
            event()

    world.app.on_request = happen


def keep_creating(world: World) -> None:
    """Let a student be created before every request, so that lists never rest."""

    def happen(_request: Request) -> None:
        world.pass_time(seconds=2)
        world.school.create()

    world.app.on_request = happen


# What the lists show ---------------------------------------------------------------------------------------------


def served(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Return a fault that answers with what `change` makes of the true answer's document."""
    return make._spoiled(change)


def with_rows(*more: dict[str, Any]) -> Fault:
    """Return a fault by which a list of one page holds these rows as well."""

    def add(document: dict[str, Any]) -> dict[str, Any]:
        rows = [*document["students"], *more]
        return {"students": rows, "meta": document["meta"] | {"total_count": len(rows), "total_pages": 1}}

    return served(add)


def listing(*keys: int) -> Fault:
    """Return a fault by which a deleted feed of one page lists these students as well."""
    return with_rows(*({"id": key} for key in keys))


def list_as_deleted(world: World, *keys: int) -> None:
    """Let the deleted feed list these students, who are alive, and nobody else."""

    def replace(document: dict[str, Any]) -> dict[str, Any]:
        meta = document["meta"] | {"total_count": len(keys), "total_pages": 1}
        return {"students": [{"id": key} for key in keys], "meta": meta}

    world.app.faults.add(served(replace), on_past_days, times=None)


# What to look at -------------------------------------------------------------------------------------------------


def asked_by_id(world: World) -> list[str]:
    """Return the paths of single students that were asked for since the requests were last looked at."""
    return [path for path, _ in world.requests() if not path.endswith("/students")]


def held_run(world: World) -> int | None:
    """Return the number of the run whose removals wait for approval; None: there is none."""
    (held,) = ask(world.url, select(SyncHealth.held_run_id))
    return int(held) if held else None
