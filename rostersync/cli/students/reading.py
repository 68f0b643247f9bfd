"""`rostersync students list` and `get`: read students directly from the API, without the database."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from rostersync.cells import as_cell
from rostersync.cli.options import Moment, Natural, configured_as_caller, json_option
from rostersync.cli.output import document, document_end, progress, streamed_document, table, write_csv_line
from rostersync.cli.program import print_stderr
from rostersync.cli.students.source import chosen_source, one_source_option, opened
from rostersync.errors import NoDatabase, StoreError
from rostersync.managebac.students import STATUSES
from rostersync.records import FIELD_NAMES, json_value
from rostersync.store.audit import Entry, Outcome
from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rostersync.cli.options import Session
    from rostersync.managebac.students import Status, StudentList
    from rostersync.recording import Recording
    from rostersync.records import Rejected, Student

_COLUMNS = ("id", "last_name", "first_name", "email", "student_id", "year_group_id", "status", "updated_at")
_IN_A_TABLE = 1_000
NAMES = ("id", *FIELD_NAMES, "extra", "deleted_at")


@click.command("list")
@one_source_option
@click.option("--id", "ids", type=Natural(), multiple=True, help="List only the student with this id; may be repeated.")
@click.option(
    "--archived/--no-archived", default=None, help="List only archived students, or only students who are not archived."
)
@click.option("--status", type=click.Choice(STATUSES), help="List only students with this status.")
@click.option("--modified-since", type=Moment(), help="List only students who were modified since this time.")
@click.option(
    "--deleted-since",
    type=Moment(),
    help="List the students who were deleted since this time, instead of current students.",
)
@click.option(
    "--year-group",
    "year_groups",
    type=Natural(),
    multiple=True,
    help="List only students in the year group with this id; may be repeated.",
)
@click.option(
    "--homeroom-advisor",
    "advisors",
    type=Natural(),
    multiple=True,
    help="List only students of the homeroom advisor with this id; may be repeated.",
)
@click.option("--q", help="List only students who match this text in the API's search.")
@click.option("--fields", "fields", metavar="NAME,...", help="Print only these fields, in this order.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with all fields unless --fields is given.")
@click.option("--raw", is_flag=True, help="With --csv, do not put an apostrophe before values that look like formulas.")
@json_option
@configured_as_caller
def list_students(
    session: Session,
    *,
    name: str | None,
    ids: tuple[int, ...],
    archived: bool | None,
    status: Status | None,
    modified_since: datetime | None,
    deleted_since: datetime | None,
    year_groups: tuple[int, ...],
    advisors: tuple[int, ...],
    q: str | None,
    fields: str | None,
    as_csv: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """List the students who match all filters. Write a time as 2026-03-01 or 2026-03-01T08:00:00Z.

    Each student is printed as soon as it is read. If the exit status is not 0, the output may be incomplete.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot be combined")
    if raw and not as_csv:
        raise click.UsageError("--raw can only be used with --csv")
    names = _chosen(fields)
    if as_csv:
        session = session.as_owner()
    with opened(session, name) as api:
        found = api.students.list(
            ids=ids or None,
            archived=archived,
            status=status,
            modified_since=modified_since,
            deleted_since=deleted_since,
            year_group_ids=year_groups or None,
            homeroom_advisor_ids=advisors or None,
            q=q,
            per_page=session.config.sync.per_page,
        )
        students = _with_progress(found)
        if as_csv:
            entry = Entry(chosen_source(session, name).name, "list-csv", ids, names or NAMES)
            with _recorded(session, entry) as recording:
                number = _print_csv(students, names or NAMES, raw=raw)
                if recording is not None:
                    recording.count({"students": number})
        elif as_json:
            _print_json(students, found.unreadable, names or NAMES)
        else:
            _print_tables(students, names, with_deleted=deleted_since is not None)
    for row in found.unreadable:
        print_stderr(f"student {row.id or 'without an id'} cannot be read: {row.reason}")


@contextmanager
def _recorded(session: Session, entry: Entry) -> Iterator[Recording | None]:
    """Record an export in the audit log, and yield the recording.

    If the export cannot be recorded, print a warning and yield None, so that the students are exported without a
    record.
    """
    from rostersync.recording import Recorder  # noqa: PLC0415 - only an export needs this import
    from rostersync.store.store import open_store  # noqa: PLC0415 - the same

    with ExitStack() as stack:
        try:
            try:
                store = open_store(session.config, session.clock, create=False)
            except NoDatabase:
                store = None
            recorder = Recorder(store, session.clock)
            recording: Recording | None = stack.enter_context(recorder.recorded(entry, failed=Outcome.NOT_TAKEN))
        except StoreError as error:
            print_stderr(f"this export is not recorded: {error.message}", logging.WARNING)
            recording = None
        yield recording


def _chosen(fields: str | None) -> tuple[str, ...]:
    """Return the names in a comma-separated list, without duplicates. If `fields` is empty, return an empty tuple."""
    names = [name.strip() for name in (fields or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        close = get_close_matches(unknown[0], NAMES, n=1)
        meant = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(NAMES)}"
        raise click.UsageError(f"--fields: {unknown[0]} is not a field{meant}")
    return tuple(dict.fromkeys(names))


def _with_progress(found: StudentList) -> Iterator[Student]:
    """Return an iterator over the students.

    Show a progress bar only if standard output is not a terminal, because the bar would disturb a table.
    """
    total = found.total_count  # reads the first page before anything is printed, because most errors occur there
    if sys.stdout.isatty():
        return found
    return _counted(found, total)


def _counted(found: StudentList, total: int) -> Iterator[Student]:
    with progress() as progress_of:
        report = progress_of("students")
        for number, student in enumerate(found, 1):
            yield student
            if number % 100 == 0:
                report("list", number, total)


@click.command()
@click.argument("key", metavar="ID", type=Natural())
@one_source_option
@json_option
@configured_as_caller
def get(session: Session, key: int, name: str | None, as_json: bool) -> None:
    """Print one student."""
    with opened(session, name) as api:
        student = api.students.get(key)
    if as_json:
        document({"student": as_json_object(student)})
    else:
        show_student(student)


# Printing --------------------------------------------------------------------------------------------------------


def as_json_object(student: Student, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Return the fields with these `names`, and their values, for a JSON document."""
    return {name: json_value(getattr(student, name)) for name in names}


def show_student(student: Student) -> None:
    """Print one line for each field of a student that has a value."""
    values = [(name, as_cell(value)) for name, value in as_json_object(student).items() if value not in (None, {})]
    table(("field", "value"), values)


def _print_json(students: Iterator[Student], rejected: list[Rejected], names: Sequence[str]) -> None:
    streamed_document("students", (as_json_object(student, names) for student in students))
    document_end({"unreadable": [{"id": row.id, "reason": row.reason} for row in rejected]})


def _print_tables(students: Iterator[Student], names: Sequence[str], *, with_deleted: bool) -> None:
    """Print tables of up to 1,000 students. We need all cells of a table before we know the widths of its columns."""
    number = 0
    while True:
        some = list(islice(students, _IN_A_TABLE))
        if number and not some:
            break
        with_deleted = with_deleted or any(student.deleted_at for student in some)
        columns = names or ((*_COLUMNS, "deleted_at") if with_deleted else _COLUMNS)
        table(columns, [[json_value(getattr(student, name)) for name in columns] for student in some])
        number += len(some)
        if len(some) < _IN_A_TABLE:
            break
    print_stderr(count(number, "student"), logging.INFO)


def _print_csv(students: Iterator[Student], names: Sequence[str], *, raw: bool) -> int:
    """Print the students as CSV, and return the number of students."""
    write_csv_line(sys.stdout, names, raw=raw)
    number = 0
    for student in students:
        cells = [as_cell(json_value(getattr(student, name))) for name in names]
        write_csv_line(sys.stdout, cells, raw=raw)
        number += 1
    return number
