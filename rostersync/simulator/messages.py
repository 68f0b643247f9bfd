"""The requests and responses between a client and the stand-in, both inside a process and over a socket."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json; charset=utf-8"

_MOST_DIGITS = 19  # the number of digits of the largest 64-bit integer


class Request(msgspec.Struct, frozen=True):
    """One request. `path` has no query. `query` has the decoded pairs in order. Header names are in lower case."""

    method: str
    path: str
    query: list[tuple[str, str]] = msgspec.field(default_factory=list)
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def to(cls, target: str, headers: Mapping[str, str], method: str = "GET", body: bytes = b"") -> Request:
        """Return a request for `target`, which is the path, followed by `?` and an encoded query if there is one."""
        path, _, query = target.partition("?")
        lower = {name.lower(): value for name, value in headers.items()}
        return cls(method, path, parse_qsl(query, keep_blank_values=True), lower, body)

    def first(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None if the parameter is missing."""
        return next((value for key, value in self.query if key == name), None)


class Call(msgspec.Struct, frozen=True):
    """An accepted request, with the permissions of its token and the parts of its path."""

    request: Request
    permissions: tuple[str, ...]
    version: str
    student: str

    @property
    def student_id(self) -> int | None:
        """The student's id, or None if this part of the path is not an id."""
        text = self.student
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


class Manner(enum.Enum):
    """How a response is delivered."""

    WHOLE = "whole"
    TRUNCATED = "truncated"  # the connection ends after `after` bytes of the body, before the announced length
    RESET = "reset"  # the connection is reset after `after` bytes of the body; 0 means before the status line
    DRIP = "drip"  # `chunk` bytes at a time, with a pause of `seconds` before each
    NEVER = "never"  # the server sends nothing until the client closes the connection


class Delivery(msgspec.Struct, frozen=True):
    """A manner and its parameters. If `with_headers` is true, the status line and the headers are also sent slowly."""

    manner: Manner = Manner.WHOLE
    after: int = 0
    chunk: int = 1
    seconds: float = 0.0
    with_headers: bool = False


class Response(msgspec.Struct, frozen=True):
    """One response. `body` has the bytes to send. The bytes are compressed if there is a header Content-Encoding."""

    status: int
    headers: dict[str, str]
    body: bytes
    delivery: Delivery = Delivery()


def json_response(status: int, document: object, headers: dict[str, str] | None = None) -> Response:
    """Return a response with `document` as JSON."""
    return Response(status, {"Content-Type": JSON_TYPE, **(headers or {})}, msgspec.json.encode(document))


def text_response(status: int, text: str, content_type: str, headers: dict[str, str] | None = None) -> Response:
    """Return a response that is not JSON, such as HTML or plain text from a gateway."""
    return Response(status, {"Content-Type": content_type, **(headers or {})}, text.encode())
