"""Check the API's address. The client sends the token to this address, so a wrong address could expose the token."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_API = "https://HOST alone, such as https://api.managebac.com"


class Wrong(ValueError):
    """A setting's value is invalid. `found` and `expected` appear in the message, so they must not contain secrets."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")


def may_be_a_token(text: str) -> bool:
    """Return whether a string looks like a token. Messages must not contain a string that looks like a token."""
    return bool(re.fullmatch(r"(?=.*\d)[\w-]{16,}", text))


def api_url(text: str) -> str:
    """Return the scheme, host and port of `text` in lower case, without a slash at the end.

    Raises `Wrong` if `text` contains anything else, or if it is an http address of another machine.
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
    """Return the parts of a URL. Raises `Wrong` if the URL cannot be parsed. `expected` becomes part of the message."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # urlsplit parses the port only here
    except ValueError:
        raise Wrong("an address that cannot be parsed", expected) from None  # urllib may repeat a password
    return parts


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or the name `localhost`. The name is not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
