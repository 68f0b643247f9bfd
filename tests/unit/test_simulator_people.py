from __future__ import annotations

from datetime import UTC, date, datetime
from random import Random
from typing import Any

import pytest
from conftest import ManualClock

from rostersync.clock import from_text
from rostersync.records import FIELD_NAMES
from rostersync.simulator import School, churn
from rostersync.simulator.people import Dice, Population

DAY = date(2026, 3, 2)
CREATED, UPDATED = datetime(2024, 8, 5, 9, 30, tzinfo=UTC), datetime(2026, 1, 7, tzinfo=UTC)


def person(number: int, seed: int = 1, *, custom_fields: bool = True) -> dict[str, Any]:
    return Population(seed, DAY, custom_fields).person(number, CREATED, UPDATED)


def test_the_same_seed_and_id_make_the_same_person() -> None:
    assert person(20_540_001, 3) == person(20_540_001, 3)


def test_another_seed_or_id_makes_another_person() -> None:
    assert person(20_540_001, 4) != person(20_540_001, 3) != person(20_540_002, 3)


def test_dice_throw_the_same_on_every_machine() -> None:
    dice = Dice(1, 2)
    assert [dice.roll(1000) for _ in range(5)] == [926, 803, 196, 549, 722]


def test_every_documented_field_occurs() -> None:
    people = [person(number) for number in range(500)]
    seen = {name for record in people for name in record}
    stamps_and_rarities = {"created_at", "updated_at", "preferred_name", "ib_group_id", "status"}
    assert set(FIELD_NAMES) - seen == stamps_and_rarities


def test_custom_fields_are_the_only_unknown_keys_and_can_be_left_out() -> None:
    unknown = {name for number in range(200) for name in person(number)} - set(FIELD_NAMES)
    assert unknown == {"house", "custom_fields"}
    plain = {name for number in range(200) for name in person(number, custom_fields=False)}
    assert plain <= set(FIELD_NAMES)


def test_people_are_as_untidy_as_real_records() -> None:
    people = [person(number) for number in range(2000)]
    numbers = [record["student_id"] for record in people if "student_id" in record]
    assert len(set(numbers)) < len(numbers) < len(people)
    assert any(record.get("middle_name") == "" for record in people)
    assert any(record["parent_ids"] == [] for record in people)
    assert all(record["last_accessed_at"].endswith("-08:00") for record in people if "last_accessed_at" in record)


def test_all_standings_occur_and_most_are_enrolled() -> None:
    people = [person(number) for number in range(1000)]
    enrolled = [record for record in people if not record["archived"]]
    assert 700 < len(enrolled) < 800
    for date_name in ("graduated_on", "withdrawn_on"):
        assert all(record["archived"] for record in people if date_name in record)
    assert any(record["archived"] and not {"graduated_on", "withdrawn_on"} & set(record) for record in people)


def test_addresses_are_invented() -> None:
    assert all(person(number)["email"].endswith("@example.invalid") for number in range(200))


def test_a_newcomer_is_not_archived_and_never_logged_in() -> None:
    for number in range(100):
        newcomer = Population(1, DAY).newcomer(number, CREATED)
        assert newcomer["archived"] is False
        assert not {"last_accessed_at", "graduated_on", "withdrawn_on"} & set(newcomer)


# Dates -----------------------------------------------------------------------------------------------------------


def contradictions(record: dict[str, Any], now: datetime) -> list[str]:
    """Return which dates of a record cannot both be true."""
    created, updated = from_text(record["created_at"]), from_text(record["updated_at"])
    login = record.get("last_accessed_at")
    born, started = record["birthday"], record.get("attendance_start_date", "")
    graduated, withdrawn = record.get("graduated_on"), record.get("withdrawn_on")
    left, year = graduated or withdrawn, record["graduating_year"]
    facts = {
        "created before it was updated": created <= updated <= now,
        "at least two years old when the record was created": int(born[:4]) + 2 < created.year,
        "logged in between its creation and now": login is None or created <= from_text(login) <= now,
        "logged in before leaving": not (login and left) or from_text(login).date().isoformat() <= left,
        "started after the record was created": not started or created.date().isoformat() <= started,
        "left after starting": not (left and started) or started <= left,
        "left after the record was created": not left or created.date().isoformat() <= left,
        "left before the last update": not left or left <= updated.date().isoformat(),
        "left in one way": not (graduated and withdrawn),
        "graduated in the graduating year": not graduated or int(graduated[:4]) == year,
        "not due to graduate before their record was created": year >= created.year,
        "in no year group after leaving": not record["archived"] or "year_group_id" not in record,
        "about 17 at graduation": year - int(born[:4]) in range(16, 19),
    }
    return [name for name, holds in facts.items() if not holds]


@pytest.mark.parametrize("start", ["2026-01-01T00:00:00.000Z", "2026-03-02T08:00:00.000Z", "2026-12-31T23:59:59.000Z"])
def test_the_dates_of_a_student_do_not_contradict_each_other(start: str) -> None:
    for seed in range(4):
        clock = ManualClock(from_text(start))
        school = School(seed, 300, clock)
        for _ in range(4):
            found = {line for row in school.truth().values() for line in contradictions(row, clock.now())}
            assert found == set()
            clock.advance(40 * 86_400)
            churn(school, Random(seed), 200)
