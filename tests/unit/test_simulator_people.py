from __future__ import annotations

from datetime import date

from rostersync.records import FIELD_NAMES
from rostersync.simulator.people import Dice, Population

DAY = date(2026, 3, 2)


def test_the_same_seed_and_id_make_the_same_person() -> None:
    assert Population(3, DAY).person(20_540_001) == Population(3, DAY).person(20_540_001)


def test_another_seed_or_id_makes_another_person() -> None:
    person = Population(3, DAY).person(20_540_001)
    assert Population(4, DAY).person(20_540_001) != person
    assert Population(3, DAY).person(20_540_002) != person


def test_dice_throw_the_same_on_every_machine() -> None:
    dice = Dice(1, 2)
    assert [dice.roll(1000) for _ in range(5)] == [926, 803, 196, 549, 722]


def test_every_documented_field_occurs() -> None:
    people = [Population(1, DAY).person(number) for number in range(500)]
    seen = {name for person in people for name in person}
    stamps_and_rarities = {"created_at", "updated_at", "preferred_name", "ib_group_id", "status"}
    assert set(FIELD_NAMES) - seen == stamps_and_rarities


def test_custom_fields_are_the_only_unknown_keys_and_can_be_left_out() -> None:
    unknown = {name for number in range(200) for name in Population(1, DAY).person(number)} - set(FIELD_NAMES)
    assert unknown == {"house", "custom_fields"}
    plain = {name for number in range(200) for name in Population(1, DAY, custom_fields=False).person(number)}
    assert plain <= set(FIELD_NAMES)


def test_people_are_as_untidy_as_real_records() -> None:
    people = [Population(1, DAY).person(number) for number in range(2000)]
    numbers = [person["student_id"] for person in people if "student_id" in person]
    assert len(set(numbers)) < len(numbers) < len(people)
    assert any(person.get("middle_name") == "" for person in people)
    assert any(person["parent_ids"] == [] for person in people)
    assert all(person["last_accessed_at"].endswith("-08:00") for person in people if "last_accessed_at" in person)


def test_all_standings_occur_and_most_are_enrolled() -> None:
    people = [Population(1, DAY).person(number) for number in range(1000)]
    enrolled = [person for person in people if not person["archived"]]
    assert 700 < len(enrolled) < 800
    for date_name in ("graduated_on", "withdrawn_on"):
        assert all(person["archived"] for person in people if date_name in person)
    assert any(person["archived"] and not {"graduated_on", "withdrawn_on"} & set(person) for person in people)


def test_addresses_are_invented() -> None:
    assert all(Population(1, DAY).person(number)["email"].endswith("@example.invalid") for number in range(200))


def test_a_newcomer_is_not_archived_and_never_logged_in() -> None:
    for number in range(100):
        newcomer = Population(1, DAY).newcomer(number)
        assert newcomer["archived"] is False
        assert not {"last_accessed_at", "graduated_on", "withdrawn_on"} & set(newcomer)
