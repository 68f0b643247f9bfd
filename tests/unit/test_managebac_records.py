from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rostersync.errors import Malformed
from rostersync.managebac.decoding import answers, parts, records
from rostersync.managebac.decoding.answers import decode_page, decode_single, is_error
from rostersync.managebac.decoding.records import decode_record, decode_student
from rostersync.records import FIELD_NAMES, ListedRow, Moment, Rejected, Student, decode, encode, with_status

MOMENT = Moment(datetime(2026, 3, 2, 8, tzinfo=UTC), None)

ZORBELLA: dict[str, Any] = {
    "id": 20540001,
    "email": "z.quindlebrook@example.invalid",
    "first_name": "Zorbella",
    "last_name": "Quindlebrook",
    "middle_name": "",
    "archived": False,
    "created_at": "2024-08-12T07:40:05.000Z",
    "updated_at": "2026-02-03T11:05:44.000Z",
    "last_accessed_at": "2026-02-03T03:01:09.000-08:00",
    "birthday": "2009-05-17",
    "year_group_id": 10209272,
    "parent_ids": [30120011, 30120012],
    "nationalities": ["US", "GB"],
    "languages": [],
    "house": {"name": "Owls", "points": 3},
}


def page_of(*rows: Any, **meta: Any) -> bytes:
    counts = {"current_page": 1, "total_pages": 1, "total_count": len(rows), "per_page": 100}
    return json.dumps({"students": rows, "meta": counts | meta}).encode()


def student(**fields: Any) -> Student:
    decoded = decode_student({"id": 1} | fields)
    assert isinstance(decoded, Student), decoded
    return decoded


def reason(record: Any) -> str:
    decoded = decode_student(record)
    assert isinstance(decoded, Rejected), decoded
    return decoded.reason


# A record --------------------------------------------------------------------------------------------------------


def test_a_record_becomes_a_student_with_nothing_lost() -> None:
    decoded = decode_student(ZORBELLA)
    assert isinstance(decoded, Student)
    assert decoded == Student(
        id=20540001,
        email="z.quindlebrook@example.invalid",
        first_name="Zorbella",
        last_name="Quindlebrook",
        middle_name="",
        archived=False,
        created_at=datetime(2024, 8, 12, 7, 40, 5, tzinfo=UTC),
        updated_at=datetime(2026, 2, 3, 11, 5, 44, tzinfo=UTC),
        last_accessed_at=datetime(2026, 2, 3, 11, 1, 9, tzinfo=UTC),
        birthday=date(2009, 5, 17),
        year_group_id=10209272,
        parent_ids=(30120011, 30120012),
        nationalities=("US", "GB"),
        languages=(),
        extra={"house": {"name": "Owls", "points": 3}},
    )


def test_a_stub_of_the_deleted_feed_is_a_record() -> None:
    assert decode_student({"id": 20540777}) == Student(id=20540777)


def test_null_is_absent() -> None:
    nulls = dict.fromkeys((*FIELD_NAMES, "house", "deleted_at"))
    assert student(**nulls) == Student(id=1)


def test_a_password_is_never_kept() -> None:
    assert student(password="correct horse").extra == {}


@pytest.mark.parametrize("served", [12, "12", " 12 ", "012"])
def test_an_integer_may_be_served_as_text(served: Any) -> None:
    assert student(graduating_year=served).graduating_year == 12
    assert decode_student({"id": served}) == Student(id=12)


@pytest.mark.parametrize(
    ("served", "meant"),
    [
        (True, True),
        ("true", True),
        ("TRUE", True),
        ("1", True),
        (1, True),
        (False, False),
        ("false", False),
        ("0", False),
        (0, False),
    ],
)
def test_a_boolean_may_be_served_as_text_or_number(served: Any, meant: bool) -> None:
    assert student(archived=served).archived is meant


@pytest.mark.parametrize(
    ("written", "text"),
    [("56981", "56981"), ("1.10", "1.10"), ("1e2", "1e2"), ("1e400", "1e400"), ('"x"', "x"), ('""', "")],
)
def test_a_number_for_a_text_is_kept_as_it_was_written(written: str, text: str) -> None:
    body = b'{"student": {"id": 1, "state": %s}}' % written.encode()
    decoded = decode_single(body)
    assert isinstance(decoded, Student)
    assert decoded.state == text


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T07:30:15.250Z",
        "2026-03-01T07:30:15.250+00:00",
        "2026-02-28T23:30:15.250-08:00",
        "2026-03-01T07:30:15.2509999Z",
        "2026-03-01 07:30:15.250Z",
    ],
)
def test_timestamps_of_any_offset_become_utc_milliseconds(text: str) -> None:
    read = student(updated_at=text).updated_at
    assert read == datetime(2026, 3, 1, 7, 30, 15, 250_000, tzinfo=UTC)
    assert read.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01 07:30:15 UTC",
        "2026-03-01T07:30:15.000 UTC",
        "2026-03-01T07:30:15Z UTC",
        "2026-03-01T07:30:15",
        "2026-03-01 07:30:15.000",
    ],
)
def test_a_timestamp_that_ends_in_utc_or_names_no_offset_is_utc(text: str) -> None:
    assert student(updated_at=text).updated_at == datetime(2026, 3, 1, 7, 30, 15, tzinfo=UTC)
    [row] = listed(ZORBELLA | {"updated_at": text})
    assert row.updated_at == datetime(2026, 3, 1, 7, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("updated_at", "assumed"),
    [
        ("2026-03-01T07:30:15", True),
        ("2026-03-01 07:30:15.000", True),
        ("2026-03-01 07:30:15 UTC", False),
        ("2026-03-01T07:30:15Z", False),
        ("2026-03-01T07:30:15-08:00", False),
        ("2026-03-01", False),
        ("last week", False),
        (5, False),
        (None, False),
    ],
)
def test_a_page_says_whether_a_row_of_it_has_an_updated_at_without_an_offset(updated_at: Any, assumed: bool) -> None:
    page = decode_page(page_of(ZORBELLA, {"id": 2, "updated_at": updated_at}), 1, MOMENT)
    assert page.assumes_utc is assumed


@pytest.mark.parametrize(
    ("name", "served", "kept"),
    [
        ("updated_at", "2017-11-06T04:35:00.000GST", "2017-11-06T04:35:00.000GST"),
        ("updated_at", "2026-03-01", "2026-03-01"),
        ("updated_at", "2026-03-01 UTC", "2026-03-01 UTC"),
        ("updated_at", "20260301", "20260301"),
        ("updated_at", 1772350215, "1772350215"),
        ("birthday", "17/05/2009", "17/05/2009"),
        ("birthday", "2009-02-30", "2009-02-30"),
        ("birthday", "20090517", "20090517"),
        ("birthday", "2009-W20-7", "2009-W20-7"),
        ("birthday", "2009-05-17T00:00:00Z", "2009-05-17T00:00:00Z"),
        ("birthday", "", ""),
    ],
)
def test_a_date_that_cannot_be_read_is_none_and_its_text_stays(name: str, served: Any, kept: str) -> None:
    decoded = student(**{name: served})
    assert getattr(decoded, name) is None
    assert decoded.extra == {name: kept}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "withdrawn"}, "withdrawn"),
        ({"status": "", "archived": True}, "archived"),
        ({"status": "withdrawn", "archived": False}, "withdrawn"),
        ({"archived": False, "withdrawn_on": "2025-06-30"}, "enrolled"),
        ({"archived": False, "graduated_on": "2025-06-30"}, "enrolled"),
        ({"archived": True, "withdrawn_on": "2025-06-30"}, "withdrawn"),
        ({"archived": True, "graduated_on": "2025-06-30"}, "graduated"),
        ({"archived": True}, "archived"),
        ({"graduated_on": "2025-06-30"}, "graduated"),
        ({"graduated_on": "last summer"}, "graduated"),
        ({"withdrawn_on": "2025-06-30"}, "withdrawn"),
        ({"withdrawn_on": ""}, "enrolled"),
        ({}, "enrolled"),
    ],
)
def test_the_status_is_the_served_one_or_derived(fields: dict[str, Any], status: str) -> None:
    assert with_status(student(**fields)).status == status


def test_deleted_at_says_when_the_record_went() -> None:
    assert student(deleted_at="2026-02-10T14:05:00.000Z").deleted_at == datetime(2026, 2, 10, 14, 5, tzinfo=UTC)


def test_a_deleted_at_that_cannot_be_read_still_says_gone_as_of_the_last_update() -> None:
    decoded = student(deleted_at="yesterday", updated_at="2026-02-03T11:05:44.000Z")
    assert decoded.deleted_at == datetime(2026, 2, 3, 11, 5, 44, tzinfo=UTC)
    assert decoded.extra == {"deleted_at": "yesterday"}
    assert student(deleted_at="yesterday").deleted_at is not None


def test_a_record_that_says_gone_is_gone_whatever_else_of_it_cannot_be_understood() -> None:
    decoded = student(email={"a": 1}, deleted_at="2026-02-03T11:05:44.000Z")
    assert (decoded.email, decoded.deleted_at) == (None, datetime(2026, 2, 3, 11, 5, 44, tzinfo=UTC))


def test_an_empty_deleted_at_does_not_say_gone() -> None:
    assert student(deleted_at="").deleted_at is None


def test_elements_that_are_null_are_absent_too() -> None:
    assert student(parent_ids=[1, None, "2"]).parent_ids == (1, 2)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("class_grade_number", "KG"),
        ("nationalities", "US"),
        ("email", {"a": 1}),
        ("email", True),
        ("year_group_id", [5]),
        ("year_group_id", 1.5),
        ("year_group_id", "1_0"),
        ("year_group_id", True),
        ("year_group_id", 2**63),
        ("year_group_id", "9" * 5000),
        ("parent_ids", [2**63]),
        ("parent_ids", 5),
        ("updated_at", {}),
        ("birthday", [1]),
    ],
)
def test_a_value_that_its_field_cannot_hold_leaves_the_field_empty_and_stays_in_extra(name: str, served: Any) -> None:
    decoded = student(city="Nowhereton", **{name: served})
    assert getattr(decoded, name) is None
    assert decoded.extra == {name: served}
    assert decoded.city == "Nowhereton"
    assert decode(encode(decoded)) == decoded


ODD: dict[str, Any] = {"year_group_id": "x", "parent_ids": 5, "languages": "ENG", "email": {"a": 1}}


def test_a_record_with_up_to_three_odd_values_is_kept_and_one_with_more_is_rejected() -> None:
    three = dict(list(ODD.items())[:3])
    assert student(**three).extra == three
    assert student(**three, birthday="17/05/2009").extra == three | {"birthday": "17/05/2009"}
    assert reason({"id": 1} | ODD) == (
        "year_group_id: expected an integer, found a string; and 3 more fields have values of the wrong kind"
    )
    assert reason({"id": 1, "city": True} | ODD) == (
        "city: expected a string, found true or false; and 4 more fields have values of the wrong kind"
    )


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"archived": "perhaps", "status": "withdrawn"}, "withdrawn"),
        ({"archived": False, "withdrawn_on": [1]}, "enrolled"),
        ({"archived": True, "withdrawn_on": [1], "graduated_on": "2025-06-30"}, "graduated"),
        ({"withdrawn_on": {"day": 1}, "graduated_on": "last summer"}, "graduated"),
    ],
)
def test_an_odd_value_on_which_the_status_does_not_rest_does_no_harm(fields: dict[str, Any], status: str) -> None:
    assert with_status(student(**fields)).status == status


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"archived": "perhaps"}, "archived: expected true or false, found a string"),
        ({"archived": "perhaps", "status": "", "graduated_on": "2025-06-30"}, "archived: expected true or false"),
        ({"status": {"code": "withdrawn"}, "archived": False}, "status: expected a string, found an object"),
        ({"status": ["x"], "graduated_on": "2025-06-30"}, "status: expected a string, found a list"),
        ({"graduated_on": [], "archived": True}, "graduated_on: expected a date, found a list"),
        ({"withdrawn_on": {"day": 1}}, "withdrawn_on: expected a date, found an object"),
        ({"deleted_at": {}}, "deleted_at: expected a timestamp, found an object"),
        ({"deleted_at": False}, "deleted_at: expected a timestamp, found true or false"),
    ],
)
def test_an_odd_value_on_which_the_status_or_a_deletion_rests_rejects_the_record(
    fields: dict[str, Any], told: str
) -> None:
    """Neither reading of it would be safe: the student stays as stored."""
    assert reason({"id": 1} | fields).startswith(told)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"city": "a\0b"}, "city: a NUL character, which no database can store"),
        ({"city": "\ud800"}, "city: half a character (a lone surrogate), which no database can store"),
        ({"house": ["a\0b"]}, "an unknown key: a NUL character, which no database can store"),
        ({"house": {"\0": 1}}, "an unknown key: a NUL character, which no database can store"),
        ({"hou\udfffse": 1}, "an unknown key: half a character (a lone surrogate), which no database can store"),
        ({"email": ["a\0b"]}, "email: a NUL character, which no database can store"),
        ({"oa_id": ["\ud800"]}, "oa_id: half a character (a lone surrogate), which no database can store"),
        ({"year_group_id": 10**400}, "year_group_id: a number that is too large to be stored"),
        ({"points": math.nan}, "an unknown key: a number that is too large to be stored"),
        ({"points": 10**400}, "an unknown key: a number that is too large to be stored"),
    ],
)
def test_what_cannot_be_stored_is_rejected_with_its_id(fields: dict[str, Any], told: str) -> None:
    decoded = decode_student({"id": 7} | fields)
    assert isinstance(decoded, Rejected)
    assert decoded.id == 7
    assert decoded.reason.startswith(told)


def test_values_nested_too_deeply_are_rejected() -> None:
    nested: Any = []
    for _ in range(100):
        nested = [nested]
    assert reason({"id": 1, "house": nested}) == "an unknown key: nested too deeply to be stored"


@pytest.mark.parametrize("key", [None, 0, -5, True, "x", "", 1.5, 2**63, [1], {}])
def test_a_record_without_a_usable_id_is_known_by_its_content(key: Any) -> None:
    record = {"id": key, "city": "Nowhereton"}
    first, again = decode_student(record), decode_student(dict(reversed(record.items())))
    other = decode_student(record | {"city": "Elsewhere"})
    assert isinstance(first, Rejected)
    assert isinstance(other, Rejected)
    assert first.id is None
    assert first.reason.startswith("id: ")
    assert len(first.digest) == 16
    assert first == again
    assert first.digest != other.digest


@pytest.mark.parametrize("record", [None, 5, "x", [], True])
def test_a_record_that_is_no_object_is_rejected(record: Any) -> None:
    assert reason(record).startswith("the record: expected an object")


# Any record ------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["", "12", "true", "\0", "x\ud800"])
)
TIMES = st.sampled_from(
    [
        "2026-03-01T07:30:15.250Z",
        "2026-03-01t07:30:15.250z",
        "2026-13-01T07:30:15.250Z",
        "2026-03-01T24:00:00.000Z",
        "2026-03-01T07:30:60.000Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59.9-14:00",
        "2026-03-01 07:30:15.25Z",
        "2026-03-01",
        "2009-05-17",
        "20260301T073015.0000000Z",
        "2026-03-01T07:30:15.0000Z",
        "2026-03-01T07:30:15",
        "2026-03-01 07:30:15 UTC",
        "2026-03-01T07:30+01:30",
    ]
)
VALUES = st.recursive(
    SCALARS | TIMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(("id", "deleted_at", "password", "extra", *FIELD_NAMES)) | st.text(max_size=5)
RECORDS = st.dictionaries(NAMES, VALUES, max_size=8)


@given(RECORDS | VALUES)
def test_no_record_crashes_the_decoder(record: Any) -> None:
    assert isinstance(decode_student(record), (Student, Rejected))


@settings(max_examples=400)
@given(RECORDS, st.integers(min_value=1, max_value=2**63 - 1))
@example({"status": [], "archived": True}, 1)
@example({"status": 0, "archived": True}, 1)
@example({"city": "\\u0000"}, 1)
@example({"extra": {"city": 1}}, 1)
@example({"\ue000extra": {"city": 1}}, 1)
@example({"graduating_year": 2030.0}, 1)
def test_the_quick_way_and_the_lenient_way_agree(record: dict[str, Any], key: int) -> None:
    text = json.dumps(record | {"id": key}).encode()
    quick = records._decode_documented(text)
    assert quick is None or repr(quick) == repr(decode_student(parts.value(text)))


@given(st.sampled_from(FIELD_NAMES), st.text(min_size=4, alphabet="qxzj0123456789") | st.integers(min_value=10_000))
def test_no_value_is_told_in_a_reason(name: str, secret: str | int) -> None:
    for value in (secret, [secret], {"a": secret}, f"{secret}\0"):
        decoded = decode_student({"id": 1, name: value, f"{secret}": "\0"})
        assert isinstance(decoded, Rejected)
        assert str(secret) not in decoded.reason


@given(RECORDS)
def test_a_record_keeps_its_digest_and_its_decoding(record: dict[str, Any]) -> None:
    assert decode_student(record) == decode_student(dict(record))


# A page ----------------------------------------------------------------------------------------------------------


def test_a_page_tells_what_its_meta_says() -> None:
    page = decode_page(page_of(ZORBELLA, total_pages="3", total_count=" 201 ", next_page=None), 2, MOMENT)
    assert (page.number, page.total_pages, page.total_count, page.per_page) == (2, 3, 201, 100)
    assert page.moment is MOMENT
    assert [row.id for row in page.rows] == [20540001]


LEFT_OUT = [("per_page",), ("current_page",), ("total_pages",), ("per_page", "current_page", "total_pages")]


def without_meta(names: tuple[str, ...], *rows: Any, **meta: Any) -> bytes:
    document = json.loads(page_of(*rows, **meta))
    return json.dumps(document | {"meta": {k: v for k, v in document["meta"].items() if k not in names}}).encode()


@pytest.mark.parametrize("names", LEFT_OUT)
@pytest.mark.parametrize("total", [2, 3, 4, 5])
def test_what_meta_leaves_out_follows_from_the_total_and_the_rows_of_the_first_page(
    names: tuple[str, ...], total: int
) -> None:
    rows = [{"id": 1}, {"id": 2}]
    pages = -(-total // 2)
    page = decode_page(without_meta(names, *rows, total_count=total, total_pages=pages, per_page=2), 1, MOMENT)
    assert (page.per_page, page.total_pages, page.others) == (2, pages, range(2, pages + 1))


@pytest.mark.parametrize(("asked", "told"), [(2, 3), (3, 2), (5, 1), (200, 1)])
def test_a_total_of_pages_that_follows_from_the_rows_asked_for_is_not_believed(asked: int, told: int) -> None:
    """The server puts two on a page, and counts pages as if it put as many there as it is asked for."""
    page = page_of({"id": 1}, {"id": 2}, total_count=5, total_pages=told, per_page=asked)
    assert decode_page(page, 1, MOMENT, asked=asked).total_pages == 3


@pytest.mark.parametrize("told", [0, 2, 4])
def test_another_total_of_pages_is_believed(told: int) -> None:
    page = page_of({"id": 1}, {"id": 2}, total_count=5, total_pages=told)
    assert decode_page(page, 1, MOMENT, asked=200).total_pages == told


def test_a_row_that_a_first_page_brings_twice_counts_once_for_the_number_of_pages() -> None:
    rows = [{"id": 1}, {"id": 2}, {"id": 2}]
    assert decode_page(without_meta(LEFT_OUT[-1], *rows, total_count=6), 1, MOMENT).total_pages == 3


def test_a_first_page_with_more_rows_than_its_total_is_the_only_one() -> None:
    assert decode_page(without_meta(LEFT_OUT[-1], {"id": 1}, {"id": 2}, total_count=1), 1, MOMENT).total_pages == 1


def test_nobody_is_on_no_page() -> None:
    page = decode_page(without_meta(LEFT_OUT[-1]), 1, MOMENT)
    assert (page.total_pages, page.whole, page.rows) == (0, True, ())


@pytest.mark.parametrize("served", [None, "left out"])
def test_a_later_page_does_not_say_what_its_meta_leaves_out(served: Any) -> None:
    names = LEFT_OUT[-1] if served else ()
    page = decode_page(without_meta(names, {"id": 3}, **dict.fromkeys(LEFT_OUT[-1]), total_count=3), 2, MOMENT)
    assert (page.per_page, page.total_pages, page.total_count) == (None, None, 3)


@pytest.mark.parametrize(
    "body",
    [
        without_meta(("per_page",), total_count=3),
        without_meta(("total_count",), {"id": 1}),
        without_meta(("total_pages",), {"id": 1}, total_count=10_001),
        page_of({"id": 1}, per_page="many"),
        page_of({"id": 1}, total_pages=[]),
    ],
)
def test_a_meta_that_leaves_too_much_out_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_page(body, 1, MOMENT)


def test_an_empty_result_may_have_no_pages() -> None:
    assert decode_page(page_of(total_pages=0), 1, MOMENT).rows == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"error": "Access Denied"}',
        b'{"students": {}, "meta": {}}',
        b'{"students": []}',
        b'{"students": [], "meta": []}',
        page_of(total_count=None),
        page_of(total_count=-1),
        page_of(total_count="many"),
        page_of(total_count=True),
        page_of(total_count=1.0),
        page_of(total_count=2**63),
        page_of(total_count=3),
        page_of(ZORBELLA)[:-2],
        b'{"students": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_list_of_students_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_page(body, 1, MOMENT)


def test_an_empty_page_behind_the_first_is_no_contradiction() -> None:
    assert decode_page(page_of(total_count=3), 2, MOMENT).rows == ()


def test_a_page_may_have_more_rows_than_its_total() -> None:
    assert len(decode_page(page_of({"id": 1}, {"id": 2}, total_count=1), 1, MOMENT).rows) == 2


@pytest.mark.parametrize(
    "broken",
    [
        rb'{"id": 2, "city": "\ud800"}',
        b'{"id": 2, "city": "\xff"}',
        b'{"id": 2, "city": "a\x00b"}',
        b'{"id": 2, "points": NaN}',
        b'{"id": 2, "points": 1e400}',
        b'{"id": 2, "points": ' + b"9" * 5000 + b"}",
    ],
)
def test_one_bad_record_does_not_lose_its_page(broken: bytes) -> None:
    body = page_of({"id": 1, "city": "Ōtsu", "state": "1.5"}, "HERE", {"id": 3}).replace(b'"HERE"', broken)
    rows = decode_page(body, 1, MOMENT).rows
    assert [type(row) for row in rows] == [Student, Rejected, Student]
    assert [row.id for row in rows] == [1, 2, 3]
    assert isinstance(rows[0], Student)
    assert rows[0].city == "Ōtsu"


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert len(decode_page(b"\xef\xbb\xbf" + page_of({"id": 1}), 1, MOMENT).rows) == 1


def test_fractions_in_unknown_keys_stay_numbers() -> None:
    decoded = decode_single(b'{"student": {"id": 1, "average": 5.50, "all": [1, 2.5]}}')
    assert isinstance(decoded, Student)
    assert decoded.extra == {"average": 5.5, "all": [1, 2.5]}
    assert type(decoded.extra["average"]) is float


def test_a_deleted_feed_may_be_a_list_of_ids() -> None:
    body = page_of(7, "8", {"id": 9}, 0, [10], total_count=5)
    page = decode_page(body, 1, MOMENT, of_deleted=True)
    assert [row.id for row in page.rows] == [7, 8, 9, None, None]
    assert [row.id for row in decode_page(body, 1, MOMENT).rows] == [None, None, 9, None, None]


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": 7, "city": "Nowhereton"}',
        b' \n{"city": "Nowhereton", "id": 7}\n',
        b'\xef\xbb\xbf{"id": 7, "city": "Nowhereton"}',
    ],
)
def test_a_single_student_may_come_without_its_wrapper(body: bytes) -> None:
    decoded = decode_single(body, unwrapped=True)
    assert isinstance(decoded, Student)
    assert (decoded.id, decoded.city) == (7, "Nowhereton")
    with pytest.raises(Malformed):
        decode_single(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "7"}',
        b'{"id": null}',
        b'{"id": 7.0}',
        b'{"city": "Nowhereton"}',
        b'{"id": 7, "error": "no"}',
        b'{"id": 7, "errors": {}}',
        b'{"id": 7, "student": null}',
        b'{"id": 7',
        b"[7]",
        b"7",
    ],
)
def test_what_has_neither_a_wrapper_nor_an_integer_id_is_no_student(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_single(body, unwrapped=True)


@pytest.mark.parametrize("body", [b"{}", b'{"student": null}', b'{"student": [1]}', b'{"students": []}', b"oops"])
def test_an_answer_without_a_student_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_single(body)


def test_the_apis_own_no_is_told_from_a_foreign_one() -> None:
    assert is_error(b'{"error": "Record was not found"}')
    assert is_error(b'{"errors": {"base": ["gone"]}}')
    assert not is_error(b"<html>404</html>")
    assert not is_error(b'{"message": "no route"}')
    assert not is_error(b"[]")


# The rows of a page, undecoded -----------------------------------------------------------------------------------


def listed(*rows: Any) -> tuple[ListedRow, ...]:
    return decode_page(page_of(*rows), 1, MOMENT).listed


def test_a_row_tells_its_id_and_its_stamp_without_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(answers, "decode_record", lambda text, _: decoded.append(text) or decode_record(text))
    [row] = listed(ZORBELLA)
    assert (row.key, row.updated_at) == (20540001, datetime(2026, 2, 3, 11, 5, 44, tzinfo=UTC))
    assert decoded == []
    assert row.decode() == decode_student(ZORBELLA)
    assert [json.loads(text) for text in decoded] == [ZORBELLA]


@pytest.mark.parametrize("key", ["20540001", " 20540001 ", "020540001"])
def test_a_row_whose_id_is_a_string_has_the_same_key(key: str) -> None:
    [row] = listed(ZORBELLA | {"id": key})
    assert row.key == 20540001


def test_a_row_that_cannot_be_decoded_tells_its_id_and_its_stamp_all_the_same() -> None:
    [row] = listed(ZORBELLA | {"email": "no\0text"})
    assert (row.key, row.updated_at) == (20540001, datetime(2026, 2, 3, 11, 5, 44, tzinfo=UTC))
    assert isinstance(row.decode(), Rejected)


@pytest.mark.parametrize("deleted_at", ["2026-02-10T14:05:00.000Z", "yesterday"])
def test_a_row_that_bears_deleted_at_has_no_stamp(deleted_at: str) -> None:
    [row] = listed(ZORBELLA | {"deleted_at": deleted_at})
    assert (row.key, row.updated_at) == (20540001, None)


@pytest.mark.parametrize("updated_at", [None, "", "2026-02-03", "last week", 1772350215, {}])
def test_a_row_whose_updated_at_is_missing_or_unreadable_has_no_stamp(updated_at: Any) -> None:
    [row] = listed(ZORBELLA | {"updated_at": updated_at})
    assert (row.key, row.updated_at) == (20540001, None)


@pytest.mark.parametrize("record", [{"city": "Nowhereton"}, {"id": 0}, {"id": "x"}, {"id": 2**63}, {}, 5, None])
def test_equal_records_without_an_id_have_different_keys_and_the_same_ones_in_every_reading(record: Any) -> None:
    keys = [row.key for row in listed(record, {"id": 1}, record, record)]
    assert len(set(keys)) == 4
    assert keys == [row.key for row in listed(record, {"id": 1}, record, record)]
    assert {key for key in keys if key > 0} == {1}  # none of them can be taken for a student


def test_equal_records_without_an_id_stay_apart_once_they_are_decoded() -> None:
    first, second = (row.decode() for row in listed({"city": "Nowhereton"}, {"city": "Nowhereton"}))
    assert isinstance(first, Rejected)
    assert isinstance(second, Rejected)
    assert first.digest != second.digest
    assert (first.id, first.reason) == (second.id, second.reason) == (None, "id: missing")


def test_a_page_of_1000_equal_records_without_an_id_is_read() -> None:
    assert len({row.key for row in listed(*[{"city": "Nowhereton"}] * 1_000)}) == 1_000
