"""JSON taken apart before it is read: what an answer holds costs no more than its bytes until it is known to be small.

A value in memory takes up to thirty times the room of its text (`[],[],[]`), and one that is nested deeply enough ends
its reader. So of an answer only the members that are wanted are cut out, as text, and the rest is passed over. Parts of
at most `LARGEST` bytes are decoded then, one at a time.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 64 * 2**10
"""Bytes of a part that is decoded. A record as documented has 1 to 2 kB, and every version of one is stored: thirty
times as much leaves room for what a school defines itself, and little for anybody who fills the database."""

LONGEST_INTEGER = 20  # characters: more cannot fit 64 bits
_BLANK = b" \t\r\n"
_COMMA = ord(",")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The quantifiers are possessive: a text that is not closed is passed once, not again from each of its quotes.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_TOKEN = re.compile(_STRING + rb"|[\[\]{},]", re.DOTALL)
_KEY = re.compile(rb"\s*(" + _STRING + rb")\s*:", re.DOTALL)


class Numeral(float):
    """A JSON number with a fraction or an exponent, and how it was written: the text `1.10` is not the text `1.1`."""

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class UnusableError(ValueError):
    """A part that cannot be decoded. The message says why, and holds nothing of the part."""


class NotJsonError(UnusableError):
    """A part that is no JSON."""


def value(part: bytes) -> Any:
    """Return the value of a part. Raises `UnusableError` for one that is too large, nested too deeply, or no JSON.

    It is lenient: what JSON does not know is read as what it means (a byte that is no UTF-8, half a character, NaN),
    so that the record it stands in can be rejected for it by name.
    """
    if len(part) > LARGEST:
        raise UnusableError(f"larger than {LARGEST:,} bytes")
    try:
        return decode_strictly(part)
    except (ValueError, RecursionError):
        pass
    try:
        return _LENIENT.decode(part.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise UnusableError("nested too deeply to be stored") from None
    except ValueError:
        raise NotJsonError("not valid JSON") from None


def _numeral_if_long(text: str) -> int | float:
    return int(text) if len(text) <= LONGEST_INTEGER else Numeral(text)


decode_strictly = msgspec.json.Decoder(float_hook=Numeral).decode
_LENIENT = json.JSONDecoder(parse_float=Numeral, parse_int=_numeral_if_long, strict=False)


class Elements:
    """Cuts a JSON array into its elements, as long as there are no more than `most`."""

    def __init__(self, most: int) -> None:
        # So many places, and one more: what follows it is passed over, so it takes no memory.
        places = [(f"place_{number}", msgspec.Raw, None) for number in range(most + 1)]
        self.places = msgspec.defstruct("_Elements", places, array_like=True)
        self._most = most

    def of(self, array: bytes | msgspec.Struct) -> list[bytes]:
        """Return the elements of an array that is text, or stands in `places` already.

        Raises `ValueError` for what is no array, has more elements, or small ones that are no JSON.
        """
        if isinstance(array, msgspec.Struct):
            elements = [bytes(raw) for raw in msgspec.structs.astuple(array) if raw is not None]
        elif array[:1] == b"[":
            elements = list(islice(split(array), self._most + 1))
        else:
            raise ValueError("not a list")
        if len(elements) > self._most:
            raise ValueError(f"a list of more than {self._most:,} elements")
        if not isinstance(array, msgspec.Struct):
            for element in elements:
                _require_json(element)
        return elements


class Members:
    """Cuts members out of JSON objects: those of some names as they are, and `arrays` as lists of their elements."""

    def __init__(self, *names: str, **arrays: Elements) -> None:
        fields = [(name, arrays[name].places if name in arrays else msgspec.Raw, None) for name in (*names, *arrays)]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("_Members", fields))
        self._names = {f'"{name}"'.encode(): name for name, _, _ in fields}
        self._arrays = arrays

    def of(self, document: bytes) -> dict[str, Any]:
        """Return the members that are there, undecoded.

        Raises `ValueError` for no object, or not the whole of one, and as `Elements.of` does.
        """
        try:
            found = msgspec.structs.asdict(self._decoder.decode(document))
        except (ValueError, RecursionError):
            found = self._scan(document)
        return {name: self._cut(name, part) for name, part in found.items() if part is not None}

    def _cut(self, name: str, part: Any) -> Any:
        return self._arrays[name].of(part) if name in self._arrays else bytes(part)

    def _scan(self, document: bytes) -> dict[str, bytes]:
        document = document.removeprefix(BYTE_ORDER_MARK).strip(_BLANK)
        if document[:1] != b"{":
            raise ValueError("not an object")
        found = {}
        for member in split(document):
            key = _KEY.match(member)
            if key is None:
                raise ValueError("not a member of an object")
            if name := self._names.get(key[1]):
                found[name] = member[key.end() :].strip(_BLANK)
        return found


def _require_json(part: bytes) -> None:
    try:
        value(part)
    except NotJsonError:
        raise
    except UnusableError:
        pass


def split(container: bytes) -> Iterator[bytes]:
    """Yield the elements of an array, or the members of an object, cut at its own commas: the rest is not looked at.

    It is slow, and needs neither memory nor a stack. Raises `ValueError` for a container that does not end where the
    text does.
    """
    depth, start = 0, 1
    for token in _TOKEN.finditer(container):
        mark = container[token.start()]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 0 or (depth == 1 and mark == _COMMA):
            part = container[start : token.start()].strip(_BLANK)
            if part or depth or start > 1:  # an empty container has no part
                yield part
            start = token.end()
        if depth == 0:
            break
    if depth or container[start:].strip(_BLANK):
        raise ValueError("not the whole of it, or more")
