from __future__ import annotations

import gzip
from collections import Counter
from datetime import timedelta
from email.utils import parsedate_to_datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from stand_in import HEADERS, TOKEN, Client

from rostersync.clock import to_text
from rostersync.records import FIELD_NAMES
from rostersync.simulator import Request, Switches

if TYPE_CHECKING:
    from conftest import ManualClock

LONG_AGO = "2000-01-01T00:00:00.000Z"


@pytest.fixture
def client(clock: ManualClock) -> Client:
    return Client(clock, size=60)


# Doors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2", "v2p0", "v2p1", "v2p2", "v2p3"])
def test_every_version_of_the_api_is_served(client: Client, version: str) -> None:
    assert client.send(f"/{version}/students").status == 200


def test_versions_can_be_limited(clock: ManualClock) -> None:
    client = Client(clock, versions=("v2p1",))
    assert client.send("/v2p1/students").status == 200
    assert client.send("/v2p3/students").status == 404


@pytest.mark.parametrize("path", ["/", "/students", "/v2p1", "/v2p1/teachers", "/v9/students", "/v2p1/students/1/x"])
def test_other_paths_are_not_found(client: Client, path: str) -> None:
    assert client.send(path).status == 404


@pytest.mark.parametrize("headers", [{"auth-token": TOKEN}, {"authorization": f"Bearer {TOKEN}"}])
def test_the_token_is_taken_from_either_header(client: Client, headers: dict[str, str]) -> None:
    assert client.send("/v2p1/students", headers=headers).status == 200


def test_the_token_is_taken_from_the_query(client: Client) -> None:
    assert client.send("/v2p1/students", ("auth_token", TOKEN), headers={}).status == 200


@pytest.mark.parametrize(
    "headers", [{}, {"auth-token": ""}, {"auth-token": "wröng"}, {"authorization": TOKEN}, {"authorization": "Bearer "}]
)
@pytest.mark.parametrize("path", ["/v2p1/students", "/v2p1/students/1"])
def test_a_missing_or_wrong_token_is_denied(client: Client, path: str, headers: dict[str, str]) -> None:
    response = client.send(path, headers=headers)
    assert response.status == 401
    assert msgspec.json.decode(response.body) == {"error": "Access Denied"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_not_allowed(client: Client, method: str) -> None:
    response = client.send("/v2p1/students", method=method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("text", ["1", "abc", "-1", "²", "9" * 30, "9" * 5000])
def test_an_unknown_student_is_not_found(client: Client, text: str) -> None:
    response = client.send(f"/v2p1/students/{text}")
    assert response.status == 404
    assert msgspec.json.decode(response.body) == {"error": "Record was not found"}


def test_requests_are_logged_and_told_of_before_they_are_answered(client: Client) -> None:
    number = next(iter(client.school.truth()))

    def change(request: Request) -> None:
        client.school.update(number, city=request.path)

    client.app.on_request = change
    assert client.student(number)["city"] == f"/v2p1/students/{number}"
    assert list(client.app.log) == [("GET", f"/v2p1/students/{number}", [])]


# Filters ---------------------------------------------------------------------------------------------------------


def expected(client: Client, **wanted: Any) -> list[int]:
    rows = client.school.truth().items()
    return sorted(number for number, row in rows if all(row.get(name) == value for name, value in wanted.items()))


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("true", True), ("false", False)])
def test_archived_divides_the_roster(client: Client, text: str, value: bool) -> None:
    found = client.ids(("archived", text))
    assert found == expected(client, archived=value)
    assert 0 < len(found) < 60


def test_status_tells_by_the_dates(client: Client) -> None:
    truth = client.school.truth()
    assert client.ids(("status", "graduated")) == [
        number for number in sorted(truth) if "graduated_on" in truth[number]
    ]
    assert client.ids(("status", "withdrawn")) == [
        number for number in sorted(truth) if "withdrawn_on" in truth[number]
    ]
    assert client.ids(("status", "enrolled")) == expected(client, archived=False)


def test_ids_names_students_in_repeated_parameters(client: Client) -> None:
    one, other = list(client.school.truth())[3:5]
    assert client.ids(("ids[]", other), ("ids[]", one), ("ids[]", 5)) == [one, other]


def test_plain_ids_is_known_to_v2p3_only(client: Client) -> None:
    one, other = list(client.school.truth())[3:5]
    query = [("ids", f"{one},{other}")]
    newer = client.app.handle(Request("GET", "/v2p3/students", query, HEADERS))
    assert [row["id"] for row in msgspec.json.decode(newer.body)["students"]] == [one, other]
    assert len(client.ids(*query)) == 60


@pytest.mark.parametrize(
    ("name", "field"), [("year_group_ids", "year_group_id"), ("homeroom_advisor_ids", "homeroom_advisor_id")]
)
def test_groups_and_advisors_are_listed_with_commas_or_repeated(client: Client, name: str, field: str) -> None:
    one, other = sorted({row[field] for row in client.school.truth().values() if field in row})[:2]
    both = sorted(expected(client, **{field: one}) + expected(client, **{field: other}))
    assert client.ids((name, f"{one},{other}")) == both
    assert client.ids((f"{name}[]", one), (f"{name}[]", other)) == both


@pytest.mark.parametrize(
    "field", ["first_name", "last_name", "middle_name", "nickname", "other_name", "email", "student_id"]
)
def test_q_searches_seven_fields_whatever_the_case(client: Client, field: str) -> None:
    number = client.school.create(**{field: "xXüQqneedleqQ"})
    assert client.ids(("q", "ÜqQNEEDLE")) == [number]


def test_q_does_not_search_other_fields(client: Client) -> None:
    client.school.create(city="qqneedleqq")
    assert client.ids(("q", "qqneedleqq")) == []


def test_filters_combine_with_and(client: Client) -> None:
    archived = client.ids(("archived", 1))
    assert (
        client.ids(("archived", 1), ("ids[]", archived[0]), ("ids[]", client.ids(("archived", 0))[0])) == archived[:1]
    )


def test_unknown_and_empty_parameters_filter_nothing(client: Client) -> None:
    assert len(client.ids(("modified_after", LONG_AGO), ("archived", "(0)"), ("year_group_ids", ""), ("q", ""))) == 60


def test_modified_since_shows_what_was_changed(client: Client, clock: ManualClock) -> None:
    number = next(iter(client.school.truth()))
    clock.advance(10)
    client.school.touch(number)
    assert client.ids(("modified_since", to_text(clock.now()))) == [number]
    assert client.ids(("modified_since", to_text(clock.now() + timedelta(seconds=1)))) == []


def test_since_can_be_exclusive(clock: ManualClock) -> None:
    client = Client(clock, since="exclusive")
    number = next(iter(client.school.truth()))
    client.school.touch(number)
    assert client.ids(("modified_since", to_text(clock.now()))) == []
    assert client.ids(("modified_since", to_text(clock.now() - timedelta(milliseconds=1)))) == [number]
    client.school.delete(number)
    assert client.ids(("deleted_since", to_text(clock.now()))) == []


def test_since_takes_numeric_offsets(client: Client, clock: ManualClock) -> None:
    number = next(iter(client.school.truth()))
    client.school.touch(number)
    assert client.ids(("modified_since", "2026-03-02T00:00:00.000-08:00")) == [number]


def test_deleted_since_shows_the_deleted_only(client: Client, clock: ManualClock) -> None:
    early, late, *_ = client.school.truth()
    client.school.delete(early)
    clock.advance(60)
    client.school.delete(late)
    assert client.ids(("deleted_since", to_text(clock.now()))) == [late]
    assert client.ids(("deleted_since", LONG_AGO)) == [early, late]
    assert client.ids(("deleted_since", LONG_AGO), ("modified_since", to_text(clock.now()))) == []
    assert not {early, late} & set(client.ids(("modified_since", LONG_AGO)))


@pytest.mark.parametrize("text", ["yesterday", "2026-03-02T08:00:00.000 00:00", "", "2026-13-01T00:00:00Z"])
@pytest.mark.parametrize("name", ["modified_since", "deleted_since"])
def test_a_bad_timestamp_is_an_error(client: Client, name: str, text: str) -> None:
    response = client.send("/v2p1/students", (name, text))
    assert response.status == 400
    assert msgspec.json.decode(response.body) == {"error": f"Invalid {name} parameter: '{text}' is not a valid time."}


def test_a_bad_timestamp_can_be_ignored(clock: ManualClock) -> None:
    assert len(Client(clock, bad_timestamp="ignored").ids(("deleted_since", "yesterday"))) == 12


# Pages -----------------------------------------------------------------------------------------------------------


def test_meta_has_exactly_four_integers(client: Client) -> None:
    assert client.page(("page", 2), ("per_page", 50))["meta"] == {
        "current_page": 2,
        "total_pages": 2,
        "total_count": 60,
        "per_page": 50,
    }


def test_pages_divide_the_list(client: Client) -> None:
    assert [row["id"] for row in client.crawl(("per_page", 7))] == client.ids()
    assert len(client.page(("per_page", 7), ("page", 9))["students"]) == 4


@pytest.mark.parametrize("text", ["x", "0", "-3", ""])
def test_a_page_or_size_that_is_no_number_counts_as_absent(client: Client, text: str) -> None:
    meta = client.page(("page", text), ("per_page", text))["meta"]
    assert (meta["current_page"], meta["per_page"]) == (1, 100)


@pytest.mark.parametrize("cap", [50, 100, 200])
def test_per_page_is_capped_without_a_word(clock: ManualClock, cap: int) -> None:
    client = Client(clock, size=201, per_page_cap=cap)
    page = client.page(("per_page", 1000))
    assert (len(page["students"]), page["meta"]["per_page"]) == (cap, cap)


@pytest.mark.parametrize("status", ["400", "422"])
def test_a_per_page_over_the_cap_can_be_refused(clock: ManualClock, status: str) -> None:
    client = Client(clock, size=201, per_page_cap=100, per_page_over_cap=status)
    assert client.send("/v2p1/students", ("per_page", 101)).status == int(status)
    assert len(client.page(("per_page", 100))["students"]) == 100


def test_meta_can_tell_what_was_asked_for(clock: ManualClock) -> None:
    client = Client(clock, size=201, per_page_cap=50, meta_asked=("per_page", "total_pages"))
    page = client.page(("per_page", 150))
    assert (len(page["students"]), page["meta"]["per_page"], page["meta"]["total_pages"]) == (50, 150, 2)


def test_the_default_size_can_be_set(clock: ManualClock) -> None:
    assert Client(clock, default_per_page=5).page()["meta"]["per_page"] == 5


def test_past_the_end_is_empty(client: Client) -> None:
    page = client.page(("page", 3), ("per_page", 50))
    assert (page["students"], page["meta"]["current_page"], page["meta"]["total_pages"]) == ([], 3, 2)


def test_past_the_end_can_be_404(clock: ManualClock) -> None:
    client = Client(clock, past_the_end="404")
    assert client.send("/v2p1/students", ("page", 2)).status == 404
    assert client.send("/v2p1/students", ("page", 1), ("q", "nobody")).status == 200
    client.school.switches = Switches(past_the_end="404", pages_of_nothing=0)
    assert client.send("/v2p1/students", ("page", 1), ("q", "nobody")).status == 200


def test_past_the_end_can_repeat_the_last_page(clock: ManualClock) -> None:
    client = Client(clock, past_the_end="repeat")
    assert client.page(("page", 9), ("per_page", 5)) == client.page(("page", 3), ("per_page", 5))


@pytest.mark.parametrize("pages", [0, 1])
def test_nothing_has_no_pages_or_one(clock: ManualClock, pages: int) -> None:
    page = Client(clock, pages_of_nothing=pages).page(("q", "nobody"))
    assert page == {
        "students": [],
        "meta": {"current_page": 1, "total_pages": pages, "total_count": 0, "per_page": 100},
    }


def test_meta_can_lack_keys_or_have_more(clock: ManualClock) -> None:
    assert set(Client(clock, meta_without=("total_count",)).page()["meta"]) == {
        "current_page",
        "total_pages",
        "per_page",
    }
    meta = Client(clock, meta_extra=True).page(("per_page", 5), ("page", 2), ("modified_since", LONG_AGO))["meta"]
    assert (meta["prev_page"], meta["next_page"], meta["modified_since"]) == (1, 3, LONG_AGO)


@pytest.mark.parametrize("order", ["id", "-id", "updated_at", "-updated_at"])
def test_the_order_can_be_chosen(clock: ManualClock, order: str) -> None:
    client = Client(clock, order=order)
    client.school.touch(list(client.school.truth())[5])
    keys = [row[order.removeprefix("-")] for row in client.crawl(("per_page", 5))]
    assert keys == sorted(keys, reverse=order.startswith("-"))


def test_the_order_can_be_another_for_each_request(clock: ManualClock) -> None:
    client = Client(clock, order="random")
    one, other = client.ids(), client.ids()
    assert one != other
    assert sorted(one) == sorted(other) == sorted(client.school.truth())


def test_ids_can_be_ignored_or_capped(clock: ManualClock) -> None:
    assert len(Client(clock, ids_filter="ignored").ids(("ids[]", 1))) == 12
    capped = Client(clock, ids_cap=2)
    three = list(capped.school.truth())[:3]
    assert capped.ids(*[("ids[]", number) for number in three]) == three[:2]


# Deletions and bumps ---------------------------------------------------------------------------------------------


def with_one_deleted(clock: ManualClock, **switches: Any) -> tuple[Client, int, dict[str, Any]]:
    client = Client(clock, **switches)
    number, record = next(iter(client.school.truth().items()))
    clock.advance(30)
    client.school.delete(number)
    return client, number, record


def test_deleted_rows_can_be_full_records(clock: ManualClock) -> None:
    client, _, record = with_one_deleted(clock)
    assert client.crawl(("deleted_since", LONG_AGO)) == [record]


def test_deleted_rows_can_bear_deleted_at(clock: ManualClock) -> None:
    client, _, record = with_one_deleted(clock, deleted_feed="full_deleted_at")
    del record["updated_at"]
    assert client.crawl(("deleted_since", LONG_AGO)) == [{**record, "deleted_at": "2026-03-02T08:00:30.000Z"}]


def test_deleted_rows_can_be_stubs(clock: ManualClock) -> None:
    client, number, _ = with_one_deleted(clock, deleted_feed="stub")
    assert client.crawl(("deleted_since", LONG_AGO)) == [{"id": number}]


def test_deleted_rows_can_be_bare_ids(clock: ManualClock) -> None:
    client, number, _ = with_one_deleted(clock, deleted_feed="ids")
    assert client.page(("deleted_since", LONG_AGO))["students"] == [number]


def test_deleted_since_can_be_ignored(clock: ManualClock) -> None:
    client, _, _ = with_one_deleted(clock, deleted_feed="ignored")
    assert client.ids(("deleted_since", LONG_AGO)) == sorted(client.school.truth())


def test_deleted_since_can_show_nobody_ever(clock: ManualClock) -> None:
    client, _, _ = with_one_deleted(clock, deleted_feed="empty")
    assert client.ids(("deleted_since", LONG_AGO)) == []


def test_a_deleted_student_can_be_got_with_deleted_at(clock: ManualClock) -> None:
    client, number, _ = with_one_deleted(clock, deleted_get="record")
    assert client.student(number)["deleted_at"] == "2026-03-02T08:00:30.000Z"
    client.school.purge(number)
    assert client.send(f"/v2p1/students/{number}").status == 404


def test_the_deleted_can_stay_listed(clock: ManualClock) -> None:
    client, number, _ = with_one_deleted(clock, deleted_listed=True)
    page = client.page()
    assert page["meta"]["total_count"] == 12
    assert [row["id"] for row in page["students"] if "deleted_at" in row] == [number]


@pytest.mark.parametrize(
    ("switch", "change"),
    [("delete_bumps", "delete"), ("archive_bumps", "archive"), ("login_bumps", "login"), ("restore_bumps", "restore")],
)
@pytest.mark.parametrize("bumps", [True, False])
def test_what_bumps_updated_at_can_be_chosen(clock: ManualClock, switch: str, change: str, bumps: bool) -> None:
    client = Client(clock, deleted_get="record", **{switch: bumps})
    number = next(iter(client.school.truth()))
    if change == "restore":
        client.school.delete(number)
    clock.advance(60)
    getattr(client.school, change)(number)
    client.school.restore(number, bump=False) if change == "delete" else None
    assert (number in client.ids(("modified_since", to_text(clock.now())))) is bumps


def test_a_restore_can_be_told_whether_it_bumps(clock: ManualClock) -> None:
    client, number, record = with_one_deleted(clock, restore_bumps=False)
    client.school.restore(number, bump=True)
    assert client.student(number)["updated_at"] > record["updated_at"]


# Records ---------------------------------------------------------------------------------------------------------


def test_null_is_not_rendered(client: Client) -> None:
    assert all(value is not None for row in client.crawl() for value in row.values())


def test_null_can_be_rendered_for_every_field(clock: ManualClock) -> None:
    rows = Client(clock, nulls=True).crawl()
    assert all(set(FIELD_NAMES) - {"status"} <= set(row) for row in rows)
    assert any(value is None for value in rows[0].values())


def test_status_can_be_rendered(clock: ManualClock) -> None:
    client = Client(clock, size=200, status_key=True)
    assert Counter(row.get("status") for row in client.crawl()).keys() == {"enrolled", "withdrawn", "graduated", None}
    assert all("status" not in row for row in Client(clock).crawl())


def test_ids_can_be_texts(clock: ManualClock) -> None:
    row = Client(clock, ids_as_text=True).crawl(("status", "enrolled"))[0]
    assert isinstance(row["id"], str)
    assert isinstance(row["year_group_id"], str)
    assert all(isinstance(number, str) for number in row["parent_ids"])
    assert isinstance(row["graduating_year"], int)


def test_custom_fields_can_be_left_out(clock: ManualClock) -> None:
    assert all("house" in row for row in Client(clock).crawl())
    assert all("house" not in row for row in Client(clock, custom_fields=False).crawl())


def test_keys_can_be_left_out(clock: ManualClock) -> None:
    assert all("created_at" not in row for row in Client(clock, without_keys=("created_at",)).crawl())


@pytest.mark.parametrize(
    ("offset", "spelled"),
    [
        ("Z", "2026-03-02T08:00:00.000Z"),
        ("+00:00", "2026-03-02T08:00:00.000+00:00"),
        ("-08:00", "2026-03-02T00:00:00.000-08:00"),
    ],
)
def test_stamps_can_be_spelled_with_an_offset(clock: ManualClock, offset: str, spelled: str) -> None:
    client = Client(clock, offset=offset, deleted_get="record")
    number = client.school.create()
    assert client.student(number)["created_at"] == client.student(number)["updated_at"] == spelled
    client.school.delete(number)
    assert client.student(number)["deleted_at"] == spelled


def test_switches_can_be_thrown_while_the_school_lives(client: Client) -> None:
    client.crawl()
    client.school.switches = Switches(nulls=True, order="-id")
    rows = client.crawl()
    assert rows[0]["id"] > rows[-1]["id"]
    assert "preferred_name" in rows[0]


# Time ------------------------------------------------------------------------------------------------------------


def date_of(client: Client) -> Any:
    return parsedate_to_datetime(client.send("/v2p1/students").headers["Date"])


def test_every_answer_bears_the_servers_time(client: Client, clock: ManualClock) -> None:
    clock.advance(0.9)
    assert date_of(client) == clock.now().replace(microsecond=0)
    assert "Date" in client.send("/nowhere").headers


def test_the_servers_clock_can_be_off(clock: ManualClock) -> None:
    client = Client(clock, clock_skew=-90)
    number = client.school.create()
    assert date_of(client) == clock.now() - timedelta(seconds=90)
    assert client.student(number)["created_at"] == to_text(clock.now() - timedelta(seconds=90))


def test_the_date_alone_can_be_off_or_missing(clock: ManualClock) -> None:
    client = Client(clock, date_skew=45)
    assert date_of(client) == clock.now() + timedelta(seconds=45)
    assert client.student(client.school.create())["created_at"] == to_text(clock.now())
    assert "Date" not in Client(clock, date_header=False).send("/v2p1/students").headers


def test_app_servers_can_stamp_differently(clock: ManualClock) -> None:
    client = Client(clock, stamp_skews=(-5.0, 0.0, 5.0))
    stamps = {client.student(client.school.create())["created_at"] for _ in range(50)}
    assert stamps == {to_text(clock.now() + timedelta(seconds=skew)) for skew in (-5, 0, 5)}


def test_a_write_can_come_to_sight_late(clock: ManualClock) -> None:
    client = Client(clock, late_commit_seconds=30)
    begin = to_text(clock.now())
    one, other, *_ = client.school.truth()
    client.school.update(one, city="Late")
    client.school.delete(other)
    new = client.school.create()
    clock.advance(29)
    assert client.school.truth()[one].get("city") != "Late"
    assert client.ids(("modified_since", begin)) == client.ids(("deleted_since", begin)) == []
    assert client.send(f"/v2p1/students/{new}").status == 404
    clock.advance(1)
    assert client.ids(("modified_since", begin)) == [one, new]
    assert client.ids(("deleted_since", begin)) == [other]
    assert client.student(one)["updated_at"] == begin
    assert {row["id"]: row for row in client.crawl()} == client.school.truth()


def test_late_writes_can_be_a_share(clock: ManualClock) -> None:
    client = Client(clock, size=0, late_commit_seconds=30, late_commit_share=0.5)
    for _ in range(100):
        client.school.create()
    assert 20 < len(client.ids()) < 80


def test_writes_to_one_student_come_to_sight_in_their_order(clock: ManualClock) -> None:
    client = Client(clock, late_commit_seconds=30, late_commit_share=0.5)
    number = client.school.create(graduating_year=-1)
    seen = []
    for turn in range(40):
        client.school.update(number, graduating_year=turn)
        clock.advance(1)
        seen.append(client.school.truth().get(number, {}).get("graduating_year", -1))
    clock.advance(60)
    assert seen == sorted(seen)
    assert client.student(number)["graduating_year"] == 39


def test_a_write_waits_for_the_one_before_it_as_behind_a_row_lock(clock: ManualClock) -> None:
    client = Client(clock, late_commit_seconds=30)
    number = next(iter(client.school.truth()))
    client.school.update(number, city="Late")
    client.school.switches = Switches(late_commit_seconds=30, late_commit_share=0)
    client.school.update(number, city="Prompt")
    assert client.student(number).get("city") != "Prompt"
    clock.advance(30)
    assert client.student(number)["city"] == "Prompt"


def test_a_replica_can_lag_for_a_share_of_the_requests(clock: ManualClock) -> None:
    client = Client(clock, lag_seconds=60, lag_share=0.5)
    number = next(iter(client.school.truth()))
    before = client.student(number)["updated_at"]
    clock.advance(120)
    client.school.touch(number)
    assert {client.student(number)["updated_at"] for _ in range(50)} == {before, to_text(clock.now())}
    assert {len(client.ids(("modified_since", to_text(clock.now())))) for _ in range(50)} == {0, 1}
    assert client.school.truth()[number]["updated_at"] == to_text(clock.now())
    clock.advance(60)
    assert {client.student(number)["updated_at"] for _ in range(50)} == {client.school.truth()[number]["updated_at"]}


def test_states_that_nobody_sees_any_more_are_forgotten(clock: ManualClock) -> None:
    client = Client(clock, size=1, lag_seconds=10, lag_share=0.5)
    (number,) = client.school.truth()
    for _ in range(100):
        clock.advance(5)
        client.school.touch(number)
    version, depth = client.school.version(number), 0
    while version is not None:
        version, depth = version.previous, depth + 1
    assert depth <= 4


def test_answers_can_be_compressed_for_those_who_accept_it(clock: ManualClock) -> None:
    client = Client(clock, gzip=True)
    plain = client.send("/v2p1/students")
    packed = client.send("/v2p1/students", headers={**HEADERS, "accept-encoding": "gzip, deflate"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


def test_answers_come_quickly(clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(clock, size=200)
    begin = perf_counter()
    for _ in range(1000):
        client.send("/v2p1/students", ("page", 2), ("per_page", 50))
    with capsys.disabled():
        print(f"\nsimulator: a page of 50 in {(perf_counter() - begin) * 1000:.0f} us")  # noqa: T201 - the point
