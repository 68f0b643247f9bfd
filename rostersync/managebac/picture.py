"""Remove metadata from a picture, such as the place and time of a photograph, the device, and comments.

We copy only the parts of the file that are needed to show the picture. The pixels are not decoded, so they do not
change. From the EXIF data of a JPEG file we copy only the orientation, because without the orientation a portrait might
be shown lying on its side.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def without_metadata(content: bytes, kind: str) -> bytes:
    """Return a picture (png, jpeg, gif or webp) without its metadata. Raises `ValueError` if the picture is damaged."""
    try:
        return b"".join(_PARTS[kind](content))
    except (IndexError, struct.error):
        raise ValueError("the picture is cut off") from None


# JPEG ------------------------------------------------------------------------------------------------------------

_EXIF, _COLOURS = b"Exif\0\0", b"ICC_PROFILE\0"
# The markers from `_APP0` to `_COMMENT` are reserved or belong to applications.
_APP0, _APP1, _APP2, _APP14, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_SCAN, _END, _FILLING = 0xDA, 0xD9, 0xFF
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ORIENTATION = 0x0112
_JFIF, _JFIF_BYTES = b"JFIF\0", 14  # a longer segment has a thumbnail, which may show more than the picture
_ADOBE, _ADOBE_BYTES = b"Adobe", 12  # this segment says how the colours are stored


def _jpeg(content: bytes) -> Iterator[bytes]:
    """Yield the segments to copy.

    Skip everything after the end of the picture, where some devices add another picture.
    """
    yield content[:2]
    at = 2
    while (marker := _marker(content, at)) != _END:
        if marker == _FILLING:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        end = at + 2 + max(2, length)
        yield _kept(marker, content[at:end])
        if marker == _SCAN:
            found = _NEXT.search(content, end)
            if found is None:
                raise ValueError("the picture has no end")
            yield content[end : found.start()]
            end = found.start()
        at = end
    yield content[at : at + 2]


def _marker(content: bytes, at: int) -> int:
    if content[at] != _FILLING:
        raise ValueError("not a segment of a JPEG")
    return content[at + 1]


def _kept(marker: int, segment: bytes) -> bytes:
    """Return the part of a segment that must be copied.

    Segments that were added by applications are left out, unless the colours or the orientation depend on them.
    """
    data = segment[4:]
    if marker == _APP1 and data.startswith(_EXIF):
        return _only_orientation(data[len(_EXIF) :])
    header = marker == _APP0 and data.startswith(_JFIF) and len(data) == _JFIF_BYTES
    storage = marker == _APP14 and data.startswith(_ADOBE) and len(data) == _ADOBE_BYTES
    needed = header or storage or (marker == _APP2 and data.startswith(_COLOURS))
    return b"" if _APP0 <= marker <= _COMMENT and not needed else segment


def _only_orientation(tiff: bytes) -> bytes:
    """Return a new segment with only the orientation from the EXIF data.

    The result is empty if the data has no orientation, or if the picture is upright.
    """
    try:
        order = {b"MM": ">", b"II": "<"}[tiff[:2]]
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, first)
        for number in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, first + 2 + 12 * number)
            if tag == _ORIENTATION and 1 < value <= 8:  # noqa: PLR2004 - EXIF numbers them 1 to 8; 1 is upright
                directory = struct.pack(">HHHIHHI", 1, _ORIENTATION, 3, 1, value, 0, 0)
                data = _EXIF + b"MM\0*\0\0\0\x08" + directory
                return struct.pack(">HH", 0xFF00 | _APP1, len(data) + 2) + data
    except (KeyError, struct.error):
        pass
    return b""


# PNG and WebP: copy only known chunks, which show the picture, because programs add their own chunks ---------------

_PNG_CHUNKS = set(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP sBIT cICP mDCV cLLI bKGD pHYs acTL fcTL fdAT".split(),
)
_WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}


def _png(content: bytes) -> Iterator[bytes]:
    yield content[:8]
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            raise ValueError("the picture is cut off")
        if name in _PNG_CHUNKS:
            yield content[at:end]
        at = end


def _webp(content: bytes) -> Iterator[bytes]:
    chunks = b"".join(_chunks(content))
    yield b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _chunks(content: bytes) -> Iterator[bytes]:
    (size,) = struct.unpack_from("<I", content, 4)
    at, last = 12, min(len(content), size + 8)
    while at < last:
        name, length = struct.unpack_from("<4sI", content, at)
        end = at + 8 + length + length % 2
        if name == b"VP8X":  # clear the two bits that announce EXIF and XMP chunks
            yield content[at : at + 8] + bytes([content[at + 8] & ~0b1100]) + content[at + 9 : end]
        elif name in _WEBP_CHUNKS:
            yield content[at:end]
        at = end


# GIF -------------------------------------------------------------------------------------------------------------

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_CONTROL, _APPLICATION = 0xF9, 0xFF  # the first says how long to show a frame; programs add the second
_LOOP = b"NETSCAPE2.0"


def _gif(content: bytes) -> Iterator[bytes]:
    at = 13 + _colours(content[10])
    yield content[:at]
    while (kind := content[at]) != _TRAILER:
        if kind == _IMAGE:
            end = _after_blocks(content, at + 10 + _colours(content[at + 9]) + 1)
            yield content[at:end]
        elif kind == _EXTENSION:
            end = _after_blocks(content, at + 2)
            label, is_loop = content[at + 1], content[at + 3 : at + 14] == _LOOP
            if label == _CONTROL or (label == _APPLICATION and is_loop):
                yield content[at:end]
        else:
            raise ValueError("not a block of a GIF")
        at = end
    yield content[at : at + 1]


def _colours(flags: int) -> int:
    """Return the size of a colour table in bytes, which may be 0. `flags` is the byte of flags before the table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while content[at]:
        at += 1 + content[at]
    return at + 1


_PARTS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {"jpeg": _jpeg, "png": _png, "webp": _webp, "gif": _gif}
