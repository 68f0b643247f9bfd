"""I12: what an answer holds takes neither time nor memory without end, and harms no other record, source or run."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hostile_figures import GROUPS, HostileServer, nested, page, response, run, student, with_value
from hypothesis import given
from hypothesis import strategies as st

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.errors import Malformed, OutOfTime
from rostersync.managebac import ManageBac
from rostersync.managebac.decoding.answers import MOST_PAGES, MOST_ROWS, decode_page, decode_single, field_messages
from rostersync.managebac.decoding.parts import LARGEST, Members, elements, split
from rostersync.managebac.endpoints import SPARE_ROWS
from rostersync.managebac.reader import StudentReader
from rostersync.managebac.wire.http import MAX_ERROR_BYTES, Call, Reply, RequestsWire
from rostersync.pool import DaemonExecutor
from rostersync.records import Moment, Query, Rejected, Student
from rostersync.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import ManualClock
    from hostile_figures import Attack

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
MOMENT = Moment(NOW, NOW)


# Whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__.lstrip("_"))
def test_no_answer_takes_200_mib_or_much_time_and_each_ends_as_it_should(group: Callable[[], Iterator[Attack]]) -> None:
    attacks = [attack for attack in group() if not attack.slow]
    figures = run(attacks)
    ended = [(report["state"], report["inserted"]) for report in figures.reports]
    assert dict(zip([a.name for a in attacks], ended, strict=True)) == {a.name: (a.state, a.stored) for a in attacks}
    assert figures.peak_mib < 200
    assert figures.cpu_seconds < 5 * len(attacks)


# Too deep, too large ---------------------------------------------------------------------------------------------


def rows(body: bytes) -> list[Student | Rejected]:
    return list(decode_page(body, 1, MOMENT).rows)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (nested(100), "an unknown key: nested too deeply to be stored"),
        (nested(5_000), "nested too deeply to be stored"),
        (nested(500_000), "the record: larger than 65,536 bytes"),
        (b'"' + b"a" * LARGEST + b'"', "the record: larger than 65,536 bytes"),
        (b"9" * LARGEST, "the record: larger than 65,536 bytes"),
    ],
    ids=["100 deep", "5,000 deep", "500,000 deep", "a text", "a number"],
)
def test_a_value_that_is_too_deep_or_too_large_rejects_its_record_by_id_and_no_other(value: bytes, reason: str) -> None:
    good, bad, *others = rows(with_value(value))
    assert isinstance(bad, Rejected)
    assert bad.id == 2
    assert bad.reason.endswith(reason)
    assert [type(row) for row in (good, *others)] == [Student] * 3


def test_a_value_of_64_levels_is_stored_and_one_of_65_is_not() -> None:
    stored, rejected = (
        decode_single(b'{"student": ' + student(1).rstrip(b"}") + b', "house": %s}}' % nested(depth))
        for depth in (64, 65)
    )
    assert isinstance(stored, Student)
    assert isinstance(rejected, Rejected)


def test_a_record_as_large_as_any_may_be_is_stored() -> None:
    room = LARGEST - len(student(1, house=""))
    (decoded,) = rows(page(student(1, house="a" * room), 1))
    assert isinstance(decoded, Student)
    (rejected,) = rows(page(student(1, house="a" * (room + 1)), 1))
    assert isinstance(rejected, Rejected)


def test_a_record_that_is_too_large_says_gone_all_the_same() -> None:
    record = student(7, house="a" * LARGEST, deleted_at="2026-02-10T14:05:00.000Z")
    decoded = decode_single(b'{"student": ' + record + b"}")
    assert decoded == Student(id=7, deleted_at=datetime(2026, 2, 10, 14, 5, tzinfo=UTC))


def test_a_record_that_is_too_large_tells_when_it_was_changed() -> None:
    (row,) = decode_page(page(student(7, house="a" * LARGEST), 1), 1, MOMENT).listed
    assert (row.key, row.updated_at) == (7, datetime(2026, 2, 3, 11, 5, 44, tzinfo=UTC))


@pytest.mark.parametrize("key", [nested(5_000), b'"' + b"9" * LARGEST + b'"', b"9" * LARGEST, b"[" + b"1," * 9 + b"1]"])
def test_an_id_that_is_too_deep_or_too_large_is_none(key: bytes) -> None:
    first, bad = rows(page(student(1) + b', {"id": ' + key + b"}", 2))
    assert isinstance(bad, Rejected)
    assert (first.id, bad.id) == (1, None)


@pytest.mark.parametrize("value", [nested(2_000), b'"' + b"a" * LARGEST + b'"', b"[" + nested(400) + b', "told"]'])
def test_what_an_error_says_is_read_as_far_as_people_can_read_it(value: bytes) -> None:
    messages = field_messages(b'{"errors": {"email": %s}, "error": "no"}' % value)
    assert messages["base"] == ("no",)
    assert all(len(text) <= 500 for texts in messages.values() for text in texts)


def test_what_an_error_says_is_shown_however_deeply_it_is_nested() -> None:
    for depth in range(700, 1_001):  # somewhere here what can still be read can no longer be written
        assert field_messages(b'{"errors": {"email": [%s]}, "error": "no"}' % nested(depth))["base"] == ("no",)


def test_of_an_error_with_many_messages_a_hundred_are_told() -> None:
    many = {f"f{n}": ["x"] * 30 for n in range(200)}
    assert len(field_messages(json.dumps({"errors": many}).encode())) == 100


# Too many --------------------------------------------------------------------------------------------------------


def listing(number_of_rows: int, **meta: Any) -> bytes:
    return page(b",".join(b'{"id": %d}' % key for key in range(1, number_of_rows + 1)), number_of_rows, **meta)


class OneAnswer:
    """A wire that answers everything alike, after some time."""

    def __init__(self, clock: ManualClock, body: bytes, takes: float = 0.0) -> None:
        self.clock, self.body, self.takes = clock, body, takes

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:
        self.clock.advance(self.takes)
        return Reply(200, {}, self.body, NOW, 0.05)


def reader(clock: ManualClock, body: bytes, per_page: int = 100, **more: Any) -> StudentReader:
    wire = OneAnswer(clock, body, more.pop("takes", 0.0))
    api = ManageBac(
        "https://api.managebac.invalid",
        "a-token",
        retries=0,
        concurrency=1,
        scope=CancelScope(clock),
        wire=wire,
        **more,
    )
    return StudentReader(api, per_page)


@pytest.mark.parametrize(("asked", "told"), [(100, 100), (100, 5), (5, 100)])
def test_a_page_may_have_a_few_rows_more_than_were_asked_for_or_than_its_meta_says_and_no_more(
    clock: ManualClock, asked: int, told: int
) -> None:
    most = 100 + SPARE_ROWS
    assert len(reader(clock, listing(most, per_page=told), asked).first_page(Query()).listed) == most
    with pytest.raises(Malformed, match=f"page 1: {most + 1} records on a page of 100"):
        reader(clock, listing(most + 1, per_page=told), asked).first_page(Query())


def test_no_page_has_more_than_a_thousand_rows_whatever_its_meta_says(clock: ManualClock) -> None:
    assert len(reader(clock, listing(MOST_ROWS, per_page=2**63 - 1)).first_page(Query()).listed) == MOST_ROWS
    with pytest.raises(Malformed, match="a list of more than 1,000 elements"):
        reader(clock, listing(MOST_ROWS + 1, per_page=2**63 - 1)).first_page(Query())


def test_no_list_has_more_than_ten_thousand_pages() -> None:
    assert decode_page(listing(1, total_pages=MOST_PAGES), 1, MOMENT).total_pages == MOST_PAGES
    with pytest.raises(Malformed, match="10,001 pages, but rostersync accepts at most 10,000"):
        decode_page(listing(1, total_pages=MOST_PAGES + 1), 1, MOMENT)


# Too long --------------------------------------------------------------------------------------------------------


def test_an_answer_that_comes_when_the_deadline_has_passed_is_not_decoded(clock: ManualClock) -> None:
    with pytest.raises(OutOfTime):
        reader(clock, listing(3), run_seconds=5, takes=6).first_page(Query())


SLOW = b",".join(b'{"id": "%d", "city": 1}' % key for key in range(1, 6))
"""Records that are not as documented, so that each takes time."""


def test_the_deadline_ends_the_decoding_of_a_page(clock: ManualClock) -> None:
    first = reader(clock, page(SLOW, 5), run_seconds=5).first_page(Query())
    assert first.listed[0].decode().id == 1
    clock.advance(5)
    with pytest.raises(OutOfTime):
        first.listed[1].decode()


def test_the_deadline_is_looked_at_before_each_row_that_takes_time() -> None:
    calls = count(1)

    def check() -> None:
        if next(calls) == 3:
            raise OutOfTime("over")

    with pytest.raises(OutOfTime):
        decode_page(page(SLOW, 5), 1, MOMENT, check)


# Over HTTP -------------------------------------------------------------------------------------------------------


def test_of_a_long_error_the_beginning_is_read() -> None:
    server = HostileServer(lambda: response(b"a" * (MAX_ERROR_BYTES + 9), "404 Not Found"))
    with server.serving():
        wire = RequestsWire(f"http://127.0.0.1:{server.port}", Secret("x"), DaemonExecutor("exchange"))
        assert len(wire.send(Call("/"), 30, CancelScope(SystemClock())).body) == MAX_ERROR_BYTES
        wire.close()


# The parts of a document -----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{},: \n\x1fé'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='ab"\\{[,'), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON))
def test_an_array_is_cut_into_its_elements(elements: list[Any]) -> None:
    assert [json.loads(part) for part in split(json.dumps(elements).encode())] == elements


@given(st.dictionaries(st.sampled_from("abcxyz"), JSON), st.sampled_from([None, 0, 2]))
def test_members_are_the_same_whether_msgspec_takes_the_document_or_not(document: dict[str, Any], indent: int) -> None:
    members = Members("a", "b", "c")
    text = json.dumps(document, indent=indent).encode()
    whole = {name: json.loads(part) for name, part in members.of(text).items()}
    assert whole == {name: value for name, value in document.items() if name in "abc"}
    odd = text[:-1].rstrip() + (b', "x": NaN}' if document else b'"x": NaN}')
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(odd)
    assert {name: json.loads(part) for name, part in members.of(odd).items()} == whole


@given(st.binary() | st.text(alphabet='"\\[]{},:1').map(str.encode))
def test_no_bytes_crash_the_cutting(text: bytes) -> None:
    with suppress(ValueError):
        Members("a").of(text)
    with suppress(ValueError):
        elements(text, 3)


@pytest.mark.parametrize(
    "text", [b"[1", b"[1]]", b"[1] x", b'["]', b"[[1]", b"[1,,2]", b"[1,]", b"[,]", b"[oops]", b""]
)
def test_what_is_no_array_is_not_cut(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        elements(text, 9)
