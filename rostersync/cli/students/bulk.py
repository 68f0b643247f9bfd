"""Write many students from a CSV file. This module has the options, the question before the writes, and the report."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from rostersync.cli.options import Natural
from rostersync.cli.output import document, note, progress, write_csv_line
from rostersync.cli.program import print_stderr, signal_name
from rostersync.cli.students import carrying_out
from rostersync.errors import ConfigError, RostersyncError
from rostersync.runs import wiring
from rostersync.store.audit import Outcome
from rostersync.store.database.files import NotPlain, open_plain
from rostersync.words import count
from rostersync.writing import bulk_file, bulk_tasks
from rostersync.writing.bulk import GAVE_UP, NOT_SENT, Bulk, LineResult
from rostersync.writing.single import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rostersync.cli.students.carrying_out import WriteOptions
    from rostersync.errors import Stopped
    from rostersync.managebac import ManageBac
    from rostersync.writing.bulk_tasks import Task

MANY = 25
"""If a CSV file has more lines than this, the user must confirm the number of lines."""
MANY_PERCENT = 5
"""The user must also confirm the number of lines if it exceeds this percentage of the school's students."""

GUARDED = ("email", "password")
"""Columns that a bulk update changes only with --allow-column, because a forged file could use them to take over
accounts.
"""

_MOST_SHOWN = 20  # the largest number of failed lines printed on standard error; the result file has all lines


class Many(msgspec.Struct, frozen=True):
    """The options of a bulk write: the CSV file, the expected number of its lines, and the result file."""

    csv_file: Path
    expect: int | None
    result: Path | None

    @property
    def target(self) -> Path:
        """The result file."""
        return self.result or self.csv_file.with_name(f"{self.csv_file.stem}.result.csv")

    def refuse_beside(self, *others: Any) -> None:
        """Raise `click.UsageError` if the command line has an ID or values in addition to the CSV file."""
        if any(others):
            raise click.UsageError(
                "--from-csv reads everything from the file, so it cannot be combined with an ID or with values"
            )


def options(verb: Callable[..., int]) -> Callable[..., Any]:
    """Add the options of a bulk write to a command.

    The command receives these options as `many`, which is None without --from-csv.
    """

    @click.option(
        "--from-csv",
        "csv_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the students in this CSV file.",
    )
    @click.option(
        "--expect",
        type=Natural(),
        metavar="N",
        help="The number of lines below the header. Required for more than 25 lines or 5 % of the students.",
    )
    @click.option(
        "--result",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The file for the result of each line. Default: FILE.result.csv in the folder of the CSV file.",
    )
    @functools.wraps(verb)
    def command(*args: Any, csv_file: Path | None, expect: int | None, result: Path | None, **given: Any) -> int:
        if csv_file is None and (expect or result):
            raise click.UsageError("--expect and --result can only be used with --from-csv")
        many = None if csv_file is None else Many(csv_file, expect, result)
        return verb(*args, many=many, **given)

    return command


def carry_out(
    options: WriteOptions,
    many: Many,
    verb: str,
    *,
    allowed: Sequence[str] = GUARDED,
    send_welcome_email: bool | None = None,
) -> int:
    """Carry out the lines of a CSV file, and return the exit status.

    `allowed` names the guarded columns that may change.
    """
    source, session, path = options.source, options.session, many.csv_file
    file = bulk_file.read(path, verb)
    if many.expect is not None and many.expect != file.length:
        raise ConfigError([f"--expect {many.expect}: {path} has {count(file.length, 'line')}"], "nothing was sent")
    if not options.dry_run:
        carrying_out.require_allowed(session, source)
        _check_target(many.target, path)
    with wiring.clients(session.config)(source.name, session.scope) as api:
        tasks = bulk_tasks.tasks(file, verb, api.students, send_welcome_email=send_welcome_email)
        _require_allowed(path, tasks, allowed)
        _warn_of_stale(tasks)
        if options.dry_run:
            for task in tasks:
                if task.write is None and task.outcome == Outcome.REFUSED:
                    _print_bad(LineResult(task, task.outcome, task.reason))
            return carrying_out.show_requests(options, source, [task.write for task in tasks if task.write])
        _confirm(options, api, verb, tasks, counted=many.expect is not None)
    return _send(options, many, tasks)


def _require_allowed(path: Path, tasks: Sequence[Task], allowed: Sequence[str]) -> None:
    """Raise `ConfigError` if a line would change a guarded column that is not in `allowed`."""
    changed = Counter(name for task in tasks if task.write for name in task.write.fields)
    refused = [name for name in GUARDED if changed[name] and name not in allowed]
    if refused:
        wrong = "column {0}: {1} would change it, which needs --allow-column {0}"
        mistakes = [f"{path}: {wrong.format(name, count(changed[name], 'line'))}" for name in refused]
        raise ConfigError(mistakes, "nothing was sent")


def _warn_of_stale(tasks: Sequence[Task]) -> None:
    """Warn if some lines may undo changes that were made in ManageBac after the export."""
    if number := sum(task.stale for task in tasks):
        older = (
            "line is older than its student's record" if number == 1 else "lines are older than their students' records"
        )
        print_stderr(
            f"{number:,} {older} in ManageBac, and may undo changes made there since the export", logging.WARNING
        )


def _send(options: WriteOptions, many: Many, tasks: Sequence[Task]) -> int:
    """Carry out the tasks, report their results, refresh the replica, and return the exit status."""
    source = options.source
    with _created(many.target) as file, progress() as progress_of:
        session = options.session.as_owner()
        store = carrying_out.open_replica(session)
        scope = session.scope.child(grace=carrying_out.GRACE_S)
        with wiring.clients(session.config)(source.name, scope) as api:
            sender = Sender(source.name, api.students, store, scope)
            work = Bulk(api.students, sender, session.scope, progress_of(source.name))
            results = _noted(work, tasks, file)
    _print_results(options, results, many.target)
    if work.stopped:
        _print_stopped(work.stopped, results, many.target)
    if written := [result.key for result in results if result.may_be_done and result.key]:
        carrying_out.refresh(session, source, store, written, scope)
    if work.stopped:
        return 128 + work.stopped.signal
    return 0 if all(result.good for result in results) else 1


def _noted(work: Bulk, tasks: Sequence[Task], file: IO[str]) -> list[LineResult]:
    """Carry out the tasks. Write each result to the file at once, and rewrite the file with the final results."""

    def note(result: LineResult) -> None:
        write_csv_line(file, _row(result))
        file.flush()

    results = work.carry_out(tasks, note)
    try:
        file.seek(0)
        file.truncate()
        for row in (_COLUMNS, *map(_row, results)):
            write_csv_line(file, row)
        file.flush()
    except OSError as error:
        print_stderr(f"the result file cannot be written: {error.strerror}")
    return results


_COLUMNS = ("line", "id", "outcome", "reason")


def _check_target(target: Path, path: Path) -> None:
    """Raise `ConfigError` if a file that is not a result file already exists at `target`."""
    try:
        with os.fdopen(open_plain(target, os.O_RDONLY), encoding="utf-8", errors="replace") as file:
            ours = file.readline().strip() == ",".join(_COLUMNS)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_writable(target, error) from error
    if not ours:
        what = "that is the CSV itself" if target.samefile(path) else "the file already exists and is not a result file"
        raise ConfigError([f"--result {target}: {what}"], "name another file with --result")


@contextmanager
def _created(target: Path) -> Iterator[IO[str]]:
    """Yield a new result file that only this user can read. An earlier result file is renamed.

    Raises `ConfigError`, before anything is sent, if the file cannot be created.
    """
    try:
        if target.exists():
            _keep_beside(target)
        handle = open_plain(target, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        raise _not_writable(target, error) from error
    file = os.fdopen(handle, "w", encoding="utf-8", newline="")
    try:
        write_csv_line(file, _COLUMNS)
        yield file
    finally:
        with suppress(OSError):  # for example, if the disk is full; `_noted` has already reported the error
            file.close()


def _keep_beside(target: Path) -> None:
    """Rename a file: append `.1` to its name, or `.2` if that is taken, and so on. Raises `OSError`."""
    for number in itertools.count(1):
        place = target.with_name(f"{target.name}.{number}")
        with suppress(FileExistsError):
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # reserves the name
            target.replace(place)
            return


def _not_writable(target: Path, error: OSError) -> ConfigError:
    why = f"it is {error.strerror}" if isinstance(error, NotPlain) else error.strerror
    return ConfigError([f"cannot write {target}: {why}"], "name another file with --result")


def _row(result: LineResult) -> tuple[Any, ...]:
    return result.task.number, result.key or None, result.outcome, result.reason


def _confirm(options: WriteOptions, api: ManageBac, verb: str, tasks: Sequence[Task], *, counted: bool) -> None:
    """Ask the user for confirmation before anything is sent.

    If the file has many lines and --expect is not given, the user must type the number of lines.

    Raises `ConfigError` if there is no terminal to ask on.
    """
    if not any(task.write for task in tasks):
        return
    if not counted:
        number, students = len(tasks), api.students.list(per_page=1).total_count
        if number > MANY or number * 100 > students * MANY_PERCENT:
            _count(verb, tasks, options.source.name, students)
            return
    carrying_out.confirm(options, f"{_what(verb, tasks, options.source.name)}?", verb)


def _what(verb: str, tasks: Sequence[Task], source: str) -> str:
    """Return a description of the writes, such as `update 2 of 3 students of source main (columns: city)`."""
    number, changed = len(tasks), sum(task.write is not None for task in tasks)
    whom = count(number, "student") if changed == number else f"{changed:,} of {count(number, 'student')}"
    columns = f" (columns: {', '.join(bulk_tasks.columns(tasks))})" if verb != "unarchive" else ""
    return f"{verb} {whom} of source {source}{columns}"


def _count(verb: str, tasks: Sequence[Task], source: str, students: int) -> None:
    """Ask the user to type the number of lines.

    Raises `ConfigError` if there is no terminal, and `RostersyncError` if the number is wrong.
    """
    number = len(tasks)
    if not sys.stdin.isatty():
        what = f"{verb} {count(number, 'student')} of {students:,}"
        raise ConfigError([f"{what}: so many need --expect {number}"], "try it with --dry-run first")
    carrying_out.warn(verb)
    print_stderr(f"{_what(verb, tasks, source)}; the file has {number:,} lines, and the school {students:,} students")
    if click.prompt("Type the number of lines to continue", err=True).strip() != str(number):
        raise RostersyncError("that is not the number of lines", "nothing was sent")


def _print_results(options: WriteOptions, results: Sequence[LineResult], target: Path) -> None:
    figures = Counter(result.outcome for result in results)
    if options.as_json:
        rows = [dict(zip(_COLUMNS, _row(result), strict=True)) for result in results]
        document({"source": options.source.name, "counts": dict(figures), "result_file": str(target), "lines": rows})
    else:
        shown = ", ".join(f"{number:,} {outcome.replace('_', ' ')}" for outcome, number in sorted(figures.items()))
        note(f"{options.source.name}: {shown}; the result of each line is in {target}")
    bad = [result for result in results if not (result.good or result.outcome == NOT_SENT)]
    for result in bad[:_MOST_SHOWN]:
        _print_bad(result)
    if len(bad) > _MOST_SHOWN:
        print_stderr(f"and {len(bad) - _MOST_SHOWN} more: see {target}")
    if left := [result for result in results if result.outcome == NOT_SENT]:
        print_stderr(f"{count(len(left), 'line')} not sent: {left[0].reason}")
        last = bad[-1].write_result if left[0].reason == GAVE_UP else None
        if last and last.error and last.error.hint:
            print_stderr(f"hint: {last.error.hint}")


def _print_bad(result: LineResult) -> None:
    whom = f"student {result.key}: " if result.key else ""
    print_stderr(f"line {result.task.number}: {whom}{result.outcome}: {result.reason}")


def _print_stopped(stopped: Stopped, results: Sequence[LineResult], target: Path) -> None:
    sent = f"{sum(result.sent for result in results):,} of {count(len(results), 'line')} were sent"
    left = any(result.outcome == NOT_SENT for result in results)
    again = "; run the same command again to send the rest" if left else ""
    print_stderr(f"stopped by {signal_name(stopped.signal)}: {sent}; the result of each line is in {target}{again}")
