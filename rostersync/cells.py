"""Write values to the cells of a CSV file, and read them back.

If an exported cell contains a formula, a spreadsheet program runs the formula with the rights of the user who opens the
file. To mark a cell that looks like a formula as plain text, we put an apostrophe in front of it, as other programs do.
Some spreadsheet programs use semicolons or tabs as separators, and split one of our cells into several. For this
reason, each part after a semicolon or tab that looks like a formula also gets an apostrophe.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rostersync.words import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

# How a formula begins. The wide characters of East Asian keyboards are included. Spaces and quotes may precede the
# character that starts a formula, because some programs drop them. If an apostrophe already precedes a formula, we add
# a second apostrophe, so that reading returns exactly what was written. A negative number also gets an apostrophe,
# because a program with other separators may read it and the next cell as one formula.
_PLACE = r"(?:\A|(?<=[,;\t]))"
_FORMULA = r"(?=(?:['\"]|[^\S\t])*[=+\-@＝＋－＠])"  # noqa: RUF001 - the wide characters are intended
_UNGUARDED = re.compile(_PLACE + _FORMULA)
_GUARD = re.compile(f"{_PLACE}'{_FORMULA}")


def guarded(text: str) -> str:
    """Return `text` with an apostrophe in front of each part that a spreadsheet program may interpret as a formula."""
    return _UNGUARDED.sub("'", text)


def unguarded(text: str) -> str:
    """Return `text` without the apostrophes that `guarded` added."""
    return _GUARD.sub("", text)


def csv_line(values: Iterable[Any], *, raw: bool = False) -> str:
    """Return a line of CSV with guarded cells. If `raw` is true, cells that look like formulas are not guarded."""
    return ",".join(_quoted(_text(value, raw=raw)) for value in values) or '""'


def _text(value: Any, *, raw: bool = False) -> str:
    text = "" if value is None else clean(str(value))
    return text if raw else guarded(text)


def _quoted(text: str) -> str:
    """Return the cell. Quote a cell that contains a quote or a separator of any dialect of CSV."""
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',;\t"') else text


def as_cell(value: Any) -> Any:
    """Convert a JSON value to the value of a cell. Lists, objects and booleans become JSON text."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value


def shows(cell: str, value: Any) -> bool:
    """Return whether `cell` is what `students list --csv`, with or without --raw, prints for the JSON value `value`.

    `cell` must not begin or end with spaces.
    """
    return cell in {_text(as_cell(value), raw=raw).strip() for raw in (False, True)}
