"""Read the lines and cells of the CSV file for a bulk write. This module sends no requests."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from rostersync.cells import unguarded
from rostersync.errors import ConfigError, Invalid
from rostersync.managebac.fields import UNWRITABLE, WRITABLE, check_id, why_not_writable
from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MOST_MISTAKES = 50
"""The maximum number of mistakes in a file that are reported one by one. Further mistakes are only counted."""

MOST_BYTES, MOST_LINES = 100_000_000, 100_000
"""The maximum size of a file in bytes and in lines. A larger file is refused before it is parsed as CSV."""

MOST_COLUMNS, MOST_CELLS = 1_000, 5_000_000
"""The maximum numbers of columns and cells. A file that has more columns or more cells is refused.

These limits are necessary because a cell of only two bytes in the file takes 60 bytes of memory.
"""

_ANY_FIELD = (*WRITABLE, *(name for name in UNWRITABLE if name != "id"))

COLUMNS: Mapping[str, Sequence[str]] = {
    "create": _ANY_FIELD,
    "update": _ANY_FIELD,
    "archive": ("withdrawn_on", "graduated_on"),
    "unarchive": (),
}
"""The columns that a file may have in addition to `id`, keyed by the verb of the command.

Some of these columns are fields that cannot be written. The module `bulk_tasks` decides what to do with their cells.
"""


Mistake = tuple[int, str]
"""The number of a line, and a description of the mistake in that line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file, with the cells that are not empty.

    `key` is the id of the student, or 0 if the file creates students. Spaces around a cell are removed. If a cell
    begins with an apostrophe because its text looks like a formula, the apostrophe is not removed.
    """

    number: int
    key: int
    cells: Mapping[str, str] = field(repr=False)


class File(msgspec.Struct, frozen=True):
    """The valid lines of a CSV file, and one mistake for each line that is not valid.

    A line is not valid if it has the wrong number of cells. In a file about existing students, a line is also not valid
    if its id is missing or wrong, or if an earlier line has the same id.
    """

    path: Path
    lines: Sequence[Line]
    mistakes: Sequence[Mistake]

    @property
    def length(self) -> int:
        """The total number of lines, including the lines that are not valid."""
        return len(self.lines) + len(self.mistakes)


def read(path: Path, verb: str) -> File:
    """Read a CSV file. Empty cells are left out.

    The file must be encoded in UTF-8. The separators may be commas, semicolons or tabs. Raises `ConfigError` if the
    file cannot be read, is too large, has no lines, or has wrong columns.
    """
    rows = _rows(path)
    if not rows:
        raise ConfigError([f"{path}: the file is empty"], "the first line must contain the names of the columns")
    header = _header(rows[0][1])
    if wrong := _wrong_columns(header, verb):
        raise ConfigError([f"{path}: {text}" for text in wrong], "nothing was sent")
    if not rows[1:]:
        raise ConfigError([f"{path}: the file has a header, but no line below it"], "nothing was sent")
    return File(path, *_lines(rows[1:], header, keyed=verb != "create"))


def refuse(path: Path, mistakes: Sequence[Mistake]) -> None:
    """Raise `ConfigError` if the file has mistakes, so that none of its lines is sent."""
    if mistakes:
        more = [f"and {len(mistakes) - MOST_MISTAKES} more"] if len(mistakes) > MOST_MISTAKES else []
        listed = [f"{path}: line {number}: {text}" for number, text in sorted(mistakes)[:MOST_MISTAKES]]
        raise ConfigError([*listed, *more], "nothing was sent")


def _content(path: Path) -> bytes:
    """Return the bytes in a file. Raises `ConfigError` if the file is too large, and `OSError` if reading fails."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # always 0 for a pipe
        content = b"" if size > MOST_BYTES else file.read(MOST_BYTES + 1)
    too_much = [
        *(["larger than 100 MB"] if max(size, len(content)) > MOST_BYTES else []),
        *(["more than 100,000 lines"] if max(content.count(b"\n"), content.count(b"\r")) > MOST_LINES else []),
    ]
    if too_much:
        raise ConfigError([f"{path}: {too_much[0]}"], "nothing was sent; split the file into several files")
    return content


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a file that are not blank. With each row, return the number of the row's last line."""
    try:
        text = _content(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: {(error.strerror or 'cannot be read').lower()}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        hint = "save the file as UTF-8; in Excel: Save as > CSV UTF-8"
        raise ConfigError([f"{path}: line {line}: not UTF-8"], hint) from None
    if text.startswith("sep="):  # the first line may tell Excel which separator the file uses
        text = "\n" + text.partition("\n")[2]
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = next((character for character in ",;\t" if character in first), ",")
    if first.count(delimiter) >= MOST_COLUMNS or text.count(delimiter) > MOST_CELLS:
        message = f"{path}: more than {MOST_COLUMNS:,} columns, or {MOST_CELLS:,} cells"
        raise ConfigError([message], "nothing was sent; leave out columns, or split the file into several files")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ConfigError([f"{path}: line {reader.line_num}: not CSV ({error})"], "nothing was sent") from None


def _header(cells: Sequence[str]) -> list[str]:
    """Return the names of the columns. Leave out unnamed columns at the end, which spreadsheets may add."""
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _wrong_columns(header: Sequence[str], verb: str) -> list[str]:
    wrong = [f"the column {name} appears twice" for name in dict.fromkeys(header) if header.count(name) > 1]
    if "id" not in header and verb != "create":
        wrong.append("there is no column id")
    if verb == "update" and header == ["id"]:
        wrong.append("there is no column besides id")
    unknown = [name for name in header if name not in {"id", *COLUMNS[verb]}]
    return wrong + [f"column {name[:40] or '(empty)'}: {_expected(name, COLUMNS[verb])}" for name in unknown]


def _expected(name: str, allowed: Sequence[str]) -> str:
    if not allowed:
        return "expected only id"
    if allowed != _ANY_FIELD:
        return f"expected id, {' or '.join(allowed)}"
    return why_not_writable(name)


def _lines(
    rows: Sequence[tuple[int, list[str]]], header: Sequence[str], *, keyed: bool
) -> tuple[list[Line], list[Mistake]]:
    lines: list[Line] = []
    mistakes: list[Mistake] = []
    seen: dict[int, int] = {}
    for number, row in rows:
        try:
            cells = _cells(row, header)
            key = _key(cells, seen) if keyed else 0
        except ValueError as error:
            mistakes.append((number, str(error)))
            continue
        seen[key] = number
        lines.append(Line(number, key, cells))
    return lines, mistakes


def _cells(row: Sequence[str], header: Sequence[str]) -> dict[str, str]:
    """Return the cells of a line that are not empty, keyed by the name of the column.

    Raises `ValueError` if the line has the wrong number of cells.
    """
    if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
        raise ValueError(f"{count(len(row), 'cell')}, but the header has {len(header)}")
    return {name: cell.strip() for name, cell in zip(header, row, strict=False) if cell.strip()}


def _key(cells: dict[str, str], seen: Mapping[int, int]) -> int:
    """Remove the id from the cells of a line, and return the id.

    Raises `ValueError` if the id is not valid, or if an earlier line has the same id.
    """
    text = unguarded(cells.pop("id", ""))
    try:
        key = int(text) if text.isascii() and text.isdigit() else 0
        check_id(key)
    except (ValueError, Invalid):
        raise ValueError(f"id must be a whole number from 1, found {text[:20]!r}") from None
    if key in seen:
        raise ValueError(f"student {key} is already in line {seen[key]}")
    return key
