"""Write values into cells of CSV, and read them back.

A spreadsheet runs a formula in an exported cell with the rights of the user who opens the file. As is usual, we put an
apostrophe in front of such a cell, which makes it plain text. Some spreadsheets take semicolons or tabs as separators,
and split one of our cells into several. So each part after a semicolon or tab is guarded like a cell.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rostersync.words import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

# How a formula begins. The wide forms of East Asian keyboards count, too. So do spaces and quotes before the sign,
# because some programs drop these. An apostrophe before a formula gets a second one, so that reading returns exactly
# what was written. A negative number is guarded as well: in another dialect the next cell may continue the formula.
_PLACE = r"(?:\A|(?<=[,;\t]))"
_FORMULA = r"(?=(?:['\"]|[^\S\t])*[=+\-@＝＋－＠])"  # noqa: RUF001 - the wide forms are meant
_UNGUARDED = re.compile(_PLACE + _FORMULA)
_GUARD = re.compile(f"{_PLACE}'{_FORMULA}")


def guarded(text: str) -> str:
    """Return `text` with an apostrophe in front of each part that a spreadsheet may take for a formula."""
    return _UNGUARDED.sub("'", text)


def unguarded(text: str) -> str:
    """Return `text` without the apostrophes that `guarded` has put into it."""
    return _GUARD.sub("", text)


def csv_line(values: Iterable[Any], *, raw: bool = False) -> str:
    """Return a line of CSV with guarded cells. With `raw`, cells that look like formulas are not guarded."""
    return ",".join(_quoted(_text(value, raw=raw)) for value in values) or '""'


def _text(value: Any, *, raw: bool = False) -> str:
    text = "" if value is None else clean(str(value))
    return text if raw else guarded(text)


def _quoted(text: str) -> str:
    """Return the cell, in quotes if it contains a quote or a separator of any dialect of CSV."""
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',;\t"') else text


def as_cell(value: Any) -> Any:
    """Return a JSON value as one cell can hold it: lists, objects and booleans become JSON text."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value


def shows(cell: str, value: Any) -> bool:
    """Return whether `students list --csv` prints this cell for a JSON value, with or without --raw.

    The cell must have no spaces around it.
    """
    return cell in {_text(as_cell(value), raw=raw).strip() for raw in (False, True)}
