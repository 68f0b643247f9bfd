"""The crawl: a clean one has lost nobody, and each term of the books is needed for that."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from model import EPOCH, ORDERS, MemoryStage, ModelSchool

from rostersync.errors import DECLINED
from rostersync.records import Moment, Query, Rejected, Student
from rostersync.report import SourceState, Watermarks
from rostersync.sync.lists import Books, Crawler
from rostersync.sync.plan import SyncPolicy, since

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rostersync.errors import ApiError
    from rostersync.records import Page

CRAWLS = 400

MAX_AHEAD = datetime(9999, 12, 30, tzinfo=UTC) - EPOCH
"""How far a server's clock may be ahead at most: a `Date` knows years of four digits."""


def school_of(size: int, order: str = "id", per_page: int = 3) -> ModelSchool:
    school = ModelSchool(order, per_page)
    for _ in range(size):
        school.create()
        school.pass_time(1)
    school.pass_time(3600)
    return school


def crawler(school: ModelSchool, stage: MemoryStage, attempts: int = 3) -> Crawler:
    return Crawler(school, stage, SourceState(), SyncPolicy(attempts=attempts))


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
M_EARLY, PAGE_1, D_EARLY, PAGE_2, PAGE_3, M, D, T, D_AGAIN = range(2, 11)


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


def test_a_student_who_leaves_after_he_was_sighted_is_taken_out_of_the_sum() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, D, lambda: school.delete(1))
    assert crawler(school, stage, attempts=1).roster().clean


def test_a_row_that_slipped_is_sighted_in_the_modified_feed_when_it_has_changed() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, PAGE_3, lambda: (school.delete(1), school.update(7)))
    assert crawler(school, stage, attempts=1).roster().clean
    assert 7 in stage.rows


def between_the_later_pages(school: ModelSchool, event: Callable[[], object]) -> None:
    """Let `event` happen in each crawl after the first of the pages behind page 1."""
    served = school.pages

    def pages(query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        for place, page in enumerate(served(query, numbers)):
            yield page
            if place == 0:
                school.pass_time(1)
                event()

    school.pages = pages  # type: ignore[method-assign]


def test_rows_that_move_up_in_every_crawl_are_caught_backwards() -> None:
    school, stage = school_of(12), MemoryStage(stored=range(1, 13))
    between_the_later_pages(school, lambda: school.delete(min(key for key in school.living if key > 3)))
    assert not crawler(school, stage, attempts=1).roster().clean
    assert crawler(school, stage, attempts=2).roster().clean
    assert set(school.living) <= set(stage.rows)


def ask_beyond_the_end(school: ModelSchool) -> None:
    """Let each list seem a page longer than it is when its pages are asked for, and that page be asked for first."""
    served = school.pages
    school.pages = lambda query, numbers: served(query, (99, *numbers))  # type: ignore[method-assign]


def test_a_page_that_fell_off_the_end_does_not_keep_the_others_from_being_read() -> None:
    school, stage = school_of(9), MemoryStage()
    ask_beyond_the_end(school)
    assert crawler(school, stage, attempts=1).roster().clean


def test_a_first_crawl_of_students_who_bear_no_created_at_is_clean() -> None:
    school, stage = school_of(9), MemoryStage()
    school.living = {key: Student(id=key, updated_at=row.updated_at) for key, row in school.living.items()}
    assert crawler(school, stage, attempts=1).roster().clean


@pytest.mark.parametrize("deleted_at", [None, EPOCH], ids=["", "with deleted_at"])
def test_a_deleted_feed_that_ignores_its_filter_puts_nobody_in_doubt(deleted_at: datetime | None) -> None:
    school, stage = school_of(9), MemoryStage()
    honest = school._rows
    listed = [Student(id=key, deleted_at=deleted_at) for key in school.living]
    school._rows = lambda query: listed if query.deleted_since else honest(query)  # type: ignore[method-assign]
    assert crawler(school, stage, attempts=1).roster().clean
    assert stage.listed() == set()


def gone_from_the_last_page_until_the_total_is_told(school: ModelSchool, key: int, back: Callable[[], object]) -> None:
    """Delete a student of nine, so that the first of page 3 slips; call `back` right after the total was read."""
    lists = 1 + 3 + 1  # page 1 twice, the other pages, the total

    def happen() -> None:
        school.pass_time(1)
        read = school.asked.count(Query())
        if read == lists - 2 and key in school.living and school.asked[-1] == Query():
            school.delete(key)
        elif read == lists and key not in school.living:
            back()

    school.happen = happen


def test_a_deleted_feed_that_lists_all_the_living_in_the_end_explains_no_departure_before() -> None:
    """Who was restored right after the total makes up for the row that slipped, and is one of many in such a feed."""
    school, stage = school_of(9), MemoryStage(stored=range(1, 10))
    row = school.living[2]
    gone_from_the_last_page_until_the_total_is_told(
        school, 2, lambda: (school.restore(row), ignore_deleted_since(school))
    )
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 7 not in stage.rows


def test_a_deleted_feed_that_lists_all_the_living_from_the_start_explains_no_departure() -> None:
    """It lists the restored for good, so that nobody can tell who was restored again while the roster was read."""
    school, stage = school_of(9), MemoryStage(stored=range(1, 10))
    row = school.living[2]
    school.deleted = {key: school.time for key in school.living if key != 2}
    gone_from_the_last_page_until_the_total_is_told(school, 2, lambda: school.living.update({2: row}))
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 7 not in stage.rows


def test_a_deleted_feed_that_lists_the_living_explains_no_departure() -> None:
    school, stage = school_of(60, per_page=25), MemoryStage()
    ignore_deleted_since(school)
    between_the_later_pages(school, lambda: school.living.pop(1, None))
    assert not crawler(school, stage, attempts=1).roster().clean


def test_a_deleted_feed_that_lists_for_good_who_came_back_puts_them_in_doubt() -> None:
    """A first run while a mass deletion is being undone: all of page 1 are listed, and live, but few on the others."""
    school, stage = school_of(61, per_page=10), MemoryStage()
    rows = {key: school.delete(key) for key in (*range(1, 40), 61)}
    school.living = {key: rows[key] for key in range(1, 21)} | school.living

    def one_leaves_and_one_returns() -> None:
        if school.asked[-1] == Query() and 1 in school.living:
            school.delete(1)
            school.living[61] = rows[61]  # with his old stamps: a first run takes him for one who was there

    between_the_later_pages(school, one_leaves_and_one_returns)
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 40 not in stage.rows
    assert 61 in stage.rows


def test_a_deleted_feed_that_lists_the_living_later_takes_nobody_out_of_doubt() -> None:
    """A first run, and the first reading of the feed is an honest one: it lists somebody who left right then."""
    school, stage = school_of(31, per_page=10), MemoryStage()
    school.pass_time(24 * 3600)
    back = school.delete(31, unseen=True)

    def happen() -> None:
        if school.asked.count(Query()) == 2 and 1 in school.living:  # page 1 was read
            school.delete(1)
            school.living[31] = back
        elif school.asked.count(Query()) == 4:  # all pages were: the total's brings others, in another order
            school.order = "-id"
            ignore_deleted_since(school)

    school.happen = happen
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 11 not in stage.rows
    assert 31 in stage.rows


def test_a_deleted_feed_that_lists_the_living_at_first_explains_no_departure_later() -> None:
    """Somebody who was deleted long before is listed anew by the second reading only, and would explain the removal."""
    school, stage = school_of(60, per_page=25), MemoryStage(stored=[61])
    school.deleted[61] = school.time
    honest = school._rows

    def rows(query: Query) -> list[Student]:
        # its first page, and a day to come
        lists_all = query.deleted_since and D_EARLY <= school.requests < D_EARLY + 2
        return honest(Query() if lists_all else query)

    school._rows = rows  # type: ignore[method-assign]
    at_request(school, PAGE_3 + 1, lambda: school.delete(1, unseen=True))
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 51 not in stage.rows


def test_a_deleted_feed_that_lists_the_living_for_once_explains_no_departure() -> None:
    """It lists somebody who left long before the crawl, too, and he would explain the removal amid it."""
    school, stage = school_of(9), MemoryStage(stored=range(1, 11))
    honest, left = school._rows, Student(id=10, deleted_at=EPOCH)

    def rows(query: Query) -> list[Student]:
        lists_all = query.deleted_since and D <= school.requests < D + 2  # its first page, and a day to come
        return [left, *honest(Query())] if lists_all else honest(query)

    school._rows = rows  # type: ignore[method-assign]
    at_request(school, PAGE_3, lambda: school.delete(1, unseen=True))
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 7 not in stage.rows


def test_a_deleted_feed_that_did_not_rest_before_the_crawl_explains_no_departure() -> None:
    """It passed over somebody who had left by then, and who would explain the removal amid the crawl."""
    school, stage = school_of(9), MemoryStage(stored=range(1, 17))
    left = [Student(id=key) for key in range(10, 17)]
    honest = school._rows

    def rows(query: Query) -> list[Student]:
        if query.deleted_since is None:
            return honest(query)
        if query.deleted_since > school.time:
            return []
        before = school.asked.count(Query()) == 2  # page 1 was read twice
        return left[2:] if before and school.requests % 2 else left[1:] if before else left

    school._rows = rows  # type: ignore[method-assign]
    between_the_later_pages(
        school, lambda: school.delete(1, unseen=True) if 1 in school.living and school.asked[-1] == Query() else None
    )
    assert not crawler(school, stage, attempts=1).roster().clean
    assert 7 not in stage.rows


def test_a_record_of_the_deleted_feed_that_cannot_be_decoded_still_tells_who_left() -> None:
    school, stage = school_of(3), MemoryStage()
    bad = [Rejected(7, b"digest", "status: not text"), Rejected(None, b"digest", "id: none")]
    school._rows = lambda query: bad if query.deleted_since == EPOCH else []  # type: ignore[method-assign,assignment,return-value]
    assert crawler(school, stage).deleted(EPOCH).clean
    assert 7 in stage.listed()
    assert sum(key < 0 for key in stage.listed()) == 1


def test_the_feeds_of_a_roster_reach_back_as_far_as_they_are_needed() -> None:
    school, stage = school_of(9), MemoryStage()
    marks = Watermarks(modified=EPOCH - timedelta(days=1), deleted=EPOCH - timedelta(days=2))
    crawler = Crawler(school, stage, SourceState(marks), SyncPolicy())
    roster = crawler.roster()
    assert roster.clean
    crawler.departures(roster)
    asked = [query for query in school.asked if isinstance(query, Query)]
    overlap = SyncPolicy().overlap
    early, late = since(school.time, overlap), since(EPOCH - timedelta(days=1), overlap)
    assert {query.modified_since for query in asked} == {None, early, late}
    assert {query.deleted_since for query in asked[:-1]} == {None, early}
    assert asked[-1].deleted_since == since(EPOCH - timedelta(days=2), overlap)


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


def test_a_total_once_told_is_not_forgotten_in_the_second_balance() -> None:
    """The rest are told by a replica behind: a row slipped when somebody left unseen, and only that total tells."""
    school, stage = school_of(9), MemoryStage()
    at_request(school, PAGE_3, lambda: school.delete(1, unseen=True))
    honest = school.page

    def page(query: Query, number: int) -> Page | None:
        found = honest(query, number)
        if found is None or query != Query() or school.requests == 1:
            return found
        return replace(found, total_count=9 if school.requests == T else 8)

    school.page = page  # type: ignore[method-assign]
    roster = crawler(school, stage, attempts=1).roster()
    assert school.requests > T
    assert not roster.clean


def test_a_student_listed_as_deleted_from_the_beginning_whom_get_shows_alive_leaves_the_crawl_unclean() -> None:
    """A page and GET may be of a replica that lags behind; what else is missing then, nobody knows."""
    school, stage = school_of(9), MemoryStage()
    school.deleted[5] = school.time
    assert not crawler(school, stage).roster().clean


def test_a_student_listed_as_deleted_long_before_who_lives_again_leaves_the_crawl_clean() -> None:
    school, stage = school_of(9), MemoryStage()
    school.deleted[5] = school.time - timedelta(hours=1)
    assert crawler(school, stage).roster().clean


def test_pages_that_change_their_size_are_read_anew() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, PAGE_3, lambda: setattr(school, "per_page", 2))
    assert not crawler(school, stage, attempts=1).roster().clean
    assert crawler(school, stage, attempts=1).roster().clean


def test_a_roster_that_never_rests_ends_unclean_after_a_bounded_number_of_requests() -> None:
    school, stage = school_of(9), MemoryStage()
    school.happen = lambda: (school.pass_time(1), school.create())[0]
    assert not crawler(school, stage).roster().clean
    assert school.requests < 400


@pytest.mark.parametrize(
    "books",
    [
        Books(sighted=9, gone=0, in_doubt=0, total=10, largest=10, entered=0, departed=0),
        Books(sighted=10, gone=0, in_doubt=0, total=9, largest=10, entered=0, departed=0),
        Books(sighted=10, gone=0, in_doubt=1, total=10, largest=10, entered=0, departed=0),
        Books(sighted=10, gone=0, in_doubt=0, total=10, largest=11, entered=0, departed=0),
        Books(sighted=10, gone=0, in_doubt=0, total=10, largest=10, entered=1, departed=0),
        Books(sighted=10, gone=1, in_doubt=1, total=9, largest=10, entered=0, departed=1),
    ],
)
def test_each_figure_of_the_books_can_make_a_crawl_unclean(books: Books) -> None:
    assert not books.balance


def test_books_whose_departures_are_explained_balance() -> None:
    even = Books(sighted=10, gone=0, in_doubt=0, total=10, largest=10, entered=0, departed=0)
    assert even.balance
    assert replace(even, gone=1, total=9, departed=1).balance


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


def test_a_modified_feed_over_several_pages_is_read_twice_and_dates_from_the_first_reading() -> None:
    school, stage = school_of(9), MemoryStage()
    school.happen = lambda: school.pass_time(1)
    before = school.time
    stream = crawler(school, stage).modified(EPOCH)
    assert stream.clean
    assert school.requests == 6
    assert stream.start == before + timedelta(seconds=1)


def test_two_readings_of_the_same_rows_agree_whatever_their_order() -> None:
    school, stage = school_of(9), MemoryStage()
    at_request(school, 4, lambda: setattr(school, "order", "-id"))
    assert crawler(school, stage, attempts=2).modified(EPOCH).clean


def test_a_modified_feed_whose_readings_never_agree_is_not_clean() -> None:
    school, stage = school_of(9), MemoryStage()
    school.happen = lambda: (school.pass_time(1), school.update(1))[0]
    assert not crawler(school, stage, attempts=2).modified(EPOCH).clean
    assert school.requests == 3 * 3


def test_a_modified_feed_of_which_a_page_is_missing_is_not_clean() -> None:
    school = school_of(9)
    ask_beyond_the_end(school)
    assert not crawler(school, MemoryStage()).modified(EPOCH).clean


def ignore_deleted_since(school: ModelSchool) -> None:
    honest = school._rows
    school._rows = lambda query: honest(Query() if query.deleted_since else query)  # type: ignore[method-assign]


def test_a_deleted_feed_that_ignores_its_filter_is_read_no_further_than_its_first_page() -> None:
    school, stage = school_of(30, per_page=5), MemoryStage(stored=range(1, 31))
    ignore_deleted_since(school)
    feed = crawler(school, stage).deleted(EPOCH)
    assert feed.ignored
    assert not feed.explains
    assert stage.listed() == set()
    assert school.requests == 1 + 1


def test_whether_the_filter_is_ignored_is_asked_once_and_only_when_somebody_is_listed() -> None:
    school, stage = school_of(9), MemoryStage()
    reader = crawler(school, stage)
    reader.deleted(EPOCH)
    assert school.requests == 1
    school.delete(1)
    reader.deleted(EPOCH)
    reader.deleted(EPOCH)
    assert school.requests == 1 + (1 + 1) + 1
    assert stage.listed() == {1}
    to_come = [query.deleted_since for query in school.asked if query.deleted_since and query.deleted_since > EPOCH]  # type: ignore[union-attr]
    assert to_come == [since(school.time + timedelta(days=365), SyncPolicy().overlap)]


@pytest.mark.parametrize(
    ("listed", "to_come", "ignored"),
    [
        (1, 0, False),
        (30, 0, False),
        (1, 1, True),
        (2, 1, False),
        (1, 2, False),
        (30, 27, True),
        (30, 26, False),
        (27, 30, True),
        (26, 30, False),
    ],
)
def test_the_filter_is_ignored_when_as_many_are_listed_from_a_day_to_come(
    listed: int, to_come: int, ignored: bool
) -> None:
    school = school_of(0, per_page=50)
    rows = [Student(id=key) for key in range(1, 31)]
    school._rows = lambda query: rows[: listed if query.deleted_since == EPOCH else to_come]  # type: ignore[method-assign]
    assert crawler(school, MemoryStage()).deleted(EPOCH).ignored is ignored


@pytest.mark.parametrize("error", DECLINED)
@pytest.mark.parametrize("ignored", [True, False])
def test_where_the_server_does_not_take_a_day_to_come_the_feed_is_compared_with_the_list(
    ignored: bool, error: type[ApiError]
) -> None:
    school, stage = school_of(9), MemoryStage()
    school.delete(1)
    if ignored:
        ignore_deleted_since(school)
    served = school._rows

    def rows(query: Query) -> list[Student]:
        if query.deleted_since and query.deleted_since > school.time:
            raise error("declined")
        return served(query)

    school._rows = rows  # type: ignore[method-assign]
    assert crawler(school, stage).deleted(EPOCH).ignored is ignored
    assert stage.listed() == (set() if ignored else {1})


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(days=800), timedelta(days=-800), MAX_AHEAD], ids=str)
def test_a_day_to_come_lies_ahead_of_both_clocks(ahead: timedelta) -> None:
    """The departure bears the later one's time, whichever is wrong."""
    school, stage = school_of(9), MemoryStage()
    page = school.page
    school.deleted[1] = max(school.time, school.time + ahead)

    def dated(query: Query, number: int) -> Page | None:
        found = page(query, number)
        return found and replace(found, moment=Moment(school.time, school.time + ahead))

    school.page = dated  # type: ignore[method-assign]
    assert not crawler(school, stage).deleted(EPOCH).ignored
    assert stage.listed() == {1}


def test_a_deleted_feed_that_lists_the_living_is_known_among_many_who_left_long_ago() -> None:
    school, stage = school_of(30, per_page=100), MemoryStage(stored=range(16, 31))
    left = [school.delete(key) for key in range(1, 16)]
    honest = school._rows
    everybody = [*left, *school.living.values()]
    school._rows = lambda query: everybody if query.deleted_since else honest(query)  # type: ignore[method-assign]
    assert crawler(school, stage).deleted(EPOCH).ignored


def test_a_deleted_feed_whose_readings_never_agree_is_read_once_more_than_a_list_and_is_not_clean() -> None:
    school, stage = school_of(40, per_page=5), MemoryStage()
    for key in range(1, 8):
        school.delete(key)
    between_the_later_pages(school, lambda: school.delete(min(school.living)))
    feed = crawler(school, stage, attempts=3).deleted(EPOCH)
    assert not feed.clean
    assert feed.reading == 4


def test_of_a_deleted_feed_that_lists_the_living_only_rows_that_bear_deleted_at_are_kept() -> None:
    school, stage = school_of(12, per_page=20), MemoryStage(stored=range(1, 14))
    gone = Student(id=13, deleted_at=EPOCH)
    school._rows = lambda _: [*school.living.values(), gone]  # type: ignore[method-assign]
    assert crawler(school, stage).deleted(EPOCH).ignored
    assert stage.listed() == {13}


def test_a_deleted_feed_over_several_pages_dates_from_the_first_of_two_readings_that_agree() -> None:
    school, stage = school_of(40, per_page=5), MemoryStage()
    for key in range(1, 8):
        school.delete(key)
    before = school.time
    school.happen = lambda: school.pass_time(1)
    feed = crawler(school, stage).deleted(EPOCH)
    assert feed.clean
    assert feed.start == before + timedelta(seconds=1)


def test_a_deleted_feed_of_many_departed_is_believed() -> None:
    school, stage = school_of(40, per_page=50), MemoryStage(stored=range(1, 41))
    for key in range(1, 31):
        school.delete(key)
    feed = crawler(school, stage).deleted(EPOCH)
    assert feed.clean
    assert not feed.ignored
    assert len(stage.listed()) == 30
