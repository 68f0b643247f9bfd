"""Cells of CSV: how a value is written into one, and how a cell is read again.

A spreadsheet runs a formula in an exported cell with the rights of the user who opens the file. By the usual rule such
a cell gets an apostrophe in front, which makes it plain text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rostersync.words import clean

# How a formula begins: also in the wide forms of East Asian keyboards, and behind blanks, which some programs drop.
# Apostrophes in front of one are doubled, so that reading gives back what was written.
_FORMULA = re.compile(r"'*(?:[\t\r\n]|\s*[=+\-@＝＋－＠])")  # noqa: RUF001 - the wide forms are meant
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")


def guarded(text: str) -> str:
    """Return `text` with an apostrophe in front where a spreadsheet would take it for a formula; numbers stay."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """Return `text` without the apostrophe that `guarded` has put in front of it."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def as_cell(value: Any) -> Any:
    """Return a value of JSON as a single cell can hold it: a list or an object is JSON text."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value


def shows(cell: str, value: Any) -> bool:
    """Return whether `students list --csv` prints this cell, which has no blanks around it, for a value of JSON.

    It prints a value that looks like a formula with an apostrophe in front, or, with --raw, as it is.
    """
    text = "" if value is None else str(as_cell(value))
    return cell in {clean(text).strip(), clean(guarded(text)).strip()}
