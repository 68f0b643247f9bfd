"""The crawl: a clean one has lost nobody, and each term of the books is needed for that."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from model import EPOCH, ORDERS, MemoryStage, ModelSchool

from rostersync.records import Query
from rostersync.report import SourceState
from rostersync.sync.crawl import Books, Crawler
from rostersync.sync.plan import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

CRAWLS = 400


def school_of(size: int, order: str = "id", per_page: int = 3) -> ModelSchool:
    school = ModelSchool(order, per_page)
    for _ in range(size):
        school.create()
        school.pass_time(1)
    school.pass_time(3600)
    return school


def crawler(school: ModelSchool, stage: MemoryStage, attempts: int = 3) -> Crawler:
    return Crawler(school, stage, SourceState(), Policy(attempts=attempts))


def at_request(school: ModelSchool, number: int, event: Callable[[], object]) -> None:
    """Let `event` happen just before the request of this number (from 1)."""

    def happen() -> None:
        school.pass_time(1)
        if school.requests + 1 == number:
            event()

    school.happen = happen


# The roster ------------------------------------------------------------------------------------------------------


def test_one_page_that_holds_the_whole_list_is_clean_after_one_request() -> None:
    school, stage = school_of(3), MemoryStage()
    assert crawler(school, stage).roster().clean
    assert school.requests == 1


def test_a_quiet_roster_is_clean_after_its_pages_and_seven_more_requests() -> None:
    school, stage = school_of(9), MemoryStage()
    roster = crawler(school, stage).roster()
    assert roster.clean
    assert set(stage.rows) == set(range(1, 10))
    assert school.requests == 3 + 7


# A quiet crawl of nine students, three a page, asks: page 1, M, page 1, D, page 2, page 3, M, D, T, D.
M_EARLY, PAGE_1, PAGE_2, PAGE_3, M, D, T, D_AGAIN = 2, 3, 5, 6, 7, 8, 9, 10


@pytest.mark.parametrize("moment", [M_EARLY, PAGE_1, PAGE_2, PAGE_3, M, D, T, D_AGAIN])
def test_a_deletion_at_any_moment_loses_nobody(moment: int) -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, moment, lambda: school.delete(1))
    roster = crawler(school, stage).roster()
    assert roster.clean
    assert set(range(2, 10)) <= set(stage.rows)


@pytest.mark.parametrize("moment", [M_EARLY, PAGE_1, PAGE_2, PAGE_3, M, D, T, D_AGAIN])
def test_an_unseen_removal_that_lets_a_row_slip_is_never_clean_at_once(moment: int) -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, moment, lambda: school.delete(1, unseen=True))
    roster = crawler(school, stage, attempts=1).roster()
    assert not roster.clean or set(range(2, 10)) <= set(stage.rows)


def test_a_row_that_slipped_is_caught_by_a_crawl_in_the_other_direction() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, PAGE_3, lambda: school.delete(1, unseen=True))
    roster = crawler(school, stage).roster()
    assert roster.clean
    assert set(stage.rows) == set(range(2, 10))


def test_a_student_created_after_the_changes_were_read_makes_the_sum_too_small() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, T, school.create)
    roster = crawler(school, stage).roster()
    assert roster.clean
    assert 10 in stage.rows
    assert school.requests > D_AGAIN


def test_a_student_restored_right_after_the_total_was_read_leaves_the_crawl_unclean() -> None:
    """He makes the sum larger, and a row that slipped smaller: only the second reading of the feed tells."""
    school, stage = school_of(9), MemoryStage()
    gone = {}

    def happen() -> None:
        number = school.requests + 1
        if number == PAGE_3:  # the first of page 3 slips, and nothing tells of it
            gone[1] = school.delete(1, unseen=True)
        if number == D:
            school.pass_time(1)
            gone[2] = school.delete(2)
        if number == D_AGAIN:
            school.restore(gone[2])

    school.happen = happen
    roster = crawler(school, stage, attempts=1).roster()
    assert not roster.clean or set(school.living) <= set(stage.rows)


def test_pages_that_change_their_size_are_read_anew() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, PAGE_3, lambda: setattr(school, "per_page", 2))
    assert crawler(school, stage).roster().clean
    assert crawler(school_of(9), MemoryStage()).roster().clean


def test_a_roster_that_never_rests_ends_unclean_after_a_bounded_number_of_requests() -> None:
    school, stage = school_of(9), MemoryStage()
    school.happen = lambda: (school.pass_time(1), school.create())[0]
    assert not crawler(school, stage).roster().clean
    assert school.requests < 400


@pytest.mark.parametrize(
    "books",
    [
        Books(sighted=9, gone=0, gone_differently=0, total=10, largest=10, entered=0, departed=0),
        Books(sighted=10, gone=0, gone_differently=0, total=9, largest=10, entered=0, departed=0),
        Books(sighted=10, gone=1, gone_differently=1, total=9, largest=10, entered=0, departed=1),
        Books(sighted=10, gone=0, gone_differently=0, total=10, largest=11, entered=0, departed=0),
        Books(sighted=10, gone=0, gone_differently=0, total=10, largest=10, entered=1, departed=0),
    ],
)
def test_each_figure_of_the_books_can_make_a_crawl_unclean(books: Books) -> None:
    assert not books.balance


def test_books_whose_departures_are_explained_balance() -> None:
    assert Books(sighted=10, gone=1, gone_differently=0, total=9, largest=10, entered=0, departed=1).balance
    assert Books(sighted=10, gone=0, gone_differently=0, total=10, largest=10, entered=0, departed=0).balance


def live_on(school: ModelSchool, unseen: float) -> None:
    """Let a few things happen, as they do at a school between two requests."""
    rng = school.rng
    for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2])):
        school.pass_time(rng.choice([0, 0, 1]))
        act = rng.choice("cuudd")
        anyone = rng.choice(list(school.living) or [0])
        if act == "c":
            school.create()
        elif act == "u" and school.living:
            school.update(anyone)
        elif act == "d" and len(school.living) > 1:
            school.delete(anyone, unseen=rng.random() < unseen)


@pytest.mark.parametrize("unseen", [0.0, 0.3, 1.0])
def test_no_clean_crawl_of_a_school_that_changes_between_all_requests_has_lost_a_student(unseen: float) -> None:
    clean = 0
    for seed in range(CRAWLS):
        rng = random.Random(seed)
        school = ModelSchool(rng.choice([*ORDERS, "shuffled"]), rng.choice([2, 3, 4, 7]), rng)
        for _ in range(rng.randrange(3, 40)):
            school.create()
            school.pass_time(1)
        school.pass_time(3600)
        before, start = set(school.living), school.time
        school.happen = lambda school=school: live_on(school, unseen)  # type: ignore[misc]
        stage = MemoryStage(before)
        if not crawler(school, stage).roster().clean:
            continue
        clean += 1
        unchanged = {key for key, row in school.living.items() if row.updated_at and row.updated_at < start}
        gone = {key for key, proof in stage.proofs.items() if proof == "gone"}
        assert unchanged <= set(stage.rows) - gone, f"seed {seed}"
    assert clean > CRAWLS // 20


# The feeds -------------------------------------------------------------------------------------------------------


def test_a_modified_feed_over_several_pages_is_read_twice() -> None:
    school, stage = school_of(9), MemoryStage()
    assert crawler(school, stage).modified(EPOCH, feed_proven=False).clean
    assert school.requests == 6


def test_a_modified_feed_whose_readings_never_agree_is_not_clean_without_a_working_deleted_feed() -> None:
    school, stage = school_of(9), MemoryStage()
    school.happen = lambda: (school.pass_time(1), school.update(1))[0]
    assert not crawler(school, stage).modified(EPOCH, feed_proven=False).clean


def test_the_books_make_a_busy_modified_feed_clean_where_the_deleted_feed_works() -> None:
    school, stage = school_of(9, order="-updated"), MemoryStage()
    school.happen = lambda: (school.pass_time(1), school.update(1))[0]
    assert crawler(school, stage).modified(EPOCH, feed_proven=True).clean
    assert set(stage.rows) == set(range(1, 10))


def test_a_deleted_feed_that_lists_the_living_is_read_no_further() -> None:
    school, stage = school_of(30, per_page=12), MemoryStage()
    honest = school._rows
    school._rows = lambda query: honest(Query() if query.deleted_since else query)  # type: ignore[method-assign]
    feed = crawler(school, stage).deleted(EPOCH, live=30)
    assert feed.ignored
    assert not feed.explains
    assert stage.listed() == set()
    assert school.requests == 2


def test_a_deleted_feed_of_many_departed_is_believed() -> None:
    school, stage = school_of(40, per_page=50), MemoryStage()
    for key in range(1, 31):
        school.delete(key)
    feed = crawler(school, stage).deleted(EPOCH, live=40)
    assert feed.clean
    assert not feed.ignored
    assert len(stage.listed()) == 30
