"""`--from-csv`: the options of many writes at once, and how they are asked about and told."""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from rostersync.cli.options import Natural
from rostersync.cli.output import count, document, progress
from rostersync.cli.program import print_stderr
from rostersync.cli.students import carrying_out
from rostersync.errors import ConfigError
from rostersync.runs import bulk, wiring
from rostersync.runs.writing import Writer
from rostersync.store.files import NotPlain, open_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rostersync.cli.students.carrying_out import Wish
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
            help="How many lines the CSV has: needed without a terminal, or for many.",
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


def update(wish: Wish, csv_file: Path, expect: int | None, result: Path | None) -> int:
    """Change what a CSV says; return the exit status."""
    return _carry_out(wish, csv_file, expect, result, bulk.to_update)


def archive(wish: Wish, csv_file: Path, expect: int | None, result: Path | None) -> int:
    """Archive whom a CSV lists; return the exit status."""
    return _carry_out(wish, csv_file, expect, result, bulk.to_archive)


def _carry_out(wish: Wish, path: Path, expect: int | None, result: Path | None, make: Make) -> int:
    source, session = wish.source, wish.session
    lines = bulk.read(path, make)
    if expect is not None and expect != len(lines):
        raise ConfigError([f"--expect {expect}: {path} has {count(len(lines), 'line')}"], "nothing was sent")
    if wish.dry_run:
        return carrying_out.show_requests(wish, source, [line.write for line in lines])
    carrying_out.require_allowed(session, source)
    with wiring.clients(session.config, session.clock)(source.name) as api:
        _confirm(wish, api, lines, counted=expect is not None)
        target = result or path.with_name(f"{path.stem}.result.csv")
        with _opened(target) as file:
            session = session.as_owner()
            store = carrying_out.open_store(session)
            writer = Writer(source.name, api.students, store, session.clock)
            results = _send(wish, api, writer, lines, file)
    written = [r.line.write.key for r in results if r.written and r.outcome != "refused"]
    replica = carrying_out.refresh(session, source, store, written) if written else ""
    return _tell(wish, results, target, replica)


def _send(wish: Wish, api: ManageBac, writer: Writer, lines: Sequence[Line], file: IO[str]) -> list[Result]:
    """Carry out the lines; what became of each stands in the result file at once, at the end as it was confirmed."""
    with progress() as progress_of:
        file.truncate()
        _rows(file).writerow(_COLUMNS)

        def note(result: Result) -> None:
            _rows(file).writerow(_row(result))
            file.flush()

        done = bulk.Bulk(api.students, writer, wish.session.clock, progress_of(wish.source.name), note)
        results = done.carry_out(lines)
        file.seek(0)
        file.truncate()
        _rows(file).writerows([_COLUMNS, *map(_row, results)])
    return results


_COLUMNS = ("line", "id", "outcome", "reason")


@contextmanager
def _opened(target: Path) -> Iterator[IO[str]]:
    """Lend the result file, readable for this user only if it is new, and as it is until something is sent.

    Raises `ConfigError`, before anything is sent.
    """
    hint = "name another file with --result"
    try:
        handle = open_plain(target, os.O_RDWR | os.O_CREAT)
    except NotPlain as error:
        raise ConfigError([f"cannot write {target}: it is {error.strerror}"], hint) from None
    except OSError as error:
        raise ConfigError([f"cannot write {target}: {error.strerror}"], hint) from error
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        yield file


def _rows(file: IO[str]) -> Any:
    return csv.writer(file, lineterminator="\n")


def _row(result: Result) -> tuple[Any, ...]:
    return result.line.number, result.line.write.key, result.outcome, result.reason


def _confirm(wish: Wish, api: ManageBac, lines: Sequence[Line], *, counted: bool) -> None:
    """Ask; of many, for their number. Raises `ConfigError` without a terminal where the number is not given."""
    if counted:
        return
    students = api.students.list(per_page=1).total_count
    verb, number = lines[0].write.verb, len(lines)
    if number <= MANY and number * 100 <= students * MANY_PERCENT:
        carrying_out.confirm(wish, f"{verb} {count(number, 'student')} of source {wish.source.name}?")
        return
    told = f"{verb} {count(number, 'student')} of {students:,}"
    if not sys.stdin.isatty():
        raise ConfigError([f"{told}: so many need --expect {number}"], "try it with --dry-run first")
    print_stderr(f"{told} of source {wish.source.name}." + (f" {_PARENTS}" if verb == "archive" else ""))
    if click.prompt("Type their number to go on", err=True) != str(number):
        raise click.Abort


_PARENTS = "Archiving may archive parents as well."


def _tell(wish: Wish, results: Sequence[Result], target: Path, replica: str) -> int:
    figures = Counter(result.outcome for result in results)
    if wish.as_json:
        rows = [dict(zip(_COLUMNS, _row(result), strict=True)) for result in results]
        document({"source": wish.source.name, "counts": dict(figures), "result_file": str(target), "lines": rows})
    else:
        told = ", ".join(f"{number:,} {outcome.replace('_', ' ')}" for outcome, number in sorted(figures.items()))
        click.echo(f"{wish.source.name}: {told}; what became of each line: {target}")
    bad = [result for result in results if not result.good]
    for result in bad[:_MOST_TOLD]:
        print_stderr(f"line {result.line.number}: student {result.line.write.key}: {result.outcome}: {result.reason}")
    if len(bad) > _MOST_TOLD:
        print_stderr(f"and {len(bad) - _MOST_TOLD} more: see {target}")
    if replica:
        print_stderr(replica)
    return 1 if bad else 0
