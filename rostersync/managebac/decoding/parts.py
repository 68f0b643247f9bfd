"""Cut a JSON document into parts that are text, so that a large or hostile response cannot exhaust our memory or stack.

A decoded value can take thirty times as much memory as its text, for example if the text is `[],[],[]`. A decoder can
also fail if values are nested deeply. So we cut out only those members of a response that we need, as text, and skip
all other members. Then we decode the parts one at a time. Parts that are larger than `LARGEST` bytes are not decoded.
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
"""The maximum size of a part that we decode, in bytes.

A record in the documented format has 1 to 2 kB. A maximum of thirty times this size leaves enough space for a school's
own fields. If the maximum were larger, a hostile server could fill the database, because we store every version of a
record.
"""

_MANY_COMMAS = 100_000
"""If an array has more commas than this, `elements` reads only the first elements of the array.

An array of 2 MB can have a million elements, and decoding it as a whole would take 95 MB of memory. A page of 200
records in the documented format has about 12,000 commas.
"""

LONGEST_INTEGER = 20  # characters, which is enough for each integer of 64 bits
_BLANK = b" \t\r\n"
_COMMA = ord(",")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The quantifiers are possessive. Otherwise, if a closing quote is missing, the text would be scanned again from each
# quote.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_TOKEN = re.compile(_STRING + rb"|[\[\]{},]", re.DOTALL)
_KEY = re.compile(rb"\s*(" + _STRING + rb")\s*:", re.DOTALL)


class Numeral(float):
    """A JSON number that also keeps its original text.

    Text fields need the original text, because `1.10` and `1.1` are different strings.

    Numbers with a fraction or an exponent are decoded to this class. The lenient decoder also uses this class for
    integers with more than `LONGEST_INTEGER` characters.
    """

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class UnusableError(ValueError):
    """Raised if a part cannot be decoded. The message gives the reason, but contains nothing from the part itself."""


class NotJsonError(UnusableError):
    """Raised if a part is not valid JSON."""


def value(part: bytes) -> Any:
    """Return the decoded value of a part.

    Decoding is lenient, so invalid UTF-8, lone surrogates and NaN are accepted. The caller can then reject the record
    with a message that contains the name of the field.

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
    """Extracts the members with certain names from JSON objects, as text."""

    def __init__(self, *names: str) -> None:
        fields = [(name, msgspec.Raw, None) for name in names]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("_Members", fields))
        self._names = {f'"{name}"'.encode(): name for name in names}

    def of(self, document: bytes) -> dict[str, bytes]:
        """Return the wanted members that exist in the document, as text.

        Raises `ValueError` if the document is not an object, or if it is incomplete.
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
    """Return all elements of an array, or None if it is not valid JSON or would take too much memory."""
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

    The container is cut only at its own commas, not at the commas of nested values, and the parts are not checked. This
    is slow, but it takes no memory for deep nesting or for many elements. Raises `ValueError` if the container is
    incomplete, or if more text follows the container.
    """
    depth, start = 0, 1
    for token in _TOKEN.finditer(container):
        mark = container[token.start()]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 0 or (depth == 1 and mark == _COMMA):
            part = container[start : token.start()].strip(_BLANK)
            if part or depth or start > 1:  # an empty container has no parts
                yield part
            start = token.end()
        if depth == 0:
            break
    if depth or container[start:].strip(_BLANK):
        raise ValueError("incomplete, or followed by something else")
