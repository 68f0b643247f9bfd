"""Invented students. A student's fields follow from the school's seed, their id and a day, so that they need no room.

Names are put together from syllables, addresses end in `example.invalid`: nobody here exists.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
Fields = dict[str, Any]

_HEADS = ("Zor", "Plim", "Fiz", "Brin", "Oon", "Quin", "Vex", "Thrap", "Mar", "Wum", "Jel", "Kip", "Drov", "Sna", "Ulm")
_MIDDLES = ("a", "bel", "dle", "o", "to", "ri", "gle", "wick", "li", "zu", "ne", "mo")
_TAILS = ("la", "kin", "by", "x", "na", "do", "mi", "tash", "pa", "rin")
_ENDS = ("brook", "gate", "torian", "quay", "wick", "shire", "pond", "feather", "thorpe", "lorn")
_SCRIPTS = ("Плімка", "ゾルベラ", "柚木木", "زوربلا", "Ζορμπέλα", "Brïndlé")
_WORDS = ("Imaginary", "Nowhere", "Pretend", "Make-Believe", "Fictional")
_WAYS = ("Lane", "Street", "Row", "Square")
_CITIES = ("Nowhereton", "Fableford", "Mythwich", "Port Fiction")
_COUNTRIES = ("SI", "GB", "US", "JP", "UA", "DE", "United States", "99", "BR", "KE")
_NATIONALITIES = ("US", "GB", "SI", "JP", "UA", "DE", "BR", "KE", "IN", "KR")
_LANGUAGES = ("ENG", "FRE", "SPA", "JPN", "UKR", "GER", "SLV", "KOR")
_UI_LANGUAGES = ("en", "en", "en", "fr", "es", "ja")
_ZONES = ("Europe/Kyiv", "Etc/UTC", "Asia/Tokyo", "America/New_York", "Australia/Adelaide")
_GENDERS = ("Female", "Male", "Female", "Male", "Non-binary")
_PROGRAMS = (("IB Primary Years", "pyp"), ("IB Middle Years", "myp"), ("IB Diploma", "diploma"))
_HOUSES = ("Otter", "Badger", "Heron", "Newt")

_OLDEST_GRADE = 12

PARENT_IDS = range(30_000_000, 40_000_002)
"""The ids of everybody who could ever be a parent at this school."""


class Dice:
    """Throws that follow from a seed and a number alone, on every machine. Good for some hundred bits."""

    __slots__ = ("_pool",)

    def __init__(self, seed: int, number: int) -> None:
        digest = hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=64).digest()
        self._pool = int.from_bytes(digest, "big")

    def roll(self, sides: int) -> int:
        """Return a number from 0 up to and without `sides`."""
        self._pool, face = divmod(self._pool, sides)
        return face

    def happens(self, percent: int) -> bool:
        return self.roll(100) < percent

    def choice(self, of: Sequence[T]) -> T:
        return of[self.roll(len(of))]


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody who could ever be a student of the school of this seed, as they are on `day`."""

    seed: int
    day: date
    custom_fields: bool = True

    def person(self, number: int) -> Fields:
        """Return the fields of the student with the id `number`, without `id` and the stamps of the record."""
        dice = Dice(self.seed, number)
        grade = dice.roll(_OLDEST_GRADE) + 1
        fields = _name(dice, number) | _account(dice, number, self.day) | _home(dice, number)
        fields |= _schooling(dice, grade, self.day.year) | _standing(dice, self.day)
        return fields | _custom(dice) if self.custom_fields else fields

    def newcomer(self, number: int) -> Fields:
        """Return the fields of a student who has just been enrolled: never logged in, nor archived."""
        fields = self.person(number)
        for name in ("last_accessed_at", "graduated_on", "withdrawn_on"):
            fields.pop(name, None)
        return fields | {"archived": False, "attendance_start_date": self.day.isoformat()}


def new_account() -> Fields:
    """Return what a record bears that was made through the API, besides what was sent."""
    return {
        "archived": False,
        "role": "Student",
        "ui_language": "en",
        "timezone": "Etc/UTC",
        "nationalities": [],
        "languages": [],
        "parent_ids": [],
    }


def _name(dice: Dice, number: int) -> Fields:
    first = dice.choice(_HEADS) + dice.choice(_MIDDLES) + dice.choice(_TAILS)
    last = dice.choice(_HEADS) + dice.choice(_MIDDLES) + dice.choice(_ENDS)
    fields: Fields = {"email": f"{first}.{last}.{number}@example.invalid".lower(), "first_name": first}
    fields["last_name"] = last
    if dice.happens(40):
        fields["middle_name"] = "" if dice.happens(30) else dice.choice(_HEADS) + dice.choice(_TAILS)
    if dice.happens(25):
        fields["nickname"] = first[:3] + dice.choice(_TAILS)
    if dice.happens(15):
        fields["other_name"] = dice.choice(_SCRIPTS)
    return fields


def _account(dice: Dice, number: int, day: date) -> Fields:
    fields: Fields = {"ui_language": dice.choice(_UI_LANGUAGES), "role": "Student", "timezone": dice.choice(_ZONES)}
    if dice.happens(95):
        # One in 200 shares a number with others: the school's number is no key.
        number_of_school = f"ZZ{0 if dice.roll(200) == 0 else number}"
        fields |= {"student_id": number_of_school, "identifier": number_of_school}
    if dice.happens(70):
        login = day - timedelta(days=1 + dice.roll(60))
        clock_time = f"{dice.roll(24):02}:{dice.roll(60):02}:{dice.roll(60):02}"
        fields["last_accessed_at"] = f"{login.isoformat()}T{clock_time}.000-08:00"
    if dice.happens(30):
        fields["photo_url"] = f"https://files.example.invalid/avatars/{number}?signature={dice.roll(1 << 32):08x}"
    if dice.happens(50):
        fields["account_uid"] = f"{dice.roll(1 << 96):024x}"
    if dice.happens(20):
        fields |= {"oa_id": str(1000 + dice.roll(9000)), "sb_id": str(1000 + dice.roll(9000))}
    return fields


def _home(dice: Dice, number: int) -> Fields:
    fields: Fields = {
        "nationalities": [dice.choice(_NATIONALITIES) for _ in range(dice.roll(3))],
        "languages": [dice.choice(_LANGUAGES) for _ in range(dice.roll(3))],
        "parent_ids": [PARENT_IDS[number % 10_000_000 + turn] for turn in range(dice.roll(3))],
    }
    if dice.happens(85):
        fields["street_address"] = f"{1 + dice.roll(99)} {dice.choice(_WORDS)} {dice.choice(_WAYS)}"
        fields |= {"city": dice.choice(_CITIES), "state": str(dice.roll(60_000)), "country": dice.choice(_COUNTRIES)}
        fields |= {"street_address_ii": "" if dice.happens(50) else f"Floor {dice.roll(9)}", "zipcode": "00000"}
    if dice.happens(50):
        fields["phone_number"] = f"+000 555 {dice.roll(10_000):04}"
    if dice.happens(60):
        fields["mobile_phone_number"] = f"+000 555-{dice.roll(10_000):04}"
    if dice.happens(10):
        fields |= {"national_id": f"N-{dice.roll(10**8):08}", "uniq_student_id": f"U-{dice.roll(10**8):08}"}
    return fields


def _schooling(dice: Dice, grade: int, year: int) -> Fields:
    program, code = _PROGRAMS[min(grade // 5, 2)]
    fields: Fields = {"class_grade": f"Grade {grade}", "class_grade_number": grade + 1}
    fields |= {"program": program, "program_code": code, "graduating_year": year + _OLDEST_GRADE - grade}
    fields["birthday"] = f"{year - 5 - grade}-{1 + dice.roll(12):02}-{1 + dice.roll(28):02}"
    fields["gender"] = dice.choice(_GENDERS)
    if dice.happens(90):
        fields |= {"year_group_id": 10_209_260 + grade, "homeroom_advisor_id": 10_752_540 + dice.roll(40)}
    if dice.happens(20):
        fields["additional_homeroom_advisor_ids"] = [10_752_600 + dice.roll(10)]
    if grade == _OLDEST_GRADE:
        fields["ee_advisor_id"] = 400 + dice.roll(60)
    if dice.happens(60):
        fields["attendance_start_date"] = f"{year - 1 - dice.roll(4)}-09-01"
    return fields


def _standing(dice: Dice, day: date) -> Fields:
    """Return three quarters enrolled; the others graduated, withdrawn, or archived for a reason unknown."""
    then = (day - timedelta(days=1 + dice.roll(900))).isoformat()
    throw = dice.roll(100)
    if throw < 75:  # noqa: PLR2004 - the three quarters
        return {"archived": False}
    if throw < 87:  # noqa: PLR2004 - the next eighth
        return {"archived": True, "graduated_on": then}
    return {"archived": True, "withdrawn_on": then} if throw < 97 else {"archived": True}  # noqa: PLR2004 - the rest


def _custom(dice: Dice) -> Fields:
    fields: Fields = {"house": dice.choice(_HOUSES)}
    if dice.happens(50):
        fields["custom_fields"] = {"bus_route": dice.roll(20), "lunch": [dice.choice(("hot", "cold"))]}
    return fields
