"""Invent students. A student's fields are computed from the school's seed, an id, a date and two timestamps.

Names are made from syllables, and e-mail addresses end in `example.invalid`, so no student exists in reality.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

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
_AGE_IN_GRADE_0 = 5
_GRADES_BEFORE_1 = 2  # students are at least 3 years old in the year in which their record is created
_PACIFIC = timezone(timedelta(hours=-8))

PARENT_IDS = range(30_000_000, 40_000_002)
"""The ids that parents at the school can have."""


class Dice:
    """Random choices that depend only on a seed and a number, so that they are the same on every machine.

    All choices of one object together use 512 bits of randomness.
    """

    __slots__ = ("_pool",)

    def __init__(self, seed: int, number: int) -> None:
        digest = hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=64).digest()
        self._pool = int.from_bytes(digest, "big")

    def roll(self, sides: int) -> int:
        """Return a number from 0 to `sides` - 1."""
        self._pool, face = divmod(self._pool, sides)
        return face

    def happens(self, percent: int) -> bool:
        return self.roll(100) < percent

    def choice(self, of: Sequence[T]) -> T:
        return of[self.roll(len(of))]


class Population(msgspec.Struct, frozen=True):
    """All students that a school with this seed can have, in their state on `day`."""

    seed: int
    day: date
    custom_fields: bool = True

    def person(self, number: int, created: datetime, updated: datetime) -> Fields:
        """Return the fields of the student with the id `number`, without `id`, `created_at` and `updated_at`.

        `created` is the time when the record was created, which is some years before `day`. `updated` is the time of
        the last change. The dates in the fields are consistent with these times and with each other.
        """
        dice = Dice(self.seed, number)
        return self._fields(dice, number, created, _Stay.drawn(dice, created.date(), updated.date()))

    def newcomer(self, number: int, created: datetime) -> Fields:
        """Return the fields of a student who has just been enrolled, has never logged in and is not archived."""
        stay = _Stay(created.date())
        fields = self._fields(Dice(self.seed, number), number, created, stay)
        fields.pop("last_accessed_at", None)
        return fields | {"attendance_start_date": stay.start.isoformat()}

    def _fields(self, dice: Dice, number: int, created: datetime, stay: _Stay) -> Fields:
        until = datetime.combine(stay.end or self.day, time(), UTC)
        fields = _name(dice, number) | _account(dice, number, created, until) | _home(dice, number)
        fields |= _schooling(dice, created.year, max(stay.end or self.day, stay.start).year, stay) | stay.fields()
        return fields | _custom(dice) if self.custom_fields else fields


class _Stay(msgspec.Struct, frozen=True):
    """The first day of a student at the school, and how and when the student left, if this has happened."""

    start: date
    left: str = ""
    """The name of the field with the date when the student left. The name is empty if the student is enrolled, or was
    archived without a date.
    """
    end: date | None = None
    archived: bool = False

    @classmethod
    def drawn(cls, dice: Dice, created: date, updated: date) -> _Stay:
        """Choose a random stay. Three in four students are enrolled.

        The others graduated, withdrew or were archived without a date.
        """
        start = min(created + timedelta(days=dice.roll(60)), updated)
        end = start + timedelta(days=dice.roll((updated - start).days + 1))
        throw = dice.roll(100)
        if throw < 75:  # noqa: PLR2004 - 75 % are enrolled
            return cls(start)
        if throw < 87:  # noqa: PLR2004 - 12 % graduated
            return cls(start, "graduated_on", end, archived=True)
        if throw < 97:  # noqa: PLR2004 - 10 % withdrew
            return cls(start, "withdrawn_on", end, archived=True)
        return cls(start, archived=True)

    def fields(self) -> Fields:
        return {"archived": self.archived} | ({self.left: self.end.isoformat()} if self.end else {})


def new_account() -> Fields:
    """Return the fields that the API adds to the fields of a create request."""
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


def _account(dice: Dice, number: int, created: datetime, until: datetime) -> Fields:
    fields: Fields = {"ui_language": dice.choice(_UI_LANGUAGES), "role": "Student", "timezone": dice.choice(_ZONES)}
    if dice.happens(95):
        # One student in 200 has the number ZZ0, because the school's numbers are not unique.
        number_of_school = f"ZZ{0 if dice.roll(200) == 0 else number}"
        fields |= {"student_id": number_of_school, "identifier": number_of_school}
    since = max(created, until - timedelta(days=60))
    if dice.happens(70) and since < until:
        login = until - timedelta(seconds=dice.roll(int((until - since).total_seconds()) + 1))
        fields["last_accessed_at"] = login.astimezone(_PACIFIC).isoformat(timespec="milliseconds")
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


def _schooling(dice: Dice, first_year: int, year: int, stay: _Stay) -> Fields:
    """Return the fields that depend on the student's grade in `year`, the student's latest year at the school."""
    drawn = dice.roll(_OLDEST_GRADE) + 1
    youngest = year - first_year - _GRADES_BEFORE_1
    grade = _OLDEST_GRADE if stay.left == "graduated_on" else max(drawn, youngest)
    program, code = _PROGRAMS[min(grade // 5, 2)]
    fields: Fields = {"class_grade": f"Grade {grade}", "class_grade_number": grade + 1}
    fields |= {"program": program, "program_code": code, "graduating_year": year + _OLDEST_GRADE - grade}
    fields["birthday"] = f"{year - _AGE_IN_GRADE_0 - grade}-{1 + dice.roll(12):02}-{1 + dice.roll(28):02}"
    fields["gender"] = dice.choice(_GENDERS)
    if dice.happens(90):
        if not stay.archived:
            fields["year_group_id"] = 10_209_260 + grade
        fields["homeroom_advisor_id"] = 10_752_540 + dice.roll(40)
    if dice.happens(20):
        fields["additional_homeroom_advisor_ids"] = [10_752_600 + dice.roll(10)]
    if grade == _OLDEST_GRADE:
        fields["ee_advisor_id"] = 400 + dice.roll(60)
    if dice.happens(60):
        fields["attendance_start_date"] = stay.start.isoformat()
    return fields


def _custom(dice: Dice) -> Fields:
    fields: Fields = {"house": dice.choice(_HOUSES)}
    if dice.happens(50):
        fields["custom_fields"] = {"bus_route": dice.roll(20), "lunch": [dice.choice(("hot", "cold"))]}
    return fields
