"""Make random changes to students, in the proportions of an ordinary school day."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

    from rostersync.simulator.people import Fields
    from rostersync.simulator.state import School
    from rostersync.simulator.versions import Version

# The share of each action, in percent. If an action is impossible for all students, a new student is enrolled instead.
_PROPORTIONS = {
    "update": 48,
    "login": 20,
    "create": 9,
    "clear": 7,
    "archive": 7,
    "unarchive": 3,
    "delete": 4,
    "restore": 2,
}
_CLEARABLE = (
    "middle_name",
    "nickname",
    "phone_number",
    "mobile_phone_number",
    "homeroom_advisor_id",
    "street_address_ii",
)


def churn(school: School, rng: Random, n: int) -> Counter[str]:
    """Make random changes to a school, in fixed proportions. Restoring a student always changes `updated_at`.

    Args:
        school: The school to change.
        rng: The random number generator that chooses actions and students.
        n: The number of actions; 0 or more.

    Returns:
        The number of times that each action was carried out.

    """
    actions = rng.choices(list(_PROPORTIONS), weights=list(_PROPORTIONS.values()), k=n)
    with school.lock:
        return Counter(_do(school, rng, action) for action in actions)


def _do(school: School, rng: Random, action: str) -> str:
    """Carry out an action for a random suitable student, and return the name of the action that was carried out."""
    student = _chosen(school, rng, action)
    if student is None:
        school.create()
        return "create"
    match action:
        case "update":
            school.update(student, **_news(school, rng, student))
        case "clear":
            school.clear(student, rng.choice(_CLEARABLE))
        case "archive":
            school.archive(student, **_leaving(school, rng, student))
        case "restore":
            school.restore(student, bump=True)
        case _:  # login, unarchive, delete
            getattr(school, action)(student)
    return action


def _chosen(school: School, rng: Random, action: str) -> int | None:
    if action == "create":
        return None
    return school.pick_deleted(rng) if action == "restore" else school.pick(rng, _FITS.get(action, _is_living))


def _is_living(version: Version) -> bool:
    return version.living


def _is_enrolled(version: Version) -> bool:
    return version.living and not version.fields.get("archived")


def _may_return(version: Version) -> bool:
    return version.living and bool(version.fields.get("archived")) and "graduated_on" not in version.fields


_FITS = {"archive": _is_enrolled, "login": _is_enrolled, "unarchive": _may_return}


def _news(school: School, rng: Random, student: int) -> dict[str, Any]:
    news: list[dict[str, Any]] = [
        {"phone_number": f"+000 555 {rng.randrange(10_000):04}"},
        {"street_address": f"{rng.randrange(1, 99)} Removal Row", "city": "New Nowhereton"},
        {"homeroom_advisor_id": 10_752_540 + rng.randrange(40)},
        {"nickname": rng.choice(("", "Zo", "Plimsy", "Ünö"))},
        {"email": f"moved.{rng.randrange(10**9)}@example.invalid"},
        {"nationalities": rng.sample(("US", "GB", "SI", "JP"), rng.randrange(3))},
        {"parent_ids": [30_000_000 + rng.randrange(10**6) for _ in range(rng.randrange(3))]},
    ]
    if not _fields(school, student).get("archived"):
        news.append({"year_group_id": 10_209_261 + rng.randrange(12)})
    return rng.choice(news)


def _leaving(school: School, rng: Random, student: int) -> dict[str, str]:
    """Return the date field to set for a student who leaves today. Only students in their last year graduate."""
    today = school.now().date()
    if _fields(school, student).get("graduating_year") == today.year:
        return {"graduated_on": today.isoformat()}
    return rng.choice([{"withdrawn_on": today.isoformat()}, {}])


def _fields(school: School, student: int) -> Fields:
    version = school.version(student)
    assert version is not None
    return version.fields
