from __future__ import annotations

from collections import Counter
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

import pytest
from stand_in import Client

from rostersync.clock import SystemClock, to_text
from rostersync.simulator import School, churn

if TYPE_CHECKING:
    from conftest import ManualClock


def an_enrolled(client: Client) -> int:
    return next(number for number, row in client.school.truth().items() if not row["archived"])


def test_the_same_seed_and_calls_make_the_same_school() -> None:
    from conftest import ManualClock  # noqa: PLC0415 - a fixture would be one clock for both

    def story(seed: int) -> dict[int, object]:
        client = Client(ManualClock(), size=50, seed=seed, stamp_skews=(0.0, 3.0), order="random")
        for _ in range(20):
            client.clock.advance(60)
            churn(client.school, Random(seed), 5)
            client.ids()
        return {0: client.ids(), **client.school.truth()}

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_truth_is_what_the_list_and_get_serve(clock: ManualClock) -> None:
    client = Client(clock, size=40)
    for _ in range(5):
        clock.advance(3600)
        churn(client.school, Random(5), 30)
        truth = client.school.truth()
        assert {row["id"]: row for row in client.crawl(("per_page", 7))} == truth
        assert all(client.student(number) == row for number, row in truth.items())
        assert all(client.send(f"/v2p1/students/{number}").status == 404 for number in client.school.deleted())


def test_ids_ascend_with_gaps_and_some_exceed_32_bits(clock: ManualClock) -> None:
    ids = list(School(1, 300, clock).truth())
    assert ids == sorted(ids)
    assert len(ids) == len(set(ids)) == 300
    assert ids[-4] < 2**32 < ids[-3]
    assert ids[200] - ids[0] > 200


def test_all_students_were_born_before_the_school_opened(clock: ManualClock) -> None:
    for row in School(1, 200, clock).truth().values():
        assert row["created_at"] <= row["updated_at"] < to_text(clock.now())


def test_every_change_is_stamped_with_the_time_at_the_grain(clock: ManualClock) -> None:
    client = Client(clock)
    number = an_enrolled(client)
    clock.advance(10.75)
    client.school.update(number, city="Elsewhere")
    assert client.student(number)["city"] == "Elsewhere"
    assert client.student(number)["updated_at"] == "2026-03-02T08:00:10.000Z"


def test_a_finer_grain_keeps_milliseconds(clock: ManualClock) -> None:
    client = Client(clock, grain_ms=1)
    number = an_enrolled(client)
    clock.advance(10.123)
    client.school.touch(number)
    assert client.student(number)["updated_at"] == "2026-03-02T08:00:10.123Z"


def test_a_cleared_field_is_not_rendered(clock: ManualClock) -> None:
    client = Client(clock)
    number = client.school.create(nickname="Zo", city="Here")
    client.school.clear(number, "nickname", "city")
    assert not {"nickname", "city"} & set(client.student(number))


def test_create_returns_a_fresh_id_and_takes_the_fields_given(clock: ManualClock) -> None:
    client = Client(clock)
    number = client.school.create(first_name="Plim", email=None)
    assert number not in Client(clock).school.truth()
    assert client.student(number)["first_name"] == "Plim"
    assert "email" not in client.student(number)
    assert client.student(number)["created_at"] == client.student(number)["updated_at"] == to_text(clock.now())


def test_create_can_be_told_the_id_but_not_a_taken_one(clock: ManualClock) -> None:
    school = Client(clock).school
    assert school.create(id=99) == 99
    with pytest.raises(LookupError, match="99"):
        school.create(id=99)


def test_archiving_sets_one_date_or_none_and_unarchiving_clears_them(clock: ManualClock) -> None:
    client = Client(clock)
    number = an_enrolled(client)
    client.school.archive(number, withdrawn_on="2026-03-01")
    assert client.student(number)["withdrawn_on"] == "2026-03-01"
    assert client.student(number)["archived"] is True
    client.school.archive(number, graduated_on="2026-03-02")
    assert "withdrawn_on" not in client.student(number)
    client.school.unarchive(number)
    assert client.student(number)["archived"] is False
    assert "graduated_on" not in client.student(number)
    client.school.archive(number)
    assert not {"graduated_on", "withdrawn_on"} & set(client.student(number))


def test_archiving_takes_the_student_out_of_the_year_group(clock: ManualClock) -> None:
    client = Client(clock)
    number = client.school.create(year_group_id=5)
    client.school.archive(number)
    assert "year_group_id" not in client.student(number)


def test_a_deletion_takes_the_student_out_and_does_not_bump(clock: ManualClock) -> None:
    client = Client(clock)
    number = an_enrolled(client)
    before = client.student(number)
    clock.advance(100)
    client.school.delete(number)
    assert number not in client.school.truth()
    assert client.school.deleted() == {number}
    client.school.restore(number, bump=False)
    assert client.student(number) == before
    assert client.school.deleted() == set()


def test_a_purge_leaves_no_trace_in_the_deleted_feed(clock: ManualClock) -> None:
    client = Client(clock)
    one, other, *_ = client.school.truth()
    client.school.delete(one)
    client.school.delete(other)
    client.school.purge(other)
    assert client.ids(("deleted_since", "2026-03-01T00:00:00.000Z")) == [one]
    assert client.send(f"/v2p1/students/{other}").status == 404
    client.school.restore(other)
    assert client.student(other)["id"] == other


def test_a_login_is_told_with_a_numeric_offset(clock: ManualClock) -> None:
    client = Client(clock)
    number = an_enrolled(client)
    client.school.login(number)
    assert client.student(number)["last_accessed_at"] == "2026-03-02T00:00:00.000-08:00"


def test_a_change_can_go_unnoticed(clock: ManualClock) -> None:
    client = Client(clock)
    number = an_enrolled(client)
    before = client.student(number)["updated_at"]
    clock.advance(100)
    client.school.change_unnoticed(number, parent_ids=[1])
    assert client.student(number)["parent_ids"] == [1]
    assert client.student(number)["updated_at"] == before


@pytest.mark.parametrize("change", ["update", "archive", "unarchive", "delete", "login", "touch", "restore", "purge"])
def test_nothing_can_be_done_to_somebody_who_is_not_there(clock: ManualClock, change: str) -> None:
    with pytest.raises(LookupError, match="404"):
        getattr(Client(clock).school, change)(404)


def test_an_injected_record_is_served_in_lists_and_by_get_until_mended(clock: ManualClock) -> None:
    client = Client(clock)
    number = an_enrolled(client)
    clock.advance(60)
    client.school.inject(number, {"id": number, "email": {"not": "a text"}})
    assert client.student(number) == {"id": number, "email": {"not": "a text"}}
    assert {"id": number, "email": {"not": "a text"}} in client.crawl()
    assert client.ids(("modified_since", to_text(clock.now()))) == [number]
    assert client.school.injected() == {number}
    assert number not in client.school.truth()
    client.school.update(number)
    assert client.student(number) == client.school.truth()[number]


def test_an_injected_record_may_be_any_bytes_and_need_no_id(clock: ManualClock) -> None:
    client = Client(clock, size=3)
    key = client.school.inject(None, b'{"email": "\\ud800"}')
    assert key < 0
    assert b'{"email": "\\ud800"}' in client.send("/v2p1/students").body
    assert client.send("/v2p1/students", ("archived", 1)).status == 200
    client.school.purge(key)
    assert len(client.crawl()) == 3


def test_an_injected_record_may_be_of_somebody_new(clock: ManualClock) -> None:
    client = Client(clock)
    assert client.school.inject(77, {"id": "77", "birthday": "no day"}) == 77
    assert client.student(77) == {"id": "77", "birthday": "no day"}


def test_churn_does_as_many_things_as_asked_in_realistic_proportions(clock: ManualClock) -> None:
    school = School(1, 200, clock)
    done = churn(school, Random(2), 1000)
    assert done.total() == 1000
    assert set(done) == {"update", "login", "create", "clear", "archive", "unarchive", "delete", "restore"}
    assert done["update"] > 400
    assert done["delete"] < 80
    assert len(school.truth()) == 200 + done["create"] + done["restore"] - done["delete"]


def test_churn_enrols_somebody_where_nobody_is(clock: ManualClock) -> None:
    assert churn(School(1, 0, clock), Random(2), 1) == Counter(create=1)


def test_pick_finds_the_only_one_who_fits(clock: ManualClock) -> None:
    school = School(1, 500, clock)
    only = list(school.truth())[321]
    school.update(only, city="The Only")
    assert school.pick(Random(1), lambda version: version.fields.get("city") == "The Only") == only
    assert school.pick(Random(1), lambda _: False) is None


def test_a_large_school_is_born_quickly(capsys: pytest.CaptureFixture[str]) -> None:
    begin = perf_counter()
    school = School(1, 100_000, SystemClock())
    with capsys.disabled():
        print(f"\nsimulator: 100,000 students born in {perf_counter() - begin:.2f} s")  # noqa: T201 - the point
    assert sum(1 for _ in school.versions()) == 100_000
