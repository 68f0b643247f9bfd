"""The six endpoints that change a student."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.simulator.fields import REQUIRED, WRITABLE, is_date, mistakes, stored
from rostersync.simulator.messages import Response, json_response
from rostersync.simulator.payload import permit, read_avatar, read_json, unwrap
from rostersync.simulator.refusals import INVALID, Refusal, bad_structure, invalid, no_record
from rostersync.simulator.versions import render

if TYPE_CHECKING:
    from rostersync.simulator.messages import Call
    from rostersync.simulator.people import Fields
    from rostersync.simulator.state import School

_LEAVING = ("withdrawn_on", "graduated_on")
_PARTIAL_ANSWER = ("id", "email", "first_name", "last_name", "student_id")
_KNOWS_OPTIONS = "v2p3"


class Writing:
    """Answers write requests. If the API does not accept a write, the method raises `Refusal` and changes nothing.

    A write sees all earlier changes, even changes that are not visible to reads yet.
    """

    def __init__(self, school: School) -> None:
        self.school = school

    def create(self, call: Call) -> Response:
        """Answer `POST /students`. A field with the value null counts as missing, but an empty string is a value."""
        document = read_json(call.request)
        given = unwrap(document, "student", WRITABLE)
        options = _options(call, document)
        fields = {name: value for name, value in given.items() if value is not None}
        self._check(dict.fromkeys(REQUIRED) | fields)
        student = self.school.admit(**stored(fields))
        return json_response(201, {"student": self._shown(student), **options})

    def update(self, call: Call) -> Response:
        """Answer `PATCH /students/{id}`, which sets the given fields. The value null clears a field."""
        student = self._found(call)
        fields = unwrap(read_json(call.request), "student", WRITABLE)
        self._check(fields, student)
        ignored = self.school.switches.ignored_fields
        self.school.update(student, **{name: value for name, value in stored(fields).items() if name not in ignored})
        return json_response(200, {"student": self._shown(student)})

    def archive(self, call: Call) -> Response:
        """Answer `PUT /students/{id}/archive`. The body or the query has one of the two dates."""
        student = self._found(call)
        self.school.archive(student, **_leaving(call))
        return _done()

    def unarchive(self, call: Call) -> Response:
        """Answer `PUT /students/{id}/unarchive`."""
        self.school.unarchive(self._found(call))
        return _done()

    def set_avatar(self, call: Call) -> Response:
        """Answer `PUT /students/{id}/avatar`. The body has a file, or the URL of a file. The URL is not fetched."""
        student = self._found(call)
        digest = hashlib.blake2b(read_avatar(call.request), digest_size=8).hexdigest()
        self.school.set_photo(student, f"https://files.example.invalid/avatars/{student}?digest={digest}")
        return _done()

    def delete_avatar(self, call: Call) -> Response:
        """Answer `DELETE /students/{id}/avatar`. The request succeeds even if the student has no avatar."""
        self.school.set_photo(self._found(call), None)
        return _done()

    def _found(self, call: Call) -> int:
        student = call.student_id
        version = None if student is None else self.school.version(student)
        if version is None or not version.living:
            raise Refusal(no_record())
        return version.id

    def _check(self, fields: Fields, student: int | None = None) -> None:
        """Raise `Refusal` if a field cannot be set for this student. If `student` is None, the student is new."""
        found = mistakes(fields)
        if "email" in fields and "email" not in found:
            holder = self.school.holder_of(fields["email"])
            if holder not in {None, student}:
                found["email"] = "has already been taken"
        if found:
            raise Refusal(invalid(**found))
        if fields.get("year_group_id") in self.school.switches.legacy_year_groups:
            raise Refusal(no_record())

    def _shown(self, student: int) -> dict[str, Any]:
        """Return the student's record in the form for the response to a write."""
        version = self.school.version(student)
        assert version is not None
        record: dict[str, Any] = msgspec.json.decode(render(version, self.school.switches))
        if self.school.switches.partial_write_answers:
            return {name: value for name, value in record.items() if name in _PARTIAL_ANSWER}
        return record


def _done() -> Response:
    return json_response(200, {"status": "ok"})


def _options(call: Call, document: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the response about a welcome mail.

    This part is empty unless the request has `options` and the version is v2p3.
    """
    options = document.get("options")
    if call.version != _KNOWS_OPTIONS or options is None:
        return {}
    wanted = options.get("send_welcome_email", False) if isinstance(options, dict) else None
    if not isinstance(wanted, bool):
        raise Refusal(bad_structure())
    return {"options": {"welcome_email": "enqueued" if wanted else "not_enqueued"}}


def _leaving(call: Call) -> dict[str, str]:
    """Return a dictionary with the one date of leaving in the request, by the name of its field."""
    asked = {name: text for name in _LEAVING if (text := call.request.first(name))}
    given = permit(read_json(call.request), _LEAVING)
    dates = asked | {name: value for name, value in given.items() if value is not None and value != ""}
    if len(dates) != 1:
        raise Refusal(invalid(base="exactly one of withdrawn_on and graduated_on must be given"))
    if wrong := {name: INVALID for name, value in dates.items() if not is_date(value)}:
        raise Refusal(invalid(**wrong))
    return dates
