"""Cells of CSV that a spreadsheet would take for a formula: how they are written, and how they are read again.

A formula in an exported cell is run by the spreadsheet that opens the file, with the rights of whoever opened it. By
the usual rule such a cell gets an apostrophe in front, which makes it a text.
"""

from __future__ import annotations

import re

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
