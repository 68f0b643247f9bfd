"""Write to ManageBac. Each write is recorded before it is sent, and no write is sent twice.

After a write, the student is read back.

A `Write` describes one write. The method `Sender.write` sends the write and returns the result. This module never
prompts the user.
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
"""How many times a student is read back before we conclude that ManageBac did not change a field.

There are pauses of 1 and 2 seconds between the reads, because the servers that answer reads may lag behind the servers
that accept writes.
"""


@dataclass(frozen=True, slots=True)
class Write:
    """A write that is ready to be sent, because its values were checked.

    `key` is the id of the student, or 0 if the write creates a student. `sent` contains the values of the fields as
    they are sent. After the write, the student's record should have these values. The function `send` takes a client,
    sends the write, and returns the student in the response, or None if the response contains no student.
    """

    verb: str
    key: int
    sent: Mapping[str, Any] = field(repr=False)
    send: Callable[[Students], Student | None] = field(repr=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that are sent."""
        return tuple(self.sent)

    @property
    def identities(self) -> dict[str, str]:
        """The values in this write that must be unique when a student is created (see the function `identities`)."""
        return identities(self.sent.get("email"), self.sent.get("student_id"))

    @property
    def shows(self) -> bool:
        """Whether the student's record can show that the write was carried out.

        The record never shows this for pictures and passwords.
        """
        return bool(self.sent) and "password" not in self.sent

    def missing(self, *records: Student) -> tuple[str, ...]:
        """Return the names of the sent fields whose value differs from the sent value in each of the `records`.

        A student may have two records, because some fields are only in lists, and others only in responses to GET.
        """
        first, *others = map(self._missing, records)
        return tuple(name for name in first if all(name in names for names in others))

    def _missing(self, student: Student) -> tuple[str, ...]:
        names = not_taken(self.sent, student)
        left_in = self.verb == "archive" and not student.archived  # the date may be from an earlier archiving
        return (*names, "archived") if left_in else names


def create(fields: Mapping[str, Any], *, send_welcome_email: bool | None = None) -> Write:
    """Return the write that creates a student.

    This function and the following functions raise `Invalid` if a value is not valid.
    """
    sent = payload(fields, new=True)
    return Write("create", 0, sent, lambda s: s.create(send_welcome_email=send_welcome_email, **fields))


def update(key: int, fields: Mapping[str, Any]) -> Write:
    """Return the write that changes fields of a student. If the value of a field is None, the field is cleared."""
    check_id(key)
    return Write("update", key, payload(fields), lambda s: s.update(key, **fields))


def archive(key: int, dates: Mapping[str, Any]) -> Write:
    """Return the write that archives a student.

    `dates` must contain exactly one of the two fields `withdrawn_on` and `graduated_on`.
    """
    check_id(key)
    sent = archive_date(dates)
    return Write("archive", key, sent, lambda s: s.archive(key, **sent))


def unarchive(key: int) -> Write:
    """Return the write that takes a student out of the archive."""
    check_id(key)
    return Write("unarchive", key, {"archived": False}, lambda s: s.unarchive(key))


def set_avatar(key: int, url: str | None, file: Path | None) -> Write:
    """Return the write that sets a student's picture.

    ManageBac does not document how the student's record changes, so the record cannot show whether the write succeeded.
    """
    check_id(key)
    encode_avatar(url, file)  # raises `Invalid` if the picture is not valid
    return Write("set-avatar", key, {}, lambda s: s.set_avatar(key, url=url, file=file))


def delete_avatar(key: int) -> Write:
    """Return the write that deletes a student's picture."""
    check_id(key)
    return Write("delete-avatar", key, {}, lambda s: s.delete_avatar(key))


def identities(email: str | None, student_id: str | None) -> dict[str, str]:
    """Return the values that must be unique when a student is created, keyed by field. Empty values are left out.

    E-mail addresses are converted to lower case, because they are compared without regard to case.
    """
    texts = {"email": (email or "").strip().casefold(), "student_id": (student_id or "").strip()}
    return {name: text for name, text in texts.items() if text}


class WriteResult(msgspec.Struct, frozen=True):
    """The result of a write.

    `student` is the record that was read back after the write, or None. `not_taken` contains the names of the sent
    fields that have a different value in the record. `error` is the error that the API returned when the student
    was written or read back.
    """

    key: int
    outcome: Outcome
    student: Student | None = None
    not_taken: tuple[str, ...] = ()
    error: ApiError | None = None
    recording: Recording | None = None
    """The record of this write for the journal and the audit log. None until `Sender.write` has finished."""
    log_error: StoreError | None = None
    """The reason why the entry in the audit log could not be completed. The entry still has the outcome `sending`."""
    stopped: Stopped | None = None
    """The request to stop, if the process was asked to stop during the write. Otherwise None."""


class Sender:
    """Sends writes to one source, and records each write. `store` is None if the database does not exist yet."""

    def __init__(self, source: str, students: Students, store: Store | None, scope: CancelScope) -> None:
        self._source = source
        self._students = students
        self._recorder = Recorder(store, scope.clock)
        self._scope = scope
        self._so_far = WriteResult(0, Outcome.REFUSED)
        """What is known so far about the result of the write in progress."""

    def write(self, write: Write, *, read_back: bool = True) -> WriteResult:
        """Send a write, read the student back, and return the result of the write.

        If the API returns an error, or if the process is asked to stop, this method does not raise an exception. It
        returns a result that contains the error or the request to stop.

        Args:
            write: The write to send.
            read_back: Whether to read the student after the write. If false, the student is read back only if the
                response was lost, and the caller should call `confirm` later.

        Returns:
            The result of the write.

        Raises:
            StoreError: The write could not be recorded, so nothing was sent.

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
        """Return the new result of an accepted write, after a list showed the student's current values.

        Args:
            write: The write.
            result: The result of the write so far.
            listed: The student's row in a list.
            last: Whether this is the last check of the write. If the list row does not have all sent values, the last
                check also reads the student by GET.

        Returns:
            The updated result.

        Raises:
            ApiError: The student could not be read.
            Stopped: The process was asked to stop.

        """
        missing = write.missing(listed)
        if missing and last:
            missing = write.missing(listed, self._students.get(listed.id))
        outcome = Outcome.NOT_TAKEN if missing else Outcome.DONE
        confirmed = replace(result, outcome=outcome, student=listed, not_taken=missing)
        return confirmed if outcome is result.outcome else self._finish(confirmed)

    def _holders(self, write: Write, name: str) -> list[Student]:
        """Return the students who already have the same e-mail address or student_id as the write.

        `name` is the field to compare, which is `email` or `student_id`.

        Raises `ApiError` if the students cannot be read.
        """
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
        """Raise `Invalid` if a student already has the e-mail address or the student_id of the new student.

        An earlier write may have created this student even if its response was lost.
        """
        for name in write.identities:
            if found := self._holders(write, name):
                raise invalid({name: (f"already belongs to student {found[0].id}",)})

    def _resolve(self, write: Write, error: OutcomeUnknown) -> WriteResult:
        """Find out whether a write was carried out, after its response was lost.

        If the write was not carried out yet, ManageBac may still carry it out later, so the outcome is unknown.
        """
        key = write.key or self._created(write)
        if not key:
            return WriteResult(0, Outcome.UNKNOWN, error=error)
        found = self._read_back(write, key)
        if write.shows and found.student is not None and not found.not_taken:
            return found
        return WriteResult(key, Outcome.UNKNOWN, found.student, found.not_taken, error)

    def _created(self, write: Write) -> int:
        """Return the id of the student who was created by a write whose response was lost.

        Return 0 if no student, or more than one student, has the e-mail address.
        """
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
        """Read the student until the record has the values that were sent, and return the result.

        This method reads the student at most `LOOKS` times.
        """
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
        """Return the result of a write, after a list showed the student's current values.

        This check is necessary because a list may contain fields that the response to GET does not contain.
        """
        with suppress(ApiError):
            listed = next((row for row in self._students.list(ids=[student.id]) if row.id == student.id), student)
            missing = write.missing(student, listed)
            return replace(result, outcome=Outcome.NOT_TAKEN if missing else Outcome.DONE, not_taken=missing)
        return result

    def _finish(self, result: WriteResult) -> WriteResult:
        """Record the result of a write.

        If the database fails, put the error into the result and do not raise it, because the write was already sent.
        """
        assert result.recording is not None, "a write is recorded before it is sent"
        try:
            self._recorder.finish(result.recording, result.outcome, (result.key,) if result.key else None)
        except StoreError as error:
            return replace(result, log_error=error)
        return result
