"""Encode a student's picture for the API: the address of a picture as JSON, or a file as multipart form data.

The vendor's v2p3 document describes both ways.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from urllib3.filepost import encode_multipart_formdata

from rostersync.managebac.fields import invalid
from rostersync.managebac.picture import without_metadata
from rostersync.managebac.wire.http import JSON_TYPE
from rostersync.words import HARMFUL

if TYPE_CHECKING:
    from os import PathLike

MAX_BYTES = 10 * 2**20
"""The maximum size of a file. This is our own limit, because the vendor does not document any limit."""


def encode(url: str | None, file: str | PathLike[str] | bytes | None) -> tuple[bytes, str]:
    """Return the body and the content type of a request that sends an address or a file.

    The metadata of a file is removed (see the module `picture`).

    Raises `Invalid` unless exactly one of `url` and `file` is set. Also raises `Invalid` if the address is not a web
    address or contains a user name, or if the file is missing, too large, damaged, or not an image of a supported kind.
    """
    if (url is None) == (file is None):
        raise invalid({"base": ("an avatar needs exactly one of url and file",)})
    if url is not None:
        return _remote(url)
    content = file if isinstance(file, bytes) else _read(Path(os.fspath(file or "")))
    if len(content) > MAX_BYTES:
        raise invalid({"file": (f"is larger than {MAX_BYTES >> 20} MiB",)})
    kind = image_type(content)
    if kind is None:
        raise invalid({"file": ("is not a PNG, JPEG, GIF or WebP image",)})
    try:
        content = without_metadata(content, kind)
    except ValueError:
        message = "cannot be read, so its metadata cannot be removed; save it again with another program"
        raise invalid({"file": (message,)}) from None
    # We send our own file name, because the file's real name may contain the student's name.
    return encode_multipart_formdata([("avatar[file]", (f"avatar.{kind}", content, f"image/{kind}"))])


def image_type(content: bytes) -> str | None:
    """Return the kind of an image (png, jpeg, gif or webp) from its first bytes, or None for any other content."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return next((kind for begin, kind in _SIGNATURES.items() if content.startswith(begin)), None)


_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


def _remote(url: str) -> tuple[bytes, str]:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and not re.search(rf"[ {HARMFUL}]", url)
        usable = usable and parts.username is None
    except (ValueError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise invalid({"url": ("must be an address such as https://example.org/portrait.jpg",)})
    return msgspec.json.encode({"avatar": {"remote_file_url": url}}), JSON_TYPE


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise invalid({"file": (f"cannot be read: {error.strerror}",)}) from error
    except ValueError:  # the name contains a NUL character
        raise invalid({"file": ("is not the name of a file",)}) from None
