"""The doors to standard output and standard error: lines, tables, CSV, documents, questions and progress.

Coloured on a terminal, plain when piped. Whatever a line says may come from ManageBac, from the database or from a
server's error; so every door makes it harmless, and the rest of `cli` prints through these doors only.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from datetime import datetime
from textwrap import indent
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from rostersync.cli.verbosity import is_quiet
from rostersync.clock import to_text
from rostersync.report import ignore_progress
from rostersync.runs.cells import csv_line
from rostersync.words import HARMFUL, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from rostersync.report import ProgressCallback


_IN_JSON = re.compile(f"(?!\n)[{HARMFUL}]")  # the line breaks between its values are our own

# The doors -------------------------------------------------------------------------------------------------------


class Marked(msgspec.Struct, frozen=True):
    """A part of a line that is coloured on a terminal."""

    text: str
    colour: str


def mark(text: str, colour: str) -> Marked:
    """Return `text` as a part of a line in a colour; when piped it has none."""
    return Marked(text, colour)


def echo(*parts: str | Marked, err: bool = False) -> None:
    """Print one line, made of `parts`; with `err` to standard error."""
    click.echo("".join(map(_shown, parts)), err=err)


def note(*parts: str | Marked) -> None:
    """Print one line that says what was done; with -q not, for it was not asked for."""
    if not is_quiet():
        echo(*parts)


def _shown(part: str | Marked) -> str:
    if isinstance(part, Marked):
        return click.style(clean(part.text), fg=part.colour, bold=True)
    return clean(part)


def confirm(question: str, *, err: bool = False) -> None:
    """Ask a question to be answered with yes. Raises `click.Abort` for any other answer."""
    click.confirm(clean(question), abort=True, err=err)


def ask_secret(question: str) -> str:
    """Ask on the terminal for something that is not shown while it is typed."""
    answer: str = click.prompt(clean(question), hide_input=True, err=True)
    return answer


def document(value: Any) -> None:
    """Print a JSON document; what would be harmful in a text is escaped."""
    click.echo(_json(value))


def streamed_document(name: str, values: Iterable[Any]) -> None:
    """Print a JSON document that begins with a list, its values as they come; `document_end` prints the rest."""
    click.echo(f'{{\n  "{name}": [', nl=False)
    separator, end = "\n", "]"
    for value in values:
        click.echo(separator + indent(_json(value), "    "), nl=False)
        separator, end = ",\n", "\n  ]"
    click.echo(end, nl=False)


def document_end(members: Mapping[str, Any]) -> None:
    """Print the other members of a document, and its end."""
    click.echo(f",{_json(members)[1:]}")


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def csv_lines(file: IO[str], *, raw: bool = False) -> Callable[[Iterable[Any]], None]:
    """Return a function that writes a line of CSV into `file`, formulas as texts; `raw` leaves them as they are."""

    def write(cells: Iterable[Any]) -> None:
        file.write(f"{csv_line(cells, raw=raw)}\n")

    return write


def as_json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` as a JSON document holds them: times as text."""
    return {key: to_text(value) if isinstance(value, datetime) else value for key, value in values.items()}


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, folded: Collection[str] = ()) -> None:
    """Print a table; None is an empty cell, numbers are aligned to the right.

    On a terminal that is too narrow, only the columns `folded` are wrapped, or all of them where none is named.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [any(isinstance(row[n], int) for row in rows) for n in range(len(headers))]
    if sys.stdout.isatty():
        _rich_table(headers, cells, right, folded or headers)
        return
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for line in (headers, *cells):
        echo("  ".join(map(_padded, line, widths, right)).rstrip())


def _padded(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _rich_table(
    headers: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], folded: Collection[str]
) -> None:
    from rich import box  # noqa: PLC0415 - slow to import, and not needed when piped
    from rich.console import Console  # noqa: PLC0415 - the same
    from rich.table import Table  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", collapse_padding=True, pad_edge=False, show_edge=False)
    for header, at_right in zip(headers, right, strict=True):
        drawn.add_column(header, justify="right" if at_right else "left", no_wrap=header not in folded)
    for row in cells:
        drawn.add_row(*map(Text, row))  # what is in a cell is not markup
    Console().print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return clean(str(value))


@contextmanager
def progress() -> Iterator[Callable[[str], ProgressCallback]]:
    """Lend what makes a source's progress bar, on standard error; with -q or without a terminal, nothing is shown."""
    if is_quiet() or not sys.stderr.isatty():
        yield lambda _source: ignore_progress
        return
    from rich import progress as bars  # noqa: PLC0415 - slow to import, and not needed when piped
    from rich.console import Console  # noqa: PLC0415 - the same

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    # Without `redirect_stdout=False` what is printed meanwhile would go to standard error.
    with bars.Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as shown:

        def progress_of(source: str) -> ProgressCallback:
            task = shown.add_task(source, total=None)
            return lambda what, done, total: shown.update(
                task, description=f"{source}: {what}", completed=min(done, total), total=total or None
            )

        yield progress_of
