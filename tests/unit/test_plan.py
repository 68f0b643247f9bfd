"""Watermarks, clocks and windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rostersync.records import Moment
from rostersync.report import RunKind, SourceState, Watermarks
from rostersync.sync import plan
from rostersync.sync.plan import SyncPolicy

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = SyncPolicy()


def known(
    modified: datetime | None = NOON, deleted: datetime | None = NOON, clean: datetime | None = NOON
) -> SourceState:
    return SourceState(watermarks=Watermarks(modified, deleted), last_clean_modified_at=clean)


def test_a_source_that_was_read_before_is_read_incrementally() -> None:
    assert plan.choose(RunKind.INCREMENTAL, known(), NOON, POLICY) is RunKind.INCREMENTAL
    assert plan.choose(RunKind.INCREMENTAL, known(), NOON + POLICY.max_age, POLICY) is RunKind.INCREMENTAL


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
    assert plan.choose(RunKind.INCREMENTAL, state, NOON, POLICY) is RunKind.FULL


def test_a_full_run_that_was_asked_for_is_full() -> None:
    assert plan.choose(RunKind.FULL, known(), NOON, POLICY) is RunKind.FULL


def test_a_filter_asks_from_the_whole_second_before_the_overlap() -> None:
    moment = NOON + timedelta(milliseconds=750)
    assert plan.since(moment, timedelta(minutes=10)) == NOON - timedelta(minutes=10, seconds=1)


def test_a_watermark_is_the_earlier_of_both_clocks() -> None:
    ahead, behind = NOON + HOUR, NOON - HOUR
    assert Moment(NOON, ahead).start(None) == NOON
    assert Moment(NOON, behind).start(None) == behind


def test_without_a_date_our_clock_is_believed_no_further_than_the_newest_change_seen() -> None:
    undated = Moment(NOON, None)
    assert undated.start(NOON + HOUR) == NOON - timedelta(seconds=60)
    assert undated.start(NOON - HOUR) == NOON - HOUR
    assert undated.start(None) is None


def test_a_watermark_never_goes_back_unless_it_is_replaced() -> None:
    assert plan.advance(NOON, NOON - HOUR) == NOON
    assert plan.advance(NOON, NOON + HOUR) == NOON + HOUR
    assert plan.advance(NOON, NOON - HOUR, replace=True) == NOON - HOUR
    assert plan.advance(NOON, None) == NOON
    assert plan.advance(NOON, None, replace=True) is None
    assert plan.advance(None, NOON) == NOON


def state_of(modified: datetime, deleted: datetime, ahead: float | None = None) -> SourceState:
    return SourceState(watermarks=Watermarks(modified, deleted), server_ahead_s=ahead)


def test_a_watermark_in_the_servers_future_by_more_than_the_overlap_is_not_trusted() -> None:
    overlap, second = timedelta(minutes=10), timedelta(seconds=1)
    near, far = Moment(NOON, NOON - overlap), Moment(NOON, NOON - overlap - second)
    assert plan.trusted(state_of(NOON, NOON), near, overlap)
    assert not plan.trusted(state_of(NOON, NOON), far, overlap)
    assert not plan.trusted(state_of(NOON - HOUR, NOON), far, overlap)
    assert not plan.trusted(state_of(NOON, NOON - HOUR), far, overlap)
    assert plan.trusted(SourceState(), far, overlap)


def test_watermarks_are_not_trusted_once_the_servers_clock_has_fallen_by_more_than_half_the_overlap() -> None:
    overlap, old = timedelta(minutes=10), NOON - 8 * HOUR
    behind, further = Moment(NOON, NOON - overlap / 2), Moment(NOON, NOON - overlap / 2 - timedelta(seconds=1))
    assert plan.trusted(state_of(old, old, 0.0), behind, overlap)
    assert not plan.trusted(state_of(old, old, 0.0), further, overlap)
    assert plan.trusted(state_of(old, old), further, overlap)
    assert plan.trusted(state_of(old, old, 0.0), Moment(NOON, None), overlap)
    assert plan.trusted(state_of(old, old, -300.0), further, overlap)


def test_the_server_has_to_stay_ahead_by_as_much_as_a_watermark_is() -> None:
    dated, undated = Moment(NOON, NOON), Moment(NOON, None)
    assert plan.lead(NOON - HOUR, dated, 0.0) == -3600.0
    assert plan.lead(NOON - HOUR, undated, 0.0) == 0.0
    assert plan.lead(NOON - HOUR, undated, None) == -3600.0
    assert plan.lead(None, dated, 0.0) is None
