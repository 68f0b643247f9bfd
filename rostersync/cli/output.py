"""Print lines, tables, CSV, JSON documents, questions and progress bars.

All modules of `cli` print through this module. The printed text may come from ManageBac, from the database or from a
server's error message. Every function in this module therefore replaces or escapes harmful characters, such as control
characters. Output has colours on a terminal, and no colours if it goes to a pipe or a file.
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

from rostersync.cells import csv_line
from rostersync.cli.verbosity import is_quiet
from rostersync.clock import to_text
from rostersync.report import ignore_progress
from rostersync.words import HARMFUL, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from rostersync.report import ProgressCallback


_IN_JSON = re.compile(f"(?!\n)[{HARMFUL}]")  # all harmful characters except line breaks, which our own formatting adds

# Printing --------------------------------------------------------------------------------------------------------


class Marked(msgspec.Struct, frozen=True):
    """A part of a line that is coloured on a terminal."""

    text: str
    colour: str


def mark(text: str, colour: str) -> Marked:
    """Return `text` as a coloured part of a line. The colour is shown only on a terminal."""
    return Marked(text, colour)


def echo(*parts: str | Marked, err: bool = False) -> None:
    """Join `parts` into one line, and print the line to standard output, or to standard error if `err` is true."""
    click.echo("".join(map(_shown, parts)), err=err)


def note(*parts: str | Marked) -> None:
    """Print one line that reports a success. With -q, print nothing."""
    if not is_quiet():
        echo(*parts)


def _shown(part: str | Marked) -> str:
    if isinstance(part, Marked):
        return click.style(clean(part.text), fg=part.colour, bold=True)
    return clean(part)


def confirm(question: str, *, err: bool = False) -> None:
    """Ask a yes-or-no question. Raise `click.Abort` unless the answer is yes."""
    click.confirm(clean(question), abort=True, err=err)


def ask_secret(question: str) -> str:
    """Ask for a secret on the terminal. The user's input is not shown."""
    answer: str = click.prompt(clean(question), hide_input=True, err=True)
    return answer


def document(value: Any) -> None:
    """Print a JSON document. Harmful characters in the document's strings are escaped."""
    click.echo(_json(value))


def streamed_document(name: str, values: Iterable[Any]) -> None:
    """Print the beginning of a JSON document, and then its list, one value at a time.

    `document_end` prints the rest of the document.
    """
    click.echo(f'{{\n  "{name}": [', nl=False)
    separator, end = "\n", "]"
    for value in values:
        click.echo(separator + indent(_json(value), "    "), nl=False)
        separator, end = ",\n", "\n  ]"
    click.echo(end, nl=False)


def document_end(members: Mapping[str, Any]) -> None:
    """Print the remaining members and the end of a JSON document that `streamed_document` began."""
    click.echo(f",{_json(members)[1:]}")


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_csv_line(file: IO[str], cells: Iterable[Any], *, raw: bool = False) -> None:
    """Write a line of CSV to `file`. Unless `raw` is true, a formula is written as a plain string."""
    file.write(f"{csv_line(cells, raw=raw)}\n")


def as_json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert `values` for a JSON document. Times become strings."""
    return {key: to_text(value) if isinstance(value, datetime) else value for key, value in values.items()}


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, folded: Collection[str] = ()) -> None:
    """Print a table. None becomes an empty cell, and columns of numbers are aligned to the right.

    On a terminal that is too narrow, only the columns in `folded` are wrapped. If `folded` is empty, all columns may be
    wrapped.
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
        drawn.add_row(*map(Text, row))  # so that rich does not interpret a cell as markup
    Console().print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return clean(str(value))


@contextmanager
def progress() -> Iterator[Callable[[str], ProgressCallback]]:
    """Yield a function that creates a progress bar for a source on standard error.

    With -q, or if standard error is not a terminal, nothing is shown.
    """
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
    # `redirect_stdout` is False, because otherwise lines printed while the bar is shown would go to standard error.
    with bars.Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as shown:

        def progress_of(source: str) -> ProgressCallback:
            task = shown.add_task(source, total=None)

            def show(what: str, done: int, total: int) -> None:
                text = f"{source}: {what}"
                shown.update(task, description=text, completed=min(done, total), total=total or None)

            return show

        yield progress_of
