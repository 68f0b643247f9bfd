"""`--from-csv`: the options of many writes at once, and how they are asked about and told."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from rostersync.cli.options import Natural
from rostersync.cli.output import csv_lines, document, note, progress
from rostersync.cli.program import print_stderr
from rostersync.cli.students import carrying_out
from rostersync.errors import ConfigError, RostersyncError, Stopped
from rostersync.runs import bulk, wiring
from rostersync.runs.writing import Writer
from rostersync.store.files import NotPlain, open_plain
from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rostersync.cli.students.carrying_out import WriteOptions
    from rostersync.managebac import ManageBac
    from rostersync.runs.bulk import Line, Make, Result

MANY = 25
"""More lines than this, or more than 5 % of the students, must be counted by whoever sends them."""
MANY_PERCENT = 5

_MOST_TOLD = 20  # lines that went wrong, on standard error; the result file has all


def options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of many writes."""
    for option in (
        click.option(
            "--result",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Where to write what became of each line. Default: beside the CSV.",
        ),
        click.option(
            "--expect",
            type=Natural(),
            metavar="N",
            help="How many lines the CSV has; for more than 25, or 5 % of the students, it must be given or typed.",
        ),
        click.option(
            "--from-csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Many students, from a CSV."
        ),
    ):
        verb = option(verb)
    return verb


def is_asked_for(many: dict[str, Any], *others: Any) -> bool:
    """Tell whether a CSV is named. Raises `click.UsageError` where it is not the only thing that is."""
    if many["csv_file"] is None:
        if many["expect"] or many["result"]:
            raise click.UsageError("--expect and --result go with --from-csv")
        return False
    if any(others):
        raise click.UsageError("--from-csv takes everything from the file: no ID and no values beside it")
    return True


def update(options: WriteOptions, csv_file: Path, expect: int | None, result: Path | None) -> int:
    """Change what a CSV says; return the exit status."""
    return _carry_out(options, csv_file, expect, result, bulk.to_update)


def archive(options: WriteOptions, csv_file: Path, expect: int | None, result: Path | None) -> int:
    """Archive whom a CSV lists; return the exit status."""
    return _carry_out(options, csv_file, expect, result, bulk.to_archive)


def _carry_out(options: WriteOptions, path: Path, expect: int | None, result: Path | None, make: Make) -> int:
    source, session = options.source, options.session
    lines = bulk.read(path, make)
    if expect is not None and expect != len(lines):
        raise ConfigError([f"--expect {expect}: {path} has {count(len(lines), 'line')}"], "nothing was sent")
    if options.dry_run:
        return carrying_out.show_requests(options, source, [line.write for line in lines])
    carrying_out.require_allowed(session, source)
    target = result or path.with_name(f"{path.stem}.result.csv")
    _check_target(target, path)
    with wiring.clients(session.config, session.clock)(source.name) as api:
        _confirm(options, api, lines, counted=expect is not None)
        with progress() as progress_of:
            work = bulk.Bulk(api.students, session.clock, progress_of(source.name))
            work.look_up(lines)
            with _created(target) as file:
                session = session.as_owner()
                store = carrying_out.open_replica(session)
                writer = Writer(source.name, api.students, store, session.clock)
                try:
                    results = _send(work, writer, lines, file)
                except Stopped as stopped:
                    print_stderr(f"stopped; what was done until then: {target}; run the same command again to go on")
                    return 128 + stopped.signal
    _print_results(options, results, target)
    status = 0 if all(result.good for result in results) else 1
    if written := [r.line.write.key for r in results if r.written and r.outcome != "refused"]:
        status = carrying_out.refresh(session, source, store, written) or status
    return status


def _send(work: bulk.Bulk, writer: Writer, lines: Sequence[Line], file: IO[str]) -> list[Result]:
    """Carry out the lines; what became of each stands in the result file at once, at the end as it was confirmed."""
    write = csv_lines(file)

    def note(result: Result) -> None:
        write(_row(result))
        file.flush()

    results = work.carry_out(lines, writer, note)
    file.seek(0)
    file.truncate()
    for row in (_COLUMNS, *map(_row, results)):
        write(row)
    return results


_COLUMNS = ("line", "id", "outcome", "reason")


def _check_target(target: Path, path: Path) -> None:
    """Raise `ConfigError` where the result file would take the place of a file that is none."""
    try:
        with os.fdopen(open_plain(target, os.O_RDONLY), encoding="utf-8", errors="replace") as file:
            ours = file.readline().strip() == ",".join(_COLUMNS)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_writable(target, error) from error
    if not ours:
        what = "that is the CSV itself" if target.samefile(path) else "that file exists, and holds no results"
        raise ConfigError([f"--result {target}: {what}"], "name another file with --result")


@contextmanager
def _created(target: Path) -> Iterator[IO[str]]:
    """Lend the result file, readable for this user only; an earlier one is kept beside it, with `.1` behind its name.

    Raises `ConfigError`, before anything is sent.
    """
    try:
        if target.exists():
            target.replace(target.with_name(f"{target.name}.1"))
        handle = open_plain(target, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        raise _not_writable(target, error) from error
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        csv_lines(file)(_COLUMNS)
        yield file


def _not_writable(target: Path, error: OSError) -> ConfigError:
    why = f"it is {error.strerror}" if isinstance(error, NotPlain) else error.strerror
    return ConfigError([f"cannot write {target}: {why}"], "name another file with --result")


def _row(result: Result) -> tuple[Any, ...]:
    return result.line.number, result.line.write.key, result.outcome, result.reason


def _confirm(options: WriteOptions, api: ManageBac, lines: Sequence[Line], *, counted: bool) -> None:
    """Ask; of many, for their number, where it was not given. Raises `ConfigError` where nobody can be asked."""
    verb, number, source = lines[0].write.verb, len(lines), options.source.name
    warning = carrying_out.ARCHIVE if verb == "archive" else ""
    if not counted:
        students = api.students.list(per_page=1).total_count
        if number > MANY or number * 100 > students * MANY_PERCENT:
            _count(f"{verb} {count(number, 'student')} of {students:,}", number, warning)
            return
    carrying_out.confirm(options, f"{verb} {count(number, 'student')} of source {source}?", warning)


def _count(what: str, number: int, warning: str) -> None:
    """Have the number of students typed. Raises `ConfigError` without a terminal, `RostersyncError` for another."""
    if not sys.stdin.isatty():
        raise ConfigError([f"{what}: so many need --expect {number}"], "try it with --dry-run first")
    print_stderr(f"{what}. {warning}".strip())
    if click.prompt("Type their number to go on", err=True).strip() != str(number):
        raise RostersyncError("that is not their number", "nothing was sent")


def _print_results(options: WriteOptions, results: Sequence[Result], target: Path) -> None:
    figures = Counter(result.outcome for result in results)
    if options.as_json:
        rows = [dict(zip(_COLUMNS, _row(result), strict=True)) for result in results]
        document({"source": options.source.name, "counts": dict(figures), "result_file": str(target), "lines": rows})
    else:
        told = ", ".join(f"{number:,} {outcome.replace('_', ' ')}" for outcome, number in sorted(figures.items()))
        note(f"{options.source.name}: {told}; what became of each line: {target}")
    bad = [result for result in results if not result.good]
    for result in bad[:_MOST_TOLD]:
        print_stderr(f"line {result.line.number}: student {result.line.write.key}: {result.outcome}: {result.reason}")
    if len(bad) > _MOST_TOLD:
        print_stderr(f"and {len(bad) - _MOST_TOLD} more: see {target}")
