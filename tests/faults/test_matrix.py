"""Every fault at every place of a run: the replica is old, new or honest, and then exact again.

The cases on PostgreSQL are marked `long`, because a fault of a request rarely depends on the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from conftest import ManualClock
from harness import GUARD_OFF, World, on_past_days

from rostersync.managebac.wire.http import MAX_BYTES
from rostersync.report import RunKind, RunState
from rostersync.simulator import faults as make
from rostersync.simulator.faults import Faults
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.simulator.faults import Fault, Match
    from rostersync.simulator.messages import Request

FAULTS: dict[str, Callable[[], Fault]] = {
    "500": lambda: make.http_status(500),
    "502 in HTML": lambda: make.http_status(502, html=True),
    "400": lambda: make.http_status(400, html=False),
    "401": make.unauthorized,
    "403": make.forbidden,
    "404": make.not_found,
    "404 in HTML": lambda: make.not_found(html=True),
    "redirect": lambda: make.redirect("https://elsewhere.invalid/"),
    "429 as text": lambda: make.rate_limited("text-utc"),
    "429 as epoch": lambda: make.rate_limited("epoch"),
    "429 as ISO 8601": lambda: make.rate_limited("iso"),
    "429 as seconds": lambda: make.rate_limited("seconds"),
    "429 with Retry-After": lambda: make.rate_limited("retry-after"),
    "429 with a date to retry after": lambda: make.rate_limited("retry-after-date"),
    "429 with garbage": lambda: make.rate_limited("garbage"),
    "429 with nothing": lambda: make.rate_limited("missing"),
    "HTML with 200": make.html_200,
    "truncated JSON": make.truncated_json,
    "deep JSON": lambda: make.deep_json(5_000),
    "oversize": lambda: make.oversize(MAX_BYTES + 1),
    "gzip bomb": lambda: BOMB,
    "reset": make.reset,
    "no answer": make.never_answers,
    "slow drip": make.slow_drip,
    "no meta": lambda: make.without_meta("total_count", "total_pages"),
    "nobody beside a count": make.not_all_counts,
}

BOMB = make.gzip_bomb(4 * MAX_BYTES)

SPELLINGS = {
    "429 as ISO 8601",
    "429 as seconds",
    "429 with Retry-After",
    "429 with a date to retry after",
    "429 with garbage",
}
ON_LISTS_ONLY = {"no meta", "nobody beside a count"}


def on_roster_page(number: int) -> Match:
    def match(request: Request) -> bool:
        return make.on_roster(request) and make.on_page(number)(request)

    return match


def on_a_day_to_come(request: Request) -> bool:
    """Match the question whether the deleted feed ignores its filter."""
    return make.on_deleted_feed(request) and not on_past_days(request)


PLACES: dict[str, tuple[RunKind, Match]] = {
    "first page": (RunKind.FULL, on_roster_page(1)),
    "middle page": (RunKind.FULL, on_roster_page(2)),
    "last page": (RunKind.FULL, on_roster_page(3)),
    "modified feed": (RunKind.INCREMENTAL, make.on_modified_feed),
    "deleted feed": (RunKind.INCREMENTAL, on_past_days),
    "filter's question": (RunKind.INCREMENTAL, on_a_day_to_come),
    "list by ids": (RunKind.INCREMENTAL, make.on_ids),
    "proof": (RunKind.INCREMENTAL, make.on_student()),
}


ALL = [
    (fault, place, times)
    for fault in FAULTS
    for place in PLACES
    for times in (1, None)
    # A single student has no meta; and the ways to tell how long to wait differ only where waiting helps.
    if not (fault in ON_LISTS_ONLY and place == "proof") and not (fault in SPELLINGS and times is None)
]


@pytest.fixture(scope="module")
def shared_store(shared_url: str) -> tuple[str, Store]:
    """One store for all cases: the statements of a run are compiled once."""
    return shared_url, Store(shared_url, ManualClock())


DATABASES = {"sqlite": (), "postgresql": (pytest.mark.long,)}


@pytest.mark.parametrize(
    ("fault", "place", "times", "shared_url"),
    [
        pytest.param(
            fault, place, times, kind, id=f"{fault}-{place}-{'once' if times else 'always'}-{kind}", marks=marks
        )
        for kind, marks in DATABASES.items()
        for fault, place, times in ALL
    ],
    indirect=["shared_url"],
)
def test_a_fault_loses_nothing_and_removes_nobody_alive(
    shared_store: tuple[str, Store], clock: ManualClock, fault: str, place: str, times: int | None
) -> None:
    kind, match = PLACES[place]
    faults = Faults()
    url, store = shared_store
    store.clock = clock
    source = f"s{uuid4().hex[:12]}"
    world = World(url, clock, size=12, faults=faults, policy=GUARD_OFF, source=source, store=store)
    world.sync()
    world.pass_time(hours=1)
    living = sorted(world.upstream())
    world.school.update(living[3], nickname="Changed")
    world.school.delete(living[0])
    world.pass_time(minutes=5)
    before = world.replica()

    faults.add(FAULTS[fault](), match, times=times)
    report = world.sync(kind)
    assert faults.fired > 0
    assert set(world.upstream()) <= set(world.replica())
    if report.state is RunState.SUCCEEDED:
        assert world.replica() == world.upstream()
    if report.state is RunState.FAILED:
        assert world.replica() == before
        assert report.error

    faults.clear()
    world.pass_time(minutes=5)
    assert world.sync().state is RunState.SUCCEEDED
    assert world.replica() == world.upstream()
