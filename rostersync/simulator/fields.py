"""The fields that a write may set, and the values that the API accepts for them."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

from rostersync.records import FIELDS, LARGEST_ID, Kind
from rostersync.simulator.people import PARENT_IDS
from rostersync.simulator.refusals import BLANK, INVALID

if TYPE_CHECKING:
    from collections.abc import Callable

    from rostersync.simulator.people import Fields

_NOT_WRITABLE = {
    "id",
    "archived",
    "graduated_on",
    "withdrawn_on",
    "status",
    "created_at",
    "updated_at",
    "last_accessed_at",
    "account_uid",
    "role",
    "photo_url",
}
WRITABLE = ("password", *(field.name for field in FIELDS if field.name not in _NOT_WRITABLE))
REQUIRED = ("email", "last_name")

_KINDS = {field.name: field.kind for field in FIELDS} | {"password": Kind.TEXT}
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SHORTEST_PASSWORD = 6


def mistakes(fields: Fields) -> dict[str, str]:
    """Return a dictionary from fields to the API's error messages, for the values that the API does not accept."""
    found = {name: _mistake(name, value) for name, value in fields.items()}
    return {name: mistake for name, mistake in found.items() if mistake is not None}


def stored(fields: Fields) -> Fields:
    """Return the fields to store for an accepted write. The password is left out.

    An empty string becomes None, which clears the field, unless the field holds strings.
    """
    empty_is_none = {name for name, value in fields.items() if value == "" and _KINDS[name] is not Kind.TEXT}
    return {name: None if name in empty_is_none else value for name, value in fields.items() if name != "password"}


def is_date(value: Any) -> bool:
    """Return whether a value is a date in the form `YYYY-MM-DD`."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _mistake(name: str, value: Any) -> str | None:
    kind = _KINDS[name]
    if name in REQUIRED and _is_blank(value):
        return BLANK
    if value is None or (value == "" and name != "password"):
        return None
    if not _OF_KIND[kind](value):
        return "is not a number" if kind is Kind.INTEGER else INVALID
    accepts, otherwise = _RULES.get(name, (lambda _: True, ""))
    return None if accepts(value) else otherwise


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_ID


def _all(of_kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(of_kind(item) for item in value)


_OF_KIND: dict[Kind, Callable[[Any], bool]] = {
    Kind.TEXT: _is_text,
    Kind.INTEGER: _is_integer,
    Kind.DATE: is_date,
    Kind.TEXTS: _all(_is_text),
    Kind.INTEGERS: _all(_is_integer),
}

# For each field, a further check of its value, and the error message if that check fails.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "email": (lambda value: "@" in value, INVALID),
    "password": (lambda value: len(value) >= _SHORTEST_PASSWORD, "is too short (minimum is 6 characters)"),
    "parent_ids": (lambda value: all(number in PARENT_IDS for number in value), "must exist"),
}
