"""What can be written of a student, how it is sent, and when it counts as taken."""

from __future__ import annotations

from datetime import date
from typing import Any, get_type_hints

import pytest

from rostersync.errors import Invalid
from rostersync.managebac.fields import READ_ONLY, WRITABLE, StudentFields, not_taken, payload, typed
from rostersync.records import FIELD_NAMES, Kind, Student

SAMPLE: dict[Kind, Any] = {
    Kind.TEXT: "a@b.invalid",
    Kind.INTEGER: 7,
    Kind.DATE: date(2026, 8, 24),
    Kind.TEXTS: ["en", "sl"],
    Kind.INTEGERS: [1, 2],
}


def test_every_field_of_a_student_can_be_written_or_says_what_to_do_instead() -> None:
    assert {*WRITABLE, *READ_ONLY} == {"id", *FIELD_NAMES, "password"}
    assert not {*WRITABLE} & {*READ_ONLY}


def test_the_typed_fields_are_those_that_can_be_written() -> None:
    assert set(get_type_hints(StudentFields)) == set(WRITABLE)


@pytest.mark.parametrize("name", WRITABLE)
def test_a_field_is_sent_cleared_and_recognised_by_its_kind(name: str) -> None:
    value = SAMPLE[WRITABLE[name]]
    (sent,) = payload({name: value}).values()
    assert sent == ("2026-08-24" if isinstance(value, date) else value)
    if name not in {"email", "last_name", "password"}:
        cleared = payload({name: None})
        assert cleared == {name: {Kind.TEXT: "", Kind.TEXTS: [], Kind.INTEGERS: []}.get(WRITABLE[name])}
        assert not_taken(cleared, Student(id=1)) == ()
    if name != "password":
        assert not_taken({name: sent}, Student(id=1)) == (name,)
        stored = tuple(reversed(value)) if isinstance(value, list) else value
        assert not_taken({name: sent}, Student(id=1, **{name: stored})) == ()


def test_spaces_the_case_of_an_address_and_what_is_never_shown_do_not_matter() -> None:
    student = Student(id=1, email="fizz@example.invalid", city="Piran")
    assert not_taken({"email": "Fizz@Example.invalid", "city": " Piran ", "password": "opensesame"}, student) == ()
    assert not_taken({"city": "piran"}, student) == ("city",)
    assert not_taken({"archived": False}, student) == ()
    assert not_taken({"archived": False}, Student(id=1, archived=True)) == ("archived",)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("city", " 7 ", " 7 "),
        ("graduating_year", " 2030", 2030),
        ("languages", "en, sl,", ["en", "sl"]),
        ("languages", '["en"]', ["en"]),
        ("languages", "", []),
        ("parent_ids", "1,2", [1, 2]),
        ("parent_ids", "[1, 2]", [1, 2]),
        ("citty", "x", "x"),
    ],
)
def test_what_is_typed_becomes_what_the_field_holds(name: str, text: str, value: Any) -> None:
    assert typed(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("graduating_year", "2030.0"), ("graduating_year", "\uff19"), ("parent_ids", "1,x"), ("parent_ids", "[")],
)
def test_what_is_typed_and_cannot_be_meant_is_invalid(name: str, text: str) -> None:
    with pytest.raises(Invalid):
        typed(name, text)
