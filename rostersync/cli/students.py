"""`rostersync students`: straight from the API, without the database."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import Moment, Natural, configured, json_option
from rostersync.cli.output import count, document, table
from rostersync.cli.program import print_stderr
from rostersync.clock import to_text
from rostersync.errors import ConfigError, RostersyncError
from rostersync.records import FIELD_NAMES, Gone, Query, Rejected, Student, json_value
from rostersync.runs import wiring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from rostersync.cli.options import Session
    from rostersync.managebac.reader import StudentReader
    from rostersync.records import Row

_COLUMNS = ("id", "last_name", "first_name", "email", "student_id", "year_group_id", "status", "updated_at")
_NAMES = ("id", *FIELD_NAMES, "extra")


@click.group()
def command() -> None:
    """Read students straight from the API, without the database."""


_one_source = click.option("--source", "name", metavar="NAME", help="The source, where there are several.")


@contextmanager
def _opened(session: Session, name: str | None) -> Iterator[StudentReader]:
    sources = session.chosen([name] if name else [])
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise ConfigError([f"there are several sources: {names}"], "choose one with --source NAME")
    with wiring.connector(session.config, session.clock)(sources[0].name) as students:
        yield students


@command.command(name="list")
@_one_source
@click.option("--id", "ids", type=Natural(), multiple=True, help="Only this id; may be repeated.")
@click.option("--archived/--no-archived", default=None, help="Only archived students, or only others.")
@click.option("--status", help="Only students with this status.")
@click.option("--modified-since", type=Moment(), help="Only students modified since then.")
@click.option("--deleted-since", type=Moment(), help="StudentReader deleted since then, instead of current ones.")
@click.option("--year-group", "year_groups", type=int, multiple=True, help="Only this year group; may be repeated.")
@click.option("--homeroom-advisor", "advisors", type=int, multiple=True, help="Only this advisor; may be repeated.")
@click.option("--q", help="Only students that the API's search finds.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with every field.")
@json_option
@configured
def list_(
    session: Session,
    *,
    name: str | None,
    ids: tuple[int, ...],
    archived: bool | None,
    status: str | None,
    modified_since: datetime | None,
    deleted_since: datetime | None,
    year_groups: tuple[int, ...],
    advisors: tuple[int, ...],
    q: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List the students that match all filters. Times: 2026-03-01, or 2026-03-01T08:00:00Z."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    query = Query(ids, archived, status, modified_since, deleted_since, year_groups, advisors, q)
    with _opened(session, name) as students:
        rows = list(_all(students, query))
    printer: Callable[[list[Student], list[Rejected]], None]
    printer = _print_csv if as_csv else _print_json if as_json else _print_table
    rejected = [row for row in rows if isinstance(row, Rejected)]
    printer([row for row in rows if isinstance(row, Student)], rejected)
    for row in rejected:
        print_stderr(f"student {row.id or 'without an id'} cannot be read: {row.reason}")


def _all(students: StudentReader, query: Query) -> Iterator[Row]:
    """Yield the rows of every page. One may be missing if the list changes meanwhile: only runs guard against that."""
    first = students.first_page(query)
    yield from first.rows
    for page in students.pages(query, range(2, first.total_pages + 1)):
        yield from page.rows if page else ()


@command.command()
@click.argument("key", metavar="ID", type=Natural())
@_one_source
@json_option
@configured
def get(session: Session, key: int, name: str | None, as_json: bool) -> None:
    """Print one student."""
    with _opened(session, name) as students:
        row = students.get(key)
    if isinstance(row, Gone):
        raise RostersyncError(
            f"there is no student {key}", "the student may have been deleted, or belong to another school"
        )
    if isinstance(row, Rejected):
        raise RostersyncError(f"student {key} cannot be read: {row.reason}", "correct the record in ManageBac")
    if as_json:
        document({"student": _json(row)})
        return
    values = [(field, _as_cell(value)) for field, value in _json(row).items() if value not in (None, {})]
    table(("field", "value"), values)


# Printing --------------------------------------------------------------------------------------------------------


def _json(student: Student) -> dict[str, Any]:
    deleted = {"deleted_at": to_text(student.deleted_at)} if student.deleted_at else {}
    return {name: json_value(getattr(student, name)) for name in _NAMES} | deleted


def _print_json(students: list[Student], rejected: list[Rejected]) -> None:
    unreadable = [{"id": row.id, "reason": row.reason} for row in rejected]
    document({"students": [_json(student) for student in students], "unreadable": unreadable})


def _print_csv(students: list[Student], _rejected: Iterable[Rejected]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_NAMES)
    for student in students:
        writer.writerow([_as_cell(json_value(getattr(student, name))) for name in _NAMES])


def _print_table(students: list[Student], _rejected: Iterable[Rejected]) -> None:
    table(_COLUMNS, [[json_value(getattr(student, name)) for name in _COLUMNS] for student in students])
    print_stderr(count(len(students), "student"))


def _as_cell(value: Any) -> Any:
    """Return a list or an object as JSON, which a single cell can hold."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value
