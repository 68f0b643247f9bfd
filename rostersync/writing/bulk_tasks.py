"""Decide what to write for each line of a CSV file, by comparing the line with the student's record in ManageBac.

Only the cells that differ from the record are sent. Therefore a user can edit the output of `students list --csv` and
use it as the input file. After an interruption, a user can send the same file again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rostersync.cells import shows, unguarded
from rostersync.clock import from_text
from rostersync.errors import Invalid
from rostersync.managebac.fields import UNWRITABLE, WRITABLE, not_taken, refuse, typed, why_not_writable
from rostersync.managebac.students import MOST_PER_PAGE
from rostersync.records import Kind, json_value
from rostersync.store.audit import Outcome
from rostersync.writing import bulk_file, single
from rostersync.writing.single import identities

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from rostersync.managebac.students import Students
    from rostersync.records import Student
    from rostersync.writing.bulk_file import File, Line, Mistake
    from rostersync.writing.single import Write

T = TypeVar("T")

UNCHANGED = "unchanged"
"""The outcome of a line that changes nothing, because the record already has all values in the line."""

_AT_ONCE = 100  # the maximum number of ids in one list request


class Task(msgspec.Struct, frozen=True):
    """The write for a line of the file. If the line needs no write, `write` is None, and `outcome` says why.

    `key` is the id of the student, or 0 if the line creates a student.
    """

    number: int
    key: int
    write: Write | None
    outcome: str = UNCHANGED
    reason: str = ""
    stale: bool = False
    """Whether the line changes a record that was changed in ManageBac after the line was exported."""


def tasks(file: File, verb: str, students: Students, *, send_welcome_email: bool | None = None) -> list[Task]:
    """Return a task for each line of a file.

    Args:
        file: The lines of the file, and the mistakes that were already found.
        verb: The verb of the command, such as `update`.
        students: The client that reads the students' records.
        send_welcome_email: Whether ManageBac should send a welcome mail to each new student. If None, ManageBac
            gets no value for this option. This parameter is used only for `create`.

    Returns:
        The tasks, in the order of the lines.

    Raises:
        ConfigError: The file has mistakes. The error contains a message for each mistake.
        ApiError: The students cannot be read.

    """
    if verb == "create":
        return _creates(file, students, send_welcome_email=send_welcome_email)
    task_of = {"update": _update, "archive": _archive, "unarchive": _unarchive}[verb]
    shown = shown_by_id(students, [line.key for line in file.lines])
    made: list[Task] = []
    mistakes = [*file.mistakes]
    for line in file.lines:
        try:
            made.append(task_of(line, shown.get(line.key)))
        except Invalid as error:
            mistakes.append(_mistake(line, error))
    bulk_file.refuse(file.path, mistakes)
    return made


def shown_by_id(students: Students, keys: Sequence[int]) -> dict[int, Student]:
    """Read the students with these ids by list requests, and return their records, keyed by id.

    If the server ignores the filter by ids, one list request returns all students.
    """
    wanted = set(keys)
    found: dict[int, Student] = {}
    for start in range(0, len(keys), _AT_ONCE):
        listed = students.list(ids=keys[start : start + _AT_ONCE], per_page=_AT_ONCE)
        ignored = listed.total_count > len(keys[start : start + _AT_ONCE])  # if so, the list contains all students
        found |= {student.id: student for student in listed if student.id in wanted}
        if ignored:
            break
    return found


def columns(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return the names of the fields that the tasks write."""
    return tuple(dict.fromkeys(name for task in tasks if task.write for name in task.write.fields))


def _mistake(line: Line, error: Invalid) -> Mistake:
    """Return the number of a line and a message about the mistakes in that line.

    The message quotes the first wrong cell. The message never quotes the cell of a text field, because the cell may
    contain a name or a password.
    """
    formed = (name for name in error.fields if WRITABLE.get(name, Kind.TEXT) is not Kind.TEXT)
    cells = [line.cells[name] for name in formed if name in line.cells]
    found = f", found {cells[0][:40]!r}" if cells else ""
    return line.number, f"{error.message}{found}"


def _write(cells: Mapping[str, str], mistakes: Mapping[str, tuple[str, ...]], make: Callable[[dict[str, Any]], T]) -> T:
    """Convert the cells of a line to values, call `make` with these values, and return its result.

    Raises `Invalid` with all mistakes in the line, namely the `mistakes` that were found before, the mistakes in cells,
    and the mistakes that `make` finds.
    """
    messages = dict(mistakes)
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell == "[]" and WRITABLE.get(name) is Kind.TEXT:
            messages[name] = ("is not a list, and a CSV file can clear only lists",)
            continue
        try:
            values[name] = typed(name, unguarded(cell).strip())
        except Invalid as error:
            messages |= error.fields
    try:
        write = make(values)
    except Invalid as error:
        if values or not messages:  # if every cell is wrong, `make` got no values, and its error says nothing new
            messages |= error.fields
    refuse(messages)
    return write


# Existing students ------------------------------------------------------------------------------------------


def _update(line: Line, student: Student | None) -> Task:
    if student is None:
        known = {name: cell for name, cell in line.cells.items() if name in WRITABLE}
        if not known:
            return Task(line.number, line.key, None, str(Outcome.REFUSED), "no such student in ManageBac's list")
        return Task(line.number, line.key, _write(known, {}, partial(single.update, line.key)))
    edited = {name: cell for name, cell in line.cells.items() if not shows(cell, _value(student, name))}
    messages: dict[str, tuple[str, ...]] = {
        name: (f"differs from ManageBac, and cannot be written: {UNWRITABLE[name]}",)
        for name, cell in edited.items()
        if name in UNWRITABLE and not _changes_by_itself(name, cell, line, student)
    }
    cells = {name: cell for name, cell in edited.items() if name in WRITABLE}
    if not (cells or messages):
        return Task(line.number, line.key, None)
    write = _write(cells, messages, lambda values: _changes(line.key, values, student))
    return Task(line.number, line.key, write, stale=write is not None and _is_stale(line, student))


def _changes(key: int, values: Mapping[str, Any], student: Student) -> Write | None:
    """Return a write with the values that differ from the record, or None if no value differs.

    A record never contains a password, so a password is always written.
    """
    changed = {*not_taken(single.update(key, values).sent, student), "password"}
    left = {name: value for name, value in values.items() if name in changed}
    return single.update(key, left) if left else None


def _archive(line: Line, student: Student | None) -> Task:
    return _unless_shown(line, _write(line.cells, {}, partial(single.archive, line.key)), student)


def _unarchive(line: Line, student: Student | None) -> Task:
    return _unless_shown(line, single.unarchive(line.key), student)


def _unless_shown(line: Line, write: Write, student: Student | None) -> Task:
    is_shown = student is not None and not write.missing(student)
    return Task(line.number, line.key, None if is_shown else write)


def _value(student: Student, name: str) -> Any:
    return json_value(getattr(student, name, None))


def _changes_by_itself(name: str, cell: str, line: Line, student: Student) -> bool:
    """Return whether a cell of a read-only field may differ from the record without an edit by the user.

    For example, a spreadsheet may change true to TRUE. When a student logs in or is changed, the record
    gets a new `last_accessed_at` or `updated_at`. ManageBac may change the signature in a picture's URL, which is the
    part after the question mark. If a student gets a new picture, the record has a new URL and a new `updated_at`.
    """
    match name:
        case "archived":
            return shows(cell.lower(), _value(student, name))
        case "updated_at" | "last_accessed_at":
            return _is_before(cell, getattr(student, name))
        case "photo_url":
            same = cell.partition("?")[0] == (student.photo_url or "").partition("?")[0]
            return same or _is_stale(line, student)
    return False


def _is_stale(line: Line, student: Student) -> bool:
    return _is_before(line.cells.get("updated_at", ""), student.updated_at)


def _is_before(cell: str, moment: datetime | None) -> bool:
    try:
        return moment is not None and from_text(cell) < moment
    except ValueError:
        return False


# New students ------------------------------------------------------------------------------


def _creates(file: File, students: Students, *, send_welcome_email: bool | None) -> list[Task]:
    """Return the tasks for a file that creates students. No request is sent unless the whole file is valid."""
    writes: list[Write] = []
    mistakes = [*file.mistakes]
    lines: dict[tuple[str, str], int] = {}  # e-mail address or student_id -> number of the line
    for line in file.lines:
        try:
            write = _new(line, send_welcome_email=send_welcome_email)
            keys = write.identities.items()
            refuse({key[0]: (f"is already in line {lines[key]}",) for key in keys if key in lines})
        except Invalid as error:
            mistakes.append(_mistake(line, error))
            continue
        writes.append(write)
        lines |= dict.fromkeys(keys, line.number)
    bulk_file.refuse(file.path, mistakes)
    holders = {
        identity: student
        for student in students.list(per_page=MOST_PER_PAGE)
        for identity in identities(student.email, student.student_id).items()
    }
    return [_create(line.number, write, holders, students) for line, write in zip(file.lines, writes, strict=True)]


def _new(line: Line, *, send_welcome_email: bool | None) -> Write:
    mistakes = {name: (why_not_writable(name),) for name in line.cells if name not in WRITABLE}
    cells = {name: cell for name, cell in line.cells.items() if name in WRITABLE}
    return _write(cells, mistakes, lambda values: single.create(values, send_welcome_email=send_welcome_email))


def _create(number: int, write: Write, holders: Mapping[tuple[str, str], Student], students: Students) -> Task:
    """Return the task for a line that creates a student.

    If a student already has the e-mail address or the student_id of the new student, the task contains no write.
    """
    held = {name: holders[name, text] for name, text in write.identities.items() if (name, text) in holders}
    if not held:
        return Task(number, 0, write)
    student = next(iter(held.values()))
    if "email" in held and not (write.missing(student) and write.missing(student, students.get(student.id))):
        return Task(number, student.id, None)
    reason = "; ".join(f"{name} already belongs to student {holder.id}" for name, holder in held.items())
    return Task(number, student.id, None, str(Outcome.REFUSED), reason)
