"""How a run ends: a table of situations and their consequences."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
from msgspec.structs import astuple, replace

from rostersync.errors import AccessDenied, RunFailed
from rostersync.projections import Keys
from rostersync.records import Moment
from rostersync.report import RunKind, SourceState, UnclearCounts, Watermarks
from rostersync.sync.lists import ListResult
from rostersync.sync.outcome import Facts, ListsRead, outcome_of_failure, outcome_of_lists, outcome_of_refresh
from rostersync.sync.refresh import Fetched
from rostersync.sync.removals import RemovalOutcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rostersync.errors import ApiError
    from rostersync.report import RunOutcome


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, 2, hour, minute, tzinfo=UTC)


# Before each run.
BEFORE = SourceState(
    watermarks=Watermarks(at(9), at(9, 30)),
    last_clean_modified_at=at(8),
    last_clean_full_at=at(7),
    history_starts_at=at(6),
    unknown_keys=("a1",),
    salt=b"salt",
    fingerprint=b"print",
    keys=Keys(salt=b"salt"),
    has_details=True,
)
FIRST = SourceState()
LATER = replace(BEFORE, watermarks=Watermarks(at(14), at(14, 30)))  # later than the lists of the run

# The run begins at noon by our clock. It reads first the students, and then the deletions.
STUDENTS = ListResult(clean=True, moment=Moment(at(12, 1), at(12, 1)), total=3)
DELETIONS = ListResult(clean=True, moment=Moment(at(12, 2), at(12, 2)), total=1)
NAMES_OF_TIMES = {at(12): "now", at(12, 1): "list", at(12, 2): "feed", at(12, 5): "end"}

ALL: dict[str, Any] = {}
NOT_CLEAN = {"clean": False}
EMPTY = {"total": 0}
NO_ID = {"without_ids": True}
IGNORED = {"ignored": True}
NO_DATE = {"moment": Moment(at(12, 1), None)}
HELD = RemovalOutcome(held=4, reason="too many")
UNCLEAR = UnclearCounts(total=1)
STAY = "students who could not be fetched and are left unchanged: 1"


class Situation(NamedTuple):
    decide: Callable[[SourceState], RunOutcome]
    before: SourceState = BEFORE


def lists(read: ListsRead, before: SourceState, **facts: Any) -> Situation:
    return Situation(partial(outcome_of_lists, Facts(read, started_at=at(12), finished_at=at(12, 5), **facts)), before)


def feeds(
    modified: dict[str, Any] = ALL, deleted: dict[str, Any] = ALL, before: SourceState = BEFORE, **facts: Any
) -> Situation:
    """An incremental run."""
    read = ListsRead(RunKind.INCREMENTAL, replace(STUDENTS, **modified), replace(DELETIONS, **deleted))
    return lists(read, before, **facts)


def roster(
    students: dict[str, Any] = ALL,
    deleted: dict[str, Any] = ALL,
    before: SourceState = BEFORE,
    *,
    dated: bool = True,
    in_future: bool = False,
    **facts: Any,
) -> Situation:
    """A full run."""
    students, deletions = replace(STUDENTS, **students), replace(DELETIONS, **deleted)
    return lists(ListsRead(RunKind.FULL, students, deletions, dated, in_future), before, **facts)


def refreshed(unclear: int = 0, gone: int = 0) -> Situation:
    return Situation(partial(outcome_of_refresh, Fetched(unclear, gone)))


def failed(error: ApiError | RunFailed) -> Situation:
    return Situation(partial(outcome_of_failure, RunKind.FULL, error))


SITUATIONS = {
    # Incremental runs
    "both feeds are read": feeds(),
    "modified feed not clean": feeds(NOT_CLEAN),
    "modified feed has a record without an id": feeds(NO_ID),
    "modified feed read without a Date": feeds(NO_DATE),
    "modified feed is empty": feeds(EMPTY),
    "deleted feed not clean": feeds(ALL, NOT_CLEAN),
    "deleted feed has a record without an id": feeds(ALL, NO_ID),
    "deleted feed ignores its filter": feeds(ALL, IGNORED),
    "deleted feed read without a Date": feeds(ALL, NO_DATE),
    "neither feed clean": feeds(NOT_CLEAN, NOT_CLEAN),
    "no clear answer about an id in the modified feed": feeds(unclear=UnclearCounts(total=1, received=1)),
    "no clear answer about an id in the deleted feed": feeds(unclear=UnclearCounts(total=1, in_deleted_feed=1)),
    "no clear answer about an id in neither feed": feeds(unclear=UNCLEAR),
    "removals held": feeds(removals=HELD),
    "removals held, modified feed not clean": feeds(NOT_CLEAN, removals=HELD),
    "removals carried out": feeds(removals=RemovalOutcome(removed=2, guarded=2)),
    "old watermarks later than the feeds": feeds(before=LATER),
    # Full runs
    "clean roster": roster(),
    "clean roster, first run of all": roster(before=FIRST),
    "clean roster, deleted feed not clean": roster(ALL, NOT_CLEAN),
    "clean roster, deleted feed without ids": roster(ALL, NO_ID),
    "clean roster, deleted feed ignores its filter": roster(ALL, IGNORED),
    "clean roster, first response without a Date": roster(dated=False),
    "clean roster read without a Date": roster(NO_DATE),
    "clean roster, no clear answer about one id": roster(unclear=UNCLEAR),
    "clean roster, removals held": roster(removals=HELD),
    "clean roster, old watermarks later": roster(before=LATER),
    "clean roster, old watermarks in the future": roster(before=LATER, in_future=True),
    "roster not clean": roster(NOT_CLEAN),
    "roster not clean, deleted feed without ids": roster(NOT_CLEAN, NO_ID),
    "roster not clean, watermarks in the future": roster(NOT_CLEAN, before=LATER, in_future=True),
    "roster without students": roster(EMPTY),
    "roster without an id": roster(NO_ID),
    "roster without an id, deleted feed not clean": roster(NO_ID, NOT_CLEAN),
    "roster without an id, deleted feed ignored": roster(NO_ID, IGNORED),
    "roster and deleted feed without an id": roster(NO_ID, NO_ID),
    "roster without an id, removals held": roster(NO_ID, removals=HELD),
    # Refreshes and failures
    "refresh finds all students": refreshed(),
    "refresh does not find two students": refreshed(gone=2),
    "refresh without a clear answer": refreshed(unclear=1),
    "run cannot read": failed(RunFailed("not read", "do this")),
    "token refused": failed(AccessDenied("401", "do that")),
}

# modified, deleted: the watermark moves to the start of the `list` of students, to the start of the deleted `feed`, or
#   not at all (`old`)
# clean, full: the time of the last clean reading becomes the start of this run (`now`), and the time of the last clean
#   full run its end (`end`), or they do not change (`old`)
# closes: the kinds of runs whose open plans are closed
# holds: whether removals wait for approval
# swept: whether records without an id leave the quarantine
CONSEQUENCES = """
situation                                         modified  deleted  clean  full  state       closes       holds  swept

both feeds are read                               list      feed     now    old   succeeded   incremental  -      -
modified feed not clean                           old       feed     old    old   incomplete  -            -      -
modified feed has a record without an id          old       feed     old    old   incomplete  -            -      -
modified feed read without a Date                 old       feed     now    old   succeeded   incremental  -      -
modified feed is empty                            list      feed     now    old   succeeded   incremental  -      -
deleted feed not clean                            list      old      now    old   incomplete  -            -      -
deleted feed has a record without an id           list      old      now    old   incomplete  -            -      -
deleted feed ignores its filter                   list      old      now    old   succeeded   -            -      -
deleted feed read without a Date                  list      old      now    old   succeeded   incremental  -      -
neither feed clean                                old       old      old    old   incomplete  -            -      -
no clear answer about an id in the modified feed  old       feed     old    old   incomplete  -            -      -
no clear answer about an id in the deleted feed   list      old      now    old   incomplete  -            -      -
no clear answer about an id in neither feed       list      feed     now    old   incomplete  -            -      -
removals held                                     list      old      now    old   held        -            yes    -
removals held, modified feed not clean            old       old      old    old   incomplete  -            yes    -
removals carried out                              list      feed     now    old   succeeded   incremental  -      -
old watermarks later than the feeds               old       old      now    old   succeeded   incremental  -      -

clean roster                                      list      list     now    end   succeeded   all          -      yes
clean roster, first run of all                    list      list     now    end   succeeded   all          -      yes
clean roster, deleted feed not clean              list      list     now    end   succeeded   all          -      yes
clean roster, deleted feed without ids            list      list     now    end   succeeded   all          -      yes
clean roster, deleted feed ignores its filter     list      list     now    end   succeeded   all          -      yes
clean roster, first response without a Date       old       old      now    end   succeeded   all          -      yes
clean roster read without a Date                  old       old      now    end   succeeded   all          -      yes
clean roster, no clear answer about one id        old       old      old    old   incomplete  -            -      yes
clean roster, removals held                       list      old      now    old   held        -            yes    yes
clean roster, old watermarks later                old       old      now    end   succeeded   all          -      yes
clean roster, old watermarks in the future        list      list     now    end   succeeded   all          -      yes
roster not clean                                  old       old      old    old   incomplete  -            -      -
roster not clean, deleted feed without ids        old       old      old    old   incomplete  -            -      -
roster not clean, watermarks in the future        old       old      old    old   incomplete  -            -      -
roster without students                           old       old      old    old   succeeded   -            -      -
roster without an id                              list      list     now    old   succeeded   -            -      -
roster without an id, deleted feed not clean      list      old      now    old   succeeded   -            -      -
roster without an id, deleted feed ignored        list      old      now    old   succeeded   -            -      -
roster and deleted feed without an id             list      old      now    old   incomplete  -            -      -
roster without an id, removals held               list      old      now    old   held        -            yes    -

refresh finds all students                        old       old      old    old   succeeded   -            -      -
refresh does not find two students                old       old      old    old   succeeded   -            -      -
refresh without a clear answer                    old       old      old    old   incomplete  -            -      -
run cannot read                                   old       old      old    old   failed      -            -      -
token refused                                     old       old      old    old   failed      -            -      -
"""
HEADINGS, *ROWS = (re.split(r"\s{2,}", line) for line in CONSEQUENCES.splitlines() if line)


def times_of(source: SourceState) -> tuple[datetime | None, ...]:
    return *astuple(source.watermarks), source.last_clean_modified_at, source.last_clean_full_at


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_situation_has_these_consequences(row: list[str]) -> None:
    situation = SITUATIONS[row[0]]
    outcome = situation.decide(situation.before)
    pairs = zip(times_of(outcome.source), times_of(situation.before), strict=True)
    times = ["old" if after == before else NAMES_OF_TIMES[after] for after, before in pairs]
    plans = "all" if outcome.closes_plans == set(RunKind) else " ".join(sorted(outcome.closes_plans)) or "-"
    found = [*times, outcome.state, plans, *("yes" if fact else "-" for fact in (outcome.holds, outcome.swept))]
    assert dict(zip(HEADINGS, [row[0], *found], strict=True)) == dict(zip(HEADINGS, row, strict=True))


def test_each_situation_is_in_the_table() -> None:
    assert [row[0] for row in ROWS] == list(SITUATIONS)


# Why a run is not a success, in the situations of the table.
ERRORS = {
    "modified feed not clean": "the modified feed kept changing while it was read",
    "modified feed has a record without an id": "the modified feed lists records without a readable id",
    "deleted feed not clean": "the deleted feed kept changing while it was read",
    "deleted feed has a record without an id": "the deleted feed lists records without a readable id",
    "neither feed clean": "the modified feed kept changing while it was read; "
    "the deleted feed kept changing while it was read",
    "no clear answer about an id in the modified feed": STAY,
    "no clear answer about an id in the deleted feed": STAY,
    "no clear answer about an id in neither feed": STAY,
    "removals held": "too many",
    "removals held, modified feed not clean": "the modified feed kept changing while it was read; too many",
    "clean roster, no clear answer about one id": STAY,
    "clean roster, removals held": "too many",
    "roster not clean": "the roster kept changing while it was read",
    "roster not clean, deleted feed without ids": "the roster kept changing while it was read; "
    "the deleted feed lists records without a readable id",
    "roster not clean, watermarks in the future": "the roster kept changing while it was read",
    "roster and deleted feed without an id": "the deleted feed lists records without a readable id",
    "roster without an id, removals held": "too many",
    "refresh without a clear answer": STAY,
    "run cannot read": "not read",
    "token refused": "401",
}

# What a run reports besides.
NOTICES = {
    "clean roster, first response without a Date": "the server sends no Date: watermarks do not move, and every run "
    "reads everything until it does",
    "roster without students": "the API lists no students: is the token allowed to see them? The next run reads "
    "everything again",
    **dict.fromkeys(
        [name for name in SITUATIONS if re.match("roster (and deleted feed )?without an id", name)],
        "the roster has a record without a readable id, so only the deleted feed can show who has left",
    ),
    "refresh does not find two students": "students who were not found and are left unchanged until the next run: 2",
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_situation_is_explained(name: str) -> None:
    decide, before = SITUATIONS[name]
    outcome = decide(before)
    assert (outcome.error, outcome.notices) == (ERRORS.get(name), (NOTICES[name],) if name in NOTICES else ())


def test_a_failure_has_a_hint_and_says_whether_the_token_was_refused() -> None:
    outcomes = [decide(before) for decide, before in (SITUATIONS["run cannot read"], SITUATIONS["token refused"])]
    assert [(outcome.hint, outcome.was_denied) for outcome in outcomes] == [("do this", False), ("do that", True)]


@pytest.mark.parametrize(
    ("name", "kind"), [("both feeds are read", "incremental"), ("clean roster", "full"), ("run cannot read", "full")]
)
def test_an_outcome_has_the_kind_of_its_run(name: str, kind: str) -> None:
    decide, before = SITUATIONS[name]
    assert decide(before).kind == kind


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_other_fact_about_the_source_changes(name: str) -> None:
    decide, before = SITUATIONS[name]
    expected = before if before.history_starts_at else replace(before, history_starts_at=at(12, 5))
    dates = {name: getattr(before, name) for name in ("watermarks", "last_clean_modified_at", "last_clean_full_at")}
    assert replace(decide(before).source, **dates, deleted_feed_ignored=False) == expected


def test_the_source_remembers_whether_its_deleted_feed_ignores_the_filter() -> None:
    before = replace(BEFORE, deleted_feed_ignored=True)
    assert SITUATIONS["deleted feed ignores its filter"].decide(BEFORE).source.deleted_feed_ignored
    assert not SITUATIONS["both feeds are read"].decide(before).source.deleted_feed_ignored


def test_removals_that_no_approval_covers_count_for_the_guard() -> None:
    assert SITUATIONS["removals carried out"].decide(BEFORE).guarded == 2


def test_all_notices_have_an_order() -> None:
    situation = roster(
        NO_ID,
        dated=False,
        removals=RemovalOutcome(unproved=(7, 8)),
        odd_values={"gender": 1, "archived": 2},
        assumes_utc=True,
    )
    assert situation.decide(BEFORE).notices == (
        "student 7 of the approved plan could not be proven gone, and stays in the replica",
        "student 8 of the approved plan could not be proven gone, and stays in the replica",
        NOTICES["clean roster, first response without a Date"],
        NOTICES["roster without an id"],
        "some values do not fit their fields and are kept in extra; records by field: archived 2, gender 1",
        "the API sends an updated_at without an offset from UTC; it is taken as UTC",
    )
