"""Cells of CSV: how a value is written into one, and how a cell is read again.

A spreadsheet runs a formula in an exported cell with the rights of the user who opens the file. By the usual rule such
a cell gets an apostrophe in front, which makes it plain text. Some spreadsheets take semicolons or tabs for separators,
and then a single cell of ours is several of theirs: so each part behind a separator is guarded like a cell.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rostersync.words import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

# How a formula begins: also in the wide forms of East Asian keyboards, and behind blanks and quotes, which some
# programs drop. An apostrophe in front of one is doubled, so that reading gives back exactly what was written. A
# negative number is guarded too: in another dialect the cell behind it may go on with the formula.
_PLACE = r"(?:\A|(?<=[,;\t]))"
_FORMULA = r"(?=(?:['\"]|[^\S\t])*[=+\-@＝＋－＠])"  # noqa: RUF001 - the wide forms are meant
_UNGUARDED = re.compile(_PLACE + _FORMULA)
_GUARD = re.compile(f"{_PLACE}'{_FORMULA}")


def guarded(text: str) -> str:
    """Return `text` with an apostrophe in front of each part that a spreadsheet would take for a formula."""
    return _UNGUARDED.sub("'", text)


def unguarded(text: str) -> str:
    """Return `text` without the apostrophes that `guarded` has put into it."""
    return _GUARD.sub("", text)


def csv_line(values: Iterable[Any], *, raw: bool = False) -> str:
    """Return a line of CSV whose cells are harmless; with `raw`, cells that look like formulas stay as they are."""
    return ",".join(_quoted(_text(value, raw=raw)) for value in values) or '""'


def _text(value: Any, *, raw: bool = False) -> str:
    text = "" if value is None else clean(str(value))
    return text if raw else guarded(text)


def _quoted(text: str) -> str:
    """Return a cell in quotes if it contains a quote, or a separator of any dialect of CSV."""
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',;\t"') else text


def as_cell(value: Any) -> Any:
    """Return a value of JSON as a single cell can hold it: a list or an object is JSON text."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value


def shows(cell: str, value: Any) -> bool:
    """Return whether `students list --csv` prints this cell, which has no blanks around it, for a value of JSON.

    It prints a value that looks like a formula with apostrophes, or, with --raw, as it is.
    """
    return cell in {_text(as_cell(value), raw=raw).strip() for raw in (False, True)}
