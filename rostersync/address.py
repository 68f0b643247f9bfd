"""Check the address of the API. The client sends the token there, so a wrong address could expose it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_API = "https://HOST alone, such as https://api.managebac.com"


class Wrong(ValueError):
    """A value that cannot be used. `found` and `expected` become part of the message, so they must not hold secrets."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")


def may_be_a_token(text: str) -> bool:
    """Return whether a string looks like a token. If so, it was put into the wrong place, and messages must hide it."""
    return bool(re.fullmatch(r"(?=.*\d)[\w-]{16,}", text))


def api_url(text: str) -> str:
    """Return the scheme, host and port of `text` in lower case, without a slash at the end.

    Raises `Wrong` if `text` contains anything else, or if it is plain http to another machine.
    """
    if not re.fullmatch(r"[!-~]+", text):
        raise Wrong("spaces or characters outside ASCII", _API)
    parts = split(text, _API)
    if parts.username is not None or parts.query or parts.fragment:
        raise Wrong("an address with a user, a query or a fragment", _API)
    if not parts.hostname or parts.scheme not in {"https", "http"}:
        raise Wrong("something that is not a web address", _API)
    if parts.path.strip("/"):
        shown = "a path" if any(map(may_be_a_token, parts.path.split("/"))) else f"the path {parts.path[:60]!r}"
        raise Wrong(shown, f"{_API}; the version is set in api_version")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise Wrong("plain http, which would expose the token", _API)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def split(url: str, expected: str) -> SplitResult:
    """Return the parts of a URL. Raises `Wrong` if it cannot be parsed; its message says what was `expected`."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # urlsplit parses the port only here
    except ValueError:
        raise Wrong("an address that cannot be read", expected) from None  # urllib's message may repeat a password
    return parts


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: a loopback address, or the name `localhost`, which is not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
