"""Read the bodies of writes, which are JSON objects or avatar files.

Each function raises `Refusal`, which has the response to send, if the body is not valid.
"""

from __future__ import annotations

import email
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.simulator.refusals import BLANK, INVALID, Refusal, bad_structure, invalid, unpermitted

if TYPE_CHECKING:
    from collections.abc import Collection

    from rostersync.simulator.messages import Request

_AVATAR_FIELDS = ("file", "remote_file_url")
_AVATAR_PART = "avatar[file]"


def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body. Without a body, return an empty object. Refuse any other body with 400."""
    if not request.body:
        return {}
    if _media_type(request) != "application/json":
        raise Refusal(bad_structure())
    try:
        document = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(bad_structure()) from error
    return _object(document)


def unwrap(document: dict[str, Any], wrapper: str, allowed: Collection[str]) -> dict[str, Any]:
    """Return the object under the key `wrapper`.

    If the object is missing, or if a field is not allowed, refuse the request with 400.
    """
    return permit(_object(document.get(wrapper)), allowed)


def permit(fields: dict[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the fields. If a field is not allowed, refuse the request with 400."""
    if not fields.keys() <= set(allowed):
        raise Refusal(unpermitted(allowed))
    return fields


def read_avatar(request: Request) -> bytes:
    """Return the bytes of an avatar's file or of its URL.

    If the body has neither a file nor a URL, refuse the request with 400 or 422.
    """
    if _media_type(request) == "multipart/form-data":
        return _uploaded(request) or _no_avatar()
    if not request.body:
        _no_avatar()
    url = unwrap(read_json(request), "avatar", _AVATAR_FIELDS).get("remote_file_url") or _no_avatar()
    if not isinstance(url, str) or not url.lower().startswith(("https://", "http://")):
        raise Refusal(invalid(remote_file_url=INVALID))
    return url.encode()


def _no_avatar() -> bytes:
    raise Refusal(invalid(base=f"file or remote_file_url {BLANK}"))


def _uploaded(request: Request) -> bytes | None:
    """Return the avatar file in a multipart body, or None if the file is missing. Refuse any other body with 400."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n"
    message = email.message_from_bytes(head.encode("latin-1") + request.body)
    if not message.is_multipart():
        raise Refusal(bad_structure())
    for part in message.walk():
        if part.get_param("name", header="content-disposition") == _AVATAR_PART:
            content = part.get_payload(decode=True)
            return content if isinstance(content, bytes) else None
    return None


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise Refusal(bad_structure())
    return document
