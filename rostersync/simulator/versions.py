"""The states of a student over time, and their JSON in the API's responses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.records import FIELD_NAMES

if TYPE_CHECKING:
    from rostersync.simulator.people import Fields, Population
    from rostersync.simulator.switches import Switches

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_PACIFIC = 8 * 3_600_000

EVER = -(2**63)
"""A time before all other times."""

_KEYS_NEVER_NULL = {"status"}  # ManageBac's samples do not have this key


def from_ms(stamp: int) -> datetime:
    """Return the time in UTC that is `stamp` milliseconds after the start of 1970."""
    return _EPOCH + stamp * _MILLISECOND


def spell(stamp: int, offset: str = "Z") -> str:
    """Return a timestamp in ISO 8601 format, with milliseconds and with an offset (see the switch `offset`)."""
    local = from_ms(stamp - _PACIFIC if offset == "-08:00" else stamp)
    return local.replace(tzinfo=None).isoformat(timespec="milliseconds") + offset


class Version(msgspec.Struct, kw_only=True):
    """One state of one student. `created`, `updated` and `deleted` are milliseconds since 1970 by the server's clock.

    `since` is the time when the state became visible, in milliseconds of the monotonic clock. `previous` is the
    previous state, as long as a response may still show that state. `raw` has the bytes of an injected record.
    `traceless` means that the student was removed and is not in the deleted feed.
    """

    id: int
    population: Population
    created: int
    updated: int
    since: int = EVER
    deleted: int | None = None
    traceless: bool = False
    raw: bytes | None = None
    changed: Fields | None = None  # None: the population computes the fields from the timestamps
    previous: Version | None = None
    rendered: bytes | None = None

    @property
    def fields(self) -> Fields:
        """The fields of the student, without `id` and timestamps. Do not change the dictionary in place."""
        if self.changed is not None:
            return self.changed
        return self.population.person(self.id, from_ms(self.created), from_ms(self.updated))

    @property
    def living(self) -> bool:
        return self.deleted is None and not self.traceless

    def at(self, moment: int) -> Version | None:
        """Return the state that was visible at `moment`, or None if no state was visible yet."""
        version: Version | None = self
        while version is not None and version.since > moment:
            version = version.previous
        return version

    def forget_before(self, moment: int) -> None:
        """Drop the states that other states had replaced by `moment`."""
        if (seen := self.at(moment)) is not None:
            seen.previous = None


def status_of(fields: Fields) -> str | None:
    """Return ManageBac's word for a student's status, or None if the student was archived without a date.

    If a student is not archived, the dates are ignored, because they are from an earlier archiving.
    """
    if fields.get("archived") is False:
        return "enrolled"
    if "graduated_on" in fields:
        return "graduated"
    if "withdrawn_on" in fields:
        return "withdrawn"
    return None if fields.get("archived") else "enrolled"


def render_without(version: Version, switches: Switches, omitted: tuple[str, ...]) -> bytes:
    """Return the record of a current student for an endpoint that omits some keys."""
    if not omitted or version.raw is not None:
        return render(version, switches)
    record = _record(version, switches)
    return msgspec.json.encode({name: value for name, value in record.items() if name not in omitted})


def render(version: Version, switches: Switches) -> bytes:
    """Return the JSON record of a current student. The record is cached until the student or a switch changes."""
    if version.rendered is None:
        version.rendered = version.raw or msgspec.json.encode(_record(version, switches))
    return version.rendered


def render_deleted(version: Version, switches: Switches) -> bytes:
    """Return the JSON record of a deleted student, with `deleted_at` instead of `updated_at` and `status`."""
    record = _record(version, switches)
    record.pop("updated_at", None)
    record.pop("status", None)
    if version.deleted is not None:
        record["deleted_at"] = spell(version.deleted, switches.offset)
    return msgspec.json.encode(record)


def render_stub(version: Version, switches: Switches) -> bytes:
    """Return a JSON record that has only the id."""
    return b'{"id":' + render_id(version, switches) + b"}"


def render_id(version: Version, switches: Switches) -> bytes:
    """Return the student's id as JSON, without a record."""
    return msgspec.json.encode(str(version.id) if switches.ids_as_text else version.id)


def _record(version: Version, switches: Switches) -> dict[str, Any]:
    fields = version.fields
    record = {"id": version.id, **fields}
    record["created_at"] = spell(version.created, switches.offset)
    record["updated_at"] = spell(version.updated, switches.offset)
    if switches.status_key and (status := status_of(fields)):
        record["status"] = status
    if switches.nulls:
        record |= {name: None for name in FIELD_NAMES if name not in record and name not in _KEYS_NEVER_NULL}
    if switches.ids_as_text:
        record |= {name: _text_ids(name, value) for name, value in record.items()}
    for name in switches.without_keys:
        record.pop(name, None)
    return record


def _text_ids(name: str, value: Any) -> Any:
    if name.endswith("_ids") and isinstance(value, list):
        return [str(item) for item in value]
    is_id = name == "id" or name.endswith("_id")
    return str(value) if is_id and isinstance(value, int) else value
