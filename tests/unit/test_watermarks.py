"""Watermarks, clocks and windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rostersync.records import Moment
from rostersync.report import RunKind, SourceState, Watermarks
from rostersync.sync import watermarks
from rostersync.sync.watermarks import SyncPolicy

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = SyncPolicy()


def known(
    modified: datetime | None = NOON, deleted: datetime | None = NOON, clean: datetime | None = NOON
) -> SourceState:
    return SourceState(watermarks=Watermarks(modified, deleted), last_clean_modified_at=clean)


def test_a_source_that_was_read_before_is_read_incrementally() -> None:
    assert watermarks.choose(RunKind.INCREMENTAL, known(), NOON, POLICY) is RunKind.INCREMENTAL
    assert watermarks.choose(RunKind.INCREMENTAL, known(), NOON + POLICY.max_age, POLICY) is RunKind.INCREMENTAL


@pytest.mark.parametrize(
    "state",
    [
        SourceState(),
        known(modified=None),
        known(deleted=None),
        known(clean=NOON - timedelta(days=7, seconds=1)),
        known(clean=NOON + HOUR),  # our clock was ahead then: nobody knows how long ago it was
    ],
)
def test_a_missing_watermark_or_a_long_absence_makes_the_run_full(state: SourceState) -> None:
    assert watermarks.choose(RunKind.INCREMENTAL, state, NOON, POLICY) is RunKind.FULL


def test_a_full_run_that_was_asked_for_is_full() -> None:
    assert watermarks.choose(RunKind.FULL, known(), NOON, POLICY) is RunKind.FULL


def test_a_filter_asks_from_the_whole_second_before_the_overlap() -> None:
    moment = NOON + timedelta(milliseconds=750)
    assert watermarks.filter_start(moment, timedelta(minutes=10)) == NOON - timedelta(minutes=10, seconds=1)


def test_a_list_dates_from_the_earlier_of_both_clocks() -> None:
    ahead, behind = NOON + HOUR, NOON - HOUR
    assert Moment(NOON, ahead).start == NOON
    assert Moment(NOON, behind).start == behind


def test_without_a_date_nothing_is_dated() -> None:
    assert Moment(NOON, None).start is None


def test_a_watermark_never_goes_back_unless_it_is_replaced() -> None:
    assert watermarks.advance(NOON, NOON - HOUR) == NOON
    assert watermarks.advance(NOON, NOON + HOUR) == NOON + HOUR
    assert watermarks.advance(NOON, NOON - HOUR, replace=True) == NOON - HOUR
    assert watermarks.advance(NOON, None) == NOON
    assert watermarks.advance(NOON, None, replace=True) == NOON
    assert watermarks.advance(None, NOON) == NOON


OVERLAP = timedelta(minutes=10)
FUTURE = NOON + OVERLAP + timedelta(seconds=1)


@pytest.mark.parametrize("marks", [Watermarks(FUTURE, NOON), Watermarks(NOON, FUTURE), Watermarks(None, FUTURE)])
def test_a_watermark_is_in_the_future_when_it_is_later_than_the_servers_clock_by_more_than_the_overlap(
    marks: Watermarks,
) -> None:
    assert watermarks.in_future(marks, Moment(NOON - 8 * HOUR, NOON), OVERLAP)
    assert not watermarks.in_future(marks, Moment(NOON - 8 * HOUR, NOON + timedelta(seconds=1)), OVERLAP)


def test_without_a_date_or_watermarks_nothing_is_in_the_future() -> None:
    assert not watermarks.in_future(Watermarks(FUTURE, FUTURE), Moment(NOON - 8 * HOUR, None), OVERLAP)
    assert not watermarks.in_future(Watermarks(), Moment(NOON, NOON), OVERLAP)
