"""The address of the API: what one may be, and what it must not be, since the token is sent there."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_API = "https://HOST alone, such as https://api.managebac.com"


class Wrong(ValueError):
    """A value that cannot be used; `found` and `expected` are parts of a sentence, without secrets."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")


def may_be_a_token(text: str) -> bool:
    """Return whether a string looks like a token that was pasted where it does not belong: then it is not repeated."""
    return bool(re.fullmatch(r"(?=.*\d)[\w-]{16,}", text))


def api_url(text: str) -> str:
    """Return the scheme and host of `text` in lower case, without a slash; `Wrong` when it holds anything else."""
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
    """Return the parts of a URL. Raises `Wrong`, naming what was `expected`, for one that cannot be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed only now
    except ValueError:
        raise Wrong("an address that cannot be read", expected) from None  # the library's message may repeat a password
    return parts


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address leads to this machine itself; `localhost` is taken at its word."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
