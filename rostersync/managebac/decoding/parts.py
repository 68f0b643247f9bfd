"""Cut a JSON document into parts of text, so that a large or hostile response cannot exhaust our memory or stack.

A decoded value can take thirty times the memory of its text: `[],[],[]` is an example. A decoder can also fail on deep
nesting. So we cut out only the members of a response that we need, as text, and skip the others. Then we decode the
parts one at a time. A part that is larger than `LARGEST` bytes is not decoded.
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
"""The most bytes of a part that we decode. A documented record has 1 to 2 kB. Thirty times as much is enough for a
school's own fields. A larger limit would let a hostile server fill the database, because we store every version."""

_MANY_COMMAS = 100_000
"""If an array has more commas, `elements` looks at its first elements only.

An array of 2 MB can have a million elements, and to decode it as a whole would take 95 MB. A page of 200 documented
records has about 12,000 commas.
"""

LONGEST_INTEGER = 20  # characters; an integer of 64 bits is not longer
_BLANK = b" \t\r\n"
_COMMA = ord(",")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The quantifiers are possessive. Otherwise a string without a closing quote would be scanned again from each quote.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_TOKEN = re.compile(_STRING + rb"|[\[\]{},]", re.DOTALL)
_KEY = re.compile(rb"\s*(" + _STRING + rb")\s*:", re.DOTALL)


class Numeral(float):
    """A JSON number that keeps the text that it was read from, because as text, `1.10` differs from `1.1`.

    Numbers with a fraction or an exponent are read as this class. The lenient decoder also uses it for integers of more
    than `LONGEST_INTEGER` characters.
    """

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class UnusableError(ValueError):
    """A part cannot be decoded. The message says why, but contains nothing of the part."""


class NotJsonError(UnusableError):
    """A part is not valid JSON."""


def value(part: bytes) -> Any:
    """Return the decoded value of a part.

    This is lenient: it accepts bytes that are not valid UTF-8, lone surrogates, and NaN. The caller can then reject the
    record with a message that names the field.

    Raises `UnusableError` if the part is too large, too deeply nested, or not valid JSON (`NotJsonError`).
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


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
decode_strictly = msgspec.json.Decoder(float_hook=Numeral).decode
_LENIENT = json.JSONDecoder(parse_float=Numeral, parse_int=_numeral_if_long, strict=False)


class Members:
    """Cuts the members with certain names out of JSON objects."""

    def __init__(self, *names: str) -> None:
        fields = [(name, msgspec.Raw, None) for name in names]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("_Members", fields))
        self._names = {f'"{name}"'.encode(): name for name in names}

    def of(self, document: bytes) -> dict[str, bytes]:
        """Return the wanted members that the document has, as text.

        Raises `ValueError` if the document is not an object or not complete.
        """
        try:
            found = msgspec.structs.asdict(self._decoder.decode(document))
        except (ValueError, RecursionError):
            return self._scan(document)
        return {name: bytes(part) for name, part in found.items() if part is not None}

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


def elements(array: bytes, most: int) -> list[bytes]:
    """Return the elements of a JSON array as text.

    Raises `ValueError` if the text is not an array, if the array has more than `most` elements, or if an element is not
    valid JSON. Elements of more than `LARGEST` bytes are not checked.
    """
    if array[:1] != b"[":
        raise ValueError("not a list")
    quick = _elements_quickly(array)
    found = list(islice(split(array), most + 1)) if quick is None else quick
    if len(found) > most:
        raise ValueError(f"a list of more than {most:,} elements")
    if quick is None:
        for element in found:
            _require_json(element)
    return found


def _elements_quickly(array: bytes) -> list[bytes] | None:
    """Return all elements of an array. None if it is not valid JSON, or has so many elements that memory matters."""
    if array.count(b",") > _MANY_COMMAS:
        return None
    try:
        return list(map(bytes, _ARRAY.decode(array)))
    except (ValueError, RecursionError):
        return None


def _require_json(part: bytes) -> None:
    try:
        value(part)
    except NotJsonError:
        raise
    except UnusableError:
        pass


def split(container: bytes) -> Iterator[bytes]:
    """Yield the elements of an array, or the members of an object, as text.

    This cuts only at the commas of the container itself, and does not check the parts. It is slow, but deep nesting and
    size cost no memory. Raises `ValueError` if the container does not end exactly at the end of the text.
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
        raise ValueError("incomplete, or followed by something else")
