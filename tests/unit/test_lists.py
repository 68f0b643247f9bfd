"""The one rule for lists: a clean one has lost nobody, and each part of the rule is needed for that."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from model import EPOCH, ORDERS, ModelSchool, listed

from rostersync.records import ListedRow, Query, Rejected, Student, Unclear
from rostersync.report import ignore_progress
from rostersync.store.dry_run import unchanged_database
from rostersync.store.stage import clear
from rostersync.sync.lists import ListReader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from rostersync.store.stage import Stage
    from rostersync.sync.lists import ListResult

READINGS = 400
"""How many times a school that changes all the while is read."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """The real stage, over an empty database in memory."""
    with unchanged_database(f"sqlite:///{tmp_path}/none.db", "main") as (_, stage):
        yield stage


def read_roster(school: ModelSchool, stage: Stage, attempts: int = 3) -> ListResult:
    reader = ListReader(school, stage, attempts, ignore_progress)
    return reader.students(Query(), school.first_page(Query()))


def read_deleted(school: ModelSchool, stage: Stage, attempts: int = 3) -> ListResult:
    return ListReader(school, stage, attempts, ignore_progress).deleted(EPOCH)


def staged(stage: Stage, table: str = "staged") -> set[int]:
    with stage.session.connection.begin():
        return set(stage.session.connection.exec_driver_sql(f"SELECT id FROM stage.{table}").scalars())


def before_request(school: ModelSchool, number: int, *events: Callable[[], object]) -> None:
    """Let `events` happen just before the request of this number (from 1); a second passes before each request."""

    def happen() -> None:
        school.pass_time(1)
        if len(school.asked) + 1 == number:
            for event in events:
                event()

    school.happen = happen


# One reading -----------------------------------------------------------------------------------------------------


def test_a_page_that_holds_the_whole_list_is_clean_after_one_request(stage: Stage) -> None:
    school = ModelSchool(3)
    result = read_roster(school, stage)
    assert (result.clean, result.total, result.start) == (True, 3, school.time)
    assert len(school.asked) == 1


def test_a_list_of_nobody_is_clean(stage: Stage) -> None:
    assert read_roster(ModelSchool(0), stage).clean


def test_a_quiet_list_of_several_pages_is_read_twice(stage: Stage) -> None:
    school = ModelSchool(9)
    assert read_roster(school, stage).clean
    assert [number for _, number in school.asked] == [1, 2, 3] * 2
    assert staged(stage) == set(school.living)


def test_a_list_dates_from_its_steady_reading_and_not_from_the_one_that_brings_its_ids_again(stage: Stage) -> None:
    school = ModelSchool(9)
    begin = school.time
    school.happen = lambda: school.pass_time(1)
    assert read_roster(school, stage).start == begin + timedelta(seconds=1)


def test_an_unsteady_reading_dates_nothing(stage: Stage) -> None:
    school = ModelSchool(9)
    begin = school.time
    before_request(school, 2, school.create)  # the second reading is the steady one, the third confirms it
    assert read_roster(school, stage).start == begin + timedelta(seconds=4)


# What a second reading is for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(2, 7))
def test_one_who_leaves_and_one_who_comes_between_two_requests_hide_no_row_that_slips(
    stage: Stage, moment: int
) -> None:
    """All totals are equal and all rows distinct, and yet the first reading may have missed somebody."""
    school = ModelSchool(9)
    before_request(school, moment, lambda: school.delete(1), school.create)
    assert read_roster(school, stage).clean
    assert set(range(2, 10)) <= staged(stage)


def test_a_reading_that_does_not_bring_all_ids_again_is_not_enough(stage: Stage) -> None:
    school = ModelSchool(9)
    before_request(school, 3, lambda: school.delete(1), school.create)
    assert not read_roster(school, stage, attempts=1).clean


def test_a_second_reading_need_not_be_steady_itself(stage: Stage) -> None:
    school = ModelSchool(9)
    before_request(school, 5, school.create)
    assert read_roster(school, stage, attempts=1).clean
    assert staged(stage) == set(range(1, 10))


def test_two_unsteady_readings_that_bring_the_same_ids_are_not_enough(stage: Stage) -> None:
    school = ModelSchool(9)
    school.happen = lambda: school.create() if len(school.asked) % 3 == 2 else None
    assert not read_roster(school, stage, attempts=1).clean


def test_whoever_left_before_the_two_readings_that_agree_is_dropped(stage: Stage) -> None:
    school = ModelSchool(9)
    before_request(school, 2, lambda: school.delete(1))
    assert read_roster(school, stage).clean
    assert staged(stage) == set(range(2, 10))


def test_of_a_list_that_is_not_clean_everything_is_kept(stage: Stage) -> None:
    school = ModelSchool(9)
    school.happen = lambda: school.delete(min(school.living)) if len(school.asked) % 2 else None
    assert not read_roster(school, stage, attempts=1).clean
    assert staged(stage) > set(school.living)


def test_a_list_is_read_once_more_than_attempts_say(stage: Stage) -> None:
    school = ModelSchool(9)
    school.happen = school.create
    assert not read_roster(school, stage, attempts=2).clean
    assert [number for _, number in school.asked].count(1) == 3


def test_a_list_that_shrinks_to_one_page_is_clean_when_it_is_read_there(stage: Stage) -> None:
    school = ModelSchool(4)
    before_request(school, 2, lambda: school.delete(1))
    result = read_roster(school, stage)
    assert (result.clean, result.start) == (True, school.time)
    assert staged(stage) == {2, 3, 4}


# What makes a reading unsteady -----------------------------------------------------------------------------------


def test_a_page_that_fell_off_the_end_makes_a_reading_unsteady_and_is_no_failure(stage: Stage) -> None:
    school = ModelSchool(7)
    before_request(school, 3, lambda: school.delete(7))
    assert not read_roster(school, stage, attempts=0).clean
    assert len(school.asked) == 3


def unsteady_by(school: ModelSchool, **meta: int | None) -> None:
    """Let every third request be answered with another meta."""
    page = school.page
    school.page = lambda query, number: (  # type: ignore[method-assign]
        changed(page(query, number), **meta) if number == 3 else page(query, number)
    )


def changed(page: object, **meta: int | None) -> object:
    from msgspec.structs import replace  # noqa: PLC0415 - one use

    return page and replace(page, **meta)


@pytest.mark.parametrize("meta", [{"per_page": 4}, {"total_count": 10}])
def test_pages_of_another_size_or_total_make_a_reading_unsteady(stage: Stage, meta: dict[str, int]) -> None:
    school = ModelSchool(9)
    unsteady_by(school, **meta)
    assert not read_roster(school, stage).clean


@pytest.mark.parametrize("silent", [{1, 2, 3}, {2, 3}, {3}, {1}])
def test_a_page_that_gives_no_per_page_agrees_with_the_others(stage: Stage, silent: set[int]) -> None:
    school = ModelSchool(9)
    leave_out_per_page(school, silent)
    assert read_roster(school, stage).clean
    assert [number for _, number in school.asked] == [1, 2, 3] * 2


def test_two_pages_that_give_different_sizes_disagree_whatever_a_third_leaves_out(stage: Stage) -> None:
    school = ModelSchool(9)
    unsteady_by(school, per_page=4)
    leave_out_per_page(school, {2})
    assert not read_roster(school, stage).clean


def leave_out_per_page(school: ModelSchool, numbers: Collection[int]) -> None:
    page = school.page
    school.page = lambda query, number: (  # type: ignore[method-assign]
        changed(page(query, number), per_page=None) if number in numbers else page(query, number)
    )


def test_a_row_that_a_reading_brings_twice_makes_it_unsteady(stage: Stage) -> None:
    school = ModelSchool(9)
    rows = school.rows
    school.rows = lambda query: [*rows(query)[:8], rows(query)[0]]  # type: ignore[method-assign]
    assert not read_roster(school, stage).clean


def test_fewer_rows_than_the_total_make_a_reading_unsteady(stage: Stage) -> None:
    school = ModelSchool(9)
    page = school.page
    school.page = lambda query, number: changed(page(query, number), total_count=10)  # type: ignore[method-assign]
    assert not read_roster(school, stage).clean


def test_records_without_an_id_are_counted_and_come_again(stage: Stage) -> None:
    school = ModelSchool(9)
    school.undecodable = [Rejected(None, bytes([n]) * 16, "id: missing") for n in (1, 2)]
    assert read_roster(school, stage).clean
    assert stage.received().without_id == 2


# Rows of several readings ----------------------------------------------------------------------------------------


def nicknames(stage: Stage) -> dict[int, str | None]:
    with stage.session.connection.begin():
        found = stage.session.connection.exec_driver_sql("SELECT id, nickname FROM stage.records")
        return {row.id: row.nickname for row in found}


def test_a_row_that_is_newer_in_the_second_reading_takes_the_place_of_the_first(stage: Stage) -> None:
    school = ModelSchool(9)
    before_request(school, 4, lambda: school.update(2))
    assert read_roster(school, stage).clean
    assert nicknames(stage)[2] == school.living[2].nickname is not None


def test_a_row_that_is_older_in_the_second_reading_does_not(stage: Stage) -> None:
    school = ModelSchool(9)
    old = school.living[2]
    school.update(2)
    new = school.living[2]
    before_request(school, 4, lambda: school.living.update({2: old}))
    assert read_roster(school, stage).clean
    assert nicknames(stage)[2] == new.nickname


def test_the_second_reading_decodes_only_rows_that_are_new_or_newer(stage: Stage) -> None:
    school = ModelSchool(9)
    school.happen = lambda: (school.update(2), school.create()) if len(school.asked) == 3 else None
    decoded = count_decoding(school)
    read_roster(school, stage)
    assert len(school.asked) == 7
    assert decoded == [*range(1, 10), 2, 10]


def count_looking(school: ModelSchool) -> list[int]:
    """Return a list that gets the number of each page whose rows are looked at."""
    page, looked_at = school.page, []

    class Rows(list[ListedRow]):
        number = 0

        def __iter__(self) -> Iterator[ListedRow]:
            looked_at.append(self.number)
            return super().__iter__()

    def counted(query: Query, number: int) -> object:
        found = page(query, number)
        rows = Rows(found.listed if found else ())
        rows.number = number
        return found and changed(found, listed=rows)

    school.page = counted  # type: ignore[method-assign,assignment]
    return looked_at


def test_a_second_reading_that_is_like_the_steady_one_looks_at_no_row(stage: Stage) -> None:
    school = ModelSchool(9)
    before = count_looking(school)
    assert read_roster(school, stage).clean
    # Whether a first page is the whole list is found out by its keys.
    assert [number for number in before if number > 1] == [2, 3]
    assert staged(stage) == set(range(1, 10))


def test_only_the_pages_that_differ_are_looked_at_again(stage: Stage) -> None:
    school = ModelSchool(9)
    before_request(school, 4, lambda: school.update(5))
    looked_at = count_looking(school)
    assert read_roster(school, stage).clean
    assert [number for number in looked_at if number > 1] == [2, 3, 2]
    assert staged(stage) == set(range(1, 10))


def test_a_page_with_a_row_that_has_no_stamp_is_looked_at_again(stage: Stage) -> None:
    """The later row counts there."""
    school = ModelSchool(9)
    school.living[9] = changed(school.living[9], updated_at=None, nickname="old")
    before_request(school, 4, lambda: school.living.update({9: changed(school.living[9], nickname="new")}))
    assert read_roster(school, stage).clean
    assert nicknames(stage)[9] == "new"


def test_a_row_counts_with_the_page_that_brought_it_last(stage: Stage) -> None:
    school = ModelSchool(9, order="-id")
    # The first reading is not steady, the second one is. Of the third, only the first page differs.
    events = {2: school.create, 7: lambda: school.update(9)}
    school.happen = lambda: (school.pass_time(1), events.get(len(school.asked), lambda: None)())
    assert read_roster(school, stage).clean
    assert [number for _, number in school.asked] == [1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 4]


def test_whoever_left_a_page_that_differs_is_missed_although_the_others_are_alike(stage: Stage) -> None:
    school = ModelSchool(9)
    before_request(school, 4, lambda: (school.delete(8), school.create()))
    assert read_roster(school, stage).clean
    assert len(school.asked) == 9  # the second reading missed somebody, the third one brought all of the second
    assert staged(stage) == set(school.living)


def count_decoding(school: ModelSchool) -> list[int]:
    """Return a list that gets the id of each row as it is decoded."""
    page, decoded = school.page, []

    def counted(query: Query, number: int) -> object:
        found = page(query, number)
        return found and changed(found, listed=tuple(map(count, found.listed)))

    def count(row: ListedRow) -> ListedRow:
        return ListedRow(row.key, row.updated_at, lambda: (decoded.append(row.key), row.decode())[1])

    school.page = counted  # type: ignore[method-assign,assignment]
    return decoded


def test_a_row_that_bears_deleted_at_in_the_second_reading_only_is_marked(stage: Stage) -> None:
    """A deletion changes no `updated_at`."""
    school = ModelSchool(9)
    was = school.living[2]
    gone = Student(id=2, created_at=was.created_at, updated_at=was.updated_at, deleted_at=school.time)
    before_request(school, 4, lambda: school.living.update({2: gone}))
    assert read_roster(school, stage).clean
    with stage.session.connection.begin():
        marked = stage.session.connection.exec_driver_sql("SELECT id FROM stage.staged WHERE deleted_at IS NOT NULL")
        assert list(marked.scalars()) == [2]


# A school that changes between all requests ----------------------------------------------------------------------


def live_on(school: ModelSchool, activity: float) -> None:
    """Let students be created, changed and deleted, without being restored, as in `happen`."""
    rng = school.rng
    for _ in range(3):
        if rng.random() >= activity:
            return
        school.pass_time(rng.choice([0, 1]))
        act, anyone = rng.choice("cuudd"), rng.choice(list(school.living))
        if act == "c":
            school.create()
        elif act == "u":
            school.update(anyone)
        elif len(school.living) > 1:
            school.delete(anyone)


@pytest.mark.parametrize("per_page", ["given", "left out"])
@pytest.mark.parametrize("activity", [0.02, 0.2])
def test_no_clean_list_of_a_school_that_changes_between_all_requests_has_lost_a_student(
    stage: Stage, activity: float, per_page: str
) -> None:
    clean = 0
    for seed in range(READINGS):
        clear(stage.session.connection, stage.session.filled)
        rng = random.Random(seed)
        order = rng.choice([*ORDERS, "shuffled"])
        school = ModelSchool(rng.randrange(3, 40), order, rng.choice([2, 3, 4, 7]), rng)
        if per_page == "left out":
            leave_out_per_page(school, range(2, 100))
        before, start = set(school.living), school.time
        school.pass_time(1)
        school.happen = lambda school=school: live_on(school, activity)  # type: ignore[misc]
        if not read_roster(school, stage).clean:
            continue
        clean += 1
        stayed = {key for key, row in school.living.items() if row.updated_at and row.updated_at <= start}
        assert before & stayed <= staged(stage), f"seed {seed}"
    assert clean > READINGS // 10


@pytest.mark.parametrize("activity", [0.02, 0.1, 0.3])
def test_pages_that_are_not_looked_at_again_make_no_difference(stage: Stage, activity: float) -> None:
    outcomes = []
    for seed in range(READINGS):
        for tells_digests in (True, False):
            clear(stage.session.connection, stage.session.filled)
            rng = random.Random(seed)
            school = ModelSchool(rng.randrange(3, 30), rng.choice([*ORDERS, "shuffled"]), rng.choice([2, 3, 7]), rng)
            school.tells_digests = tells_digests
            school.happen = lambda school=school: live_on(school, activity)  # type: ignore[misc]
            outcomes.append((read_roster(school, stage), staged(stage), nicknames(stage), len(school.asked)))
        assert outcomes[-1] == outcomes[-2], f"seed {seed}"


# The feeds -------------------------------------------------------------------------------------------------------


def test_the_deleted_feed_is_read_by_the_same_rule(stage: Stage) -> None:
    school = ModelSchool(20)
    for key in range(1, 8):
        school.delete(key)
    begin = school.time
    school.happen = lambda: school.pass_time(1)
    result = read_deleted(school, stage)
    assert (result.clean, result.start) == (True, begin + timedelta(seconds=1))
    assert len(school.asked) == 6
    assert staged(stage, "deletions") == set(range(1, 8))


def test_a_deleted_feed_that_grows_all_the_while_is_not_clean(stage: Stage) -> None:
    school = ModelSchool(40)
    for key in range(1, 8):
        school.delete(key)
    school.happen = lambda: school.delete(min(school.living))
    result = read_deleted(school, stage)
    assert (result.clean, result.start) == (False, None)


def test_a_record_of_the_deleted_feed_that_cannot_be_decoded_still_names_who_left(stage: Stage) -> None:
    school = ModelSchool(3)
    bad = [Rejected(7, b"digest" * 2, "status: expected a text"), Rejected(None, b"digest" * 2, "id: missing")]
    school.rows = lambda query: bad if query.deleted_since else []  # type: ignore[method-assign]
    result = read_deleted(school, stage)
    assert 7 in staged(stage, "deletions")
    assert (result.clean, result.without_ids) == (True, True)


def test_a_deleted_feed_with_a_record_without_an_id_is_not_complete_so_its_watermark_stays(stage: Stage) -> None:
    school = ModelSchool(3)
    school.rows = lambda query: [Rejected(None, b"digest" * 2, "id: missing")]  # type: ignore[method-assign]
    result = read_deleted(school, stage)
    assert (result.complete, result.start) == (False, None)


def test_a_deleted_feed_that_ignores_its_filter_is_read_no_further_than_its_first_page(stage: Stage) -> None:
    school = ModelSchool(9)
    for key in (1, 2, 3, 4):
        school.delete(key)
    marked = Student(id=1, deleted_at=EPOCH)
    school.rows = lambda _: [marked, *map(school.living.get, (5, 6, 7))]  # type: ignore[method-assign,list-item]
    school.honours_deleted_since = False
    result = read_deleted(school, stage)
    assert (result.ignored, result.complete, result.start) == (True, False, None)
    assert staged(stage, "deletions") == {1}
    assert len(school.asked) == 1


def test_a_deleted_feed_that_lists_nobody_is_not_suspected(stage: Stage) -> None:
    school = ModelSchool(9)
    school.honours_deleted_since = False
    result = read_deleted(school, stage)
    assert result.complete


# Questions for GET -----------------------------------------------------------------------------------------------


def test_an_id_in_quarantine_for_which_get_had_no_answer_is_still_to_be_proved(stage: Stage) -> None:
    stage.put_answer(7, Unclear("no connection"), in_quarantine=True)
    stage.students.put(1, [listed(Student(id=7))])
    stage.deletions.put(1, [listed(Student(id=7))])
    assert list(stage.unproved_newcomers()) == [[7]]
