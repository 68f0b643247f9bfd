"""Write to ManageBac: record each write before it is sent, never send it twice, and read the student back.

A `Write` describes one write. `Sender.write` sends it and returns how it ended. This module asks the user nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from rostersync.errors import ApiError, OutcomeUnknown, Stopped, StoreError
from rostersync.logger import get_logger
from rostersync.managebac.avatar import encode as encode_avatar
from rostersync.managebac.fields import archive_date, check_id, invalid, not_taken, payload
from rostersync.recording import Recorder
from rostersync.store.audit import Entry, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rostersync.cancel import CancelScope
    from rostersync.managebac.students import Students
    from rostersync.recording import Recording
    from rostersync.records import Student
    from rostersync.store.store import Store

log = get_logger(__name__)

LOOKS = 3
"""How often to read a student, with pauses of 1 and 2 seconds, before a write counts as not taken.

The servers that answer reads may lag behind those that accept writes.
"""


@dataclass(frozen=True, slots=True)
class Write:
    """One write, checked and ready to be sent.

    `key` is the student's id, or 0 for a create. `sent` holds the fields as they are sent; the record must show them
    afterwards. `send` sends the write with a client, and returns the student in the response, or None if the response
    has none.
    """

    verb: str
    key: int
    sent: Mapping[str, Any] = field(repr=False)
    send: Callable[[Students], Student | None] = field(repr=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that are written."""
        return tuple(self.sent)

    @property
    def identities(self) -> dict[str, str]:
        """The values that no other student may have when one is created: see `identities`."""
        return identities(self.sent.get("email"), self.sent.get("student_id"))

    @property
    def shows(self) -> bool:
        """Whether the student's record shows if the write was carried out. It shows no pictures and no passwords."""
        return bool(self.sent) and "password" not in self.sent

    def missing(self, *records: Student) -> tuple[str, ...]:
        """Return the names of the fields that none of a student's records shows as they were sent.

        There may be two records of a student, because some fields are served only by lists and others only by GET.
        """
        first, *others = map(self._missing, records)
        return tuple(name for name in first if all(name in names for names in others))

    def _missing(self, student: Student) -> tuple[str, ...]:
        names = not_taken(self.sent, student)
        left_in = self.verb == "archive" and not student.archived  # an earlier archiving may have left its date
        return (*names, "archived") if left_in else names


def create(fields: Mapping[str, Any], *, send_welcome_email: bool | None = None) -> Write:
    """Return the write that creates a student. Like the functions below, raise `Invalid` if a value is not valid."""
    sent = payload(fields, new=True)
    return Write("create", 0, sent, lambda s: s.create(send_welcome_email=send_welcome_email, **fields))


def update(key: int, fields: Mapping[str, Any]) -> Write:
    """Return the write that changes these fields of a student. The value None clears a field."""
    check_id(key)
    return Write("update", key, payload(fields), lambda s: s.update(key, **fields))


def archive(key: int, dates: Mapping[str, Any]) -> Write:
    """Return the write that archives a student. `dates` has either `withdrawn_on` or `graduated_on`."""
    check_id(key)
    sent = archive_date(dates)
    return Write("archive", key, sent, lambda s: s.archive(key, **sent))


def unarchive(key: int) -> Write:
    """Return the write that takes a student out of the archive."""
    check_id(key)
    return Write("unarchive", key, {"archived": False}, lambda s: s.unarchive(key))


def set_avatar(key: int, url: str | None, file: Path | None) -> Write:
    """Return the write that sets a student's picture. It is not documented what the record then shows."""
    check_id(key)
    encode_avatar(url, file)  # raises `Invalid` if the picture is not valid
    return Write("set-avatar", key, {}, lambda s: s.set_avatar(key, url=url, file=file))


def delete_avatar(key: int) -> Write:
    """Return the write that deletes a student's picture."""
    check_id(key)
    return Write("delete-avatar", key, {}, lambda s: s.delete_avatar(key))


def identities(email: str | None, student_id: str | None) -> dict[str, str]:
    """Return, by field, the values that no other student may have when one is created. Empty values are left out.

    The case of an e-mail address does not matter.
    """
    texts = {"email": (email or "").strip().casefold(), "student_id": (student_id or "").strip()}
    return {name: text for name, text in texts.items() if text}


class WriteResult(msgspec.Struct, frozen=True):
    """How a write ended.

    `student` is the record that was read back, None if it was not. `not_taken` names the fields that the record does
    not show as they were sent. `error` is the error of the API while the student was written or read back.
    """

    key: int
    outcome: Outcome
    student: Student | None = None
    not_taken: tuple[str, ...] = ()
    error: ApiError | None = None
    recording: Recording | None = None
    """The record of this write; None until `Sender.write` has finished."""
    log_error: StoreError | None = None
    """Why the entry in the audit log could not be completed. The log still says `sending`."""
    stopped: Stopped | None = None
    """Set if the process was asked to stop during the write."""


class Sender:
    """Sends writes to one source's students, and records them. `store` is None before the database exists."""

    def __init__(self, source: str, students: Students, store: Store | None, scope: CancelScope) -> None:
        self._source = source
        self._students = students
        self._recorder = Recorder(store, scope.clock)
        self._scope = scope
        self._so_far = WriteResult(0, Outcome.REFUSED)
        """What is known so far about the write that is under way."""

    def write(self, write: Write, *, read_back: bool = True) -> WriteResult:
        """Send a write, read the student back, and return how the write ended.

        Errors of the API, and a request to end the process, are in the result. Without `read_back` the student is read
        only if the response was lost, and the caller should use `confirm` afterwards.

        Raises `StoreError`, before anything is sent, if the write cannot be recorded.
        """
        recording = self._recorder.begin(
            Entry(self._source, write.verb, (write.key,) if write.key else (), write.fields)
        )
        self._so_far = WriteResult(write.key, Outcome.REFUSED)
        try:
            result = self._send(write, read_back=read_back)
        except Stopped as stopped:
            outcome = Outcome.UNKNOWN if stopped.in_doubt else self._so_far.outcome
            result = replace(self._so_far, outcome=outcome, stopped=stopped)
        return self._finish(replace(result, recording=recording))

    def confirm(self, write: Write, result: WriteResult, listed: Student, *, last: bool) -> WriteResult:
        """Return how an accepted write ended, judged by the student's row in a list, and also by GET if `last` is set.

        Raises `ApiError` and `Stopped`.
        """
        missing = write.missing(listed)
        if missing and last:
            missing = write.missing(listed, self._students.get(listed.id))
        outcome = Outcome.NOT_TAKEN if missing else Outcome.DONE
        confirmed = replace(result, outcome=outcome, student=listed, not_taken=missing)
        return confirmed if outcome is result.outcome else self._finish(confirmed)

    def _holders(self, write: Write, name: str) -> list[Student]:
        """Return the students who have the e-mail address or the student_id of a create. Raises `ApiError`."""
        wanted = write.identities[name]
        found = self._students.list(q=write.sent[name].strip())
        return [student for student in found if identities(student.email, student.student_id).get(name) == wanted]

    def _send(self, write: Write, *, read_back: bool) -> WriteResult:
        try:
            if not write.key:
                self._require_new(write)
            answer = write.send(self._students)
        except OutcomeUnknown as error:
            self._so_far = WriteResult(write.key, Outcome.UNKNOWN, error=error)
            return self._resolve(write, error)
        except ApiError as error:
            return WriteResult(write.key, Outcome.REFUSED, error=error)
        self._so_far = WriteResult(write.key or (answer.id if answer else 0), Outcome.DONE)
        return self._read_back(write, self._so_far.key) if read_back else self._so_far

    def _require_new(self, write: Write) -> None:
        """Raise `Invalid` if a student already has the e-mail address or the student_id of a create.

        Perhaps an earlier create added that student, and the response to it was lost.
        """
        for name in write.identities:
            if found := self._holders(write, name):
                raise invalid({name: (f"already belongs to student {found[0].id}",)})

    def _resolve(self, write: Write, error: OutcomeUnknown) -> WriteResult:
        """Find out if a write with a lost response was carried out. If not, it may still be carried out later."""
        key = write.key or self._created(write)
        if not key:
            return WriteResult(0, Outcome.UNKNOWN, error=error)
        found = self._read_back(write, key)
        if write.shows and found.student is not None and not found.not_taken:
            return found
        return WriteResult(key, Outcome.UNKNOWN, found.student, found.not_taken, error)

    def _created(self, write: Write) -> int:
        """Return the id of the student that a create with a lost response has added; 0 unless exactly one is found."""
        found: list[Student] = []
        for look in range(LOOKS):
            self._scope.sleep(look)
            try:
                found = self._holders(write, "email")
            except ApiError as error:
                log.debug("look_up_failed", reason=error.message)
            if found:
                break
        return found[0].id if len(found) == 1 else 0

    def _read_back(self, write: Write, key: int) -> WriteResult:
        """Fetch the student until the record shows what was sent, at most `LOOKS` times, and return the outcome."""
        result = WriteResult(key, Outcome.DONE)
        for look in range(LOOKS):
            self._scope.sleep(look)
            try:
                student = self._students.get(key)
            except ApiError as error:
                return WriteResult(key, Outcome.DONE, error=error)
            missing = write.missing(student)
            result = WriteResult(key, Outcome.NOT_TAKEN if missing else Outcome.DONE, student, missing)
            if not missing:
                return result
        return self._beside_list(write, result, student)

    def _beside_list(self, write: Write, result: WriteResult, student: Student) -> WriteResult:
        """Return how a write ended, judged also by the list, which may serve fields that GET does not."""
        with suppress(ApiError):
            listed = next((row for row in self._students.list(ids=[student.id]) if row.id == student.id), student)
            missing = write.missing(student, listed)
            return replace(result, outcome=Outcome.NOT_TAKEN if missing else Outcome.DONE, not_taken=missing)
        return result

    def _finish(self, result: WriteResult) -> WriteResult:
        """Record how a write ended. If the database fails, only note that, because the write itself was sent."""
        assert result.recording is not None, "it was recorded before it was sent"
        try:
            self._recorder.finish(result.recording, result.outcome, (result.key,) if result.key else None)
        except StoreError as error:
            return replace(result, log_error=error)
        return result
