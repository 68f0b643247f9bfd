"""The text of the systemd unit for this installation, made from the one that rostersync comes with.

What `service install` writes carries a hash of its own text, so that a file which somebody edited is recognized.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rostersync.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARK = "# Written by rostersync service install; sha256: "
_PLAIN = re.compile(r"[\w@+,./-]+", re.ASCII)  # the rest means something to systemd, or would have to be quoted


def shipped(name: str) -> str:
    """Return a file that comes with rostersync: inside an installed package, at the top level of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "systemd"
    folder = inside if inside.is_dir() else package.parent / "systemd"
    return (folder / name).read_text(encoding="utf-8")


def unit(program: Sequence[str], credentials: Sequence[str], after: Sequence[str]) -> str:
    """Return the unit that starts `program`, has the lines of these `credentials`, and starts behind `after` as well.

    Raises `ServiceError` for a program whose path a unit cannot hold as it is.
    """
    for word in program:
        if not _PLAIN.fullmatch(word):
            message = f"the path {word} contains characters that a unit cannot hold"
            raise ServiceError(message, "install rostersync in a virtual environment in /opt/rostersync")
    text = shipped("rostersync.service").replace("/usr/local/bin/rostersync ", f"{' '.join(program)} ")
    text = _with(text, "LoadCredential", credentials)
    return marked(_with(text, "After", [_value(text, "After"), *after]))


def _value(text: str, directive: str) -> str:
    (value,) = re.findall(rf"^{directive}=(.*)$", text, re.MULTILINE)
    return str(value)


def _with(text: str, directive: str, values: Sequence[str]) -> str:
    """Return `text` with these lines of a directive in the place of the one that it has."""
    lines = "".join(f"{directive}={value}\n" for value in values)
    return re.sub(rf"^{directive}=.*\n", lambda _: lines, text, flags=re.MULTILINE)


def marked(text: str) -> str:
    """Return `text` below a line that has its hash."""
    return f"{_MARK}{_digest(text)}\n{text}"


def is_unedited(text: str) -> bool:
    """Tell whether `text` is as `marked` made it."""
    first, _, rest = text.partition("\n")
    return first == f"{_MARK}{_digest(rest)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
