"""The two addresses in the configuration: of the database, and of the API. No message here repeats a password."""

from __future__ import annotations

import ipaddress
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urlsplit

from rostersync.config.mistakes import Wrong, may_be_a_token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FORMS = '"sqlite:///FILE" or "postgresql+psycopg://USER@HOST/DATABASE"'
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def mask_url(url: str) -> str:
    """Return `url` without the parts that may be secret: user, password and query."""
    return re.sub(r"\?.*", "?***", re.sub(r"://.*@", "://***@", url, flags=re.DOTALL), flags=re.DOTALL)


# The database ----------------------------------------------------------------------------------------------------


def database_url(text: str, folder: Path, environ: Mapping[str, str]) -> str:
    """Return the SQLAlchemy URL of `text`: variables filled in, a file's path made absolute from `folder`.

    Raises `Wrong` for an unknown variable, an unknown or missing driver, a database in memory.
    """
    url = _VARIABLE.sub(lambda match: _variable(match[1], environ), text)
    scheme, separator, rest = url.partition("://")
    if not separator or any(character <= " " for character in url):
        raise Wrong("a string that is not a URL", _FORMS)
    if scheme == "sqlite":
        return _sqlite(rest, folder)
    if scheme in {"postgresql", "postgresql+psycopg"}:
        return _postgresql(rest)
    raise Wrong(f"the driver {scheme[:30]!r}", _FORMS)


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise Wrong(f"${{{name}}}, a variable that is not set", "a variable of the environment")
    return environ[name]


def _sqlite(rest: str, folder: Path) -> str:
    path = unquote(rest.removeprefix("/"))
    if path in {"", ":memory:"}:
        raise Wrong(
            "a database in memory, which would be lost when the process ends", 'a file, such as "sqlite:///roster.db"'
        )
    if not rest.startswith("/") or "?" in rest or path.startswith("file:"):
        raise Wrong("an SQLite URL with a host or options", 'a file alone, such as "sqlite:///roster.db"')
    return f"sqlite:///{quote(str(folder.absolute() / path))}"


def _postgresql(rest: str) -> str:
    before, _, _ = rest.rpartition("@")
    if re.search(r"[@/?#]", before):
        raise Wrong(
            "a password with a special character", "a percent-encoded one (@ is %40, / is %2F, ? is %3F, # is %23)"
        )
    _split(f"postgresql://{rest}", 'an address such as "postgresql+psycopg://USER@HOST/DATABASE"')
    if find_spec("psycopg") is None:
        raise Wrong("PostgreSQL, but its driver is not installed", "the driver: pip install 'rostersync[postgresql]'")
    return f"postgresql+psycopg://{rest}"


# The API ---------------------------------------------------------------------------------------------------------

_API = "https://HOST alone, such as https://api.managebac.com"


def api_url(text: str) -> str:
    """Return the scheme and host of `text` in lower case, without a slash; `Wrong` when it holds anything else."""
    if not re.fullmatch(r"[!-~]+", text):
        raise Wrong("spaces or characters outside ASCII", _API)
    parts = _split(text, _API)
    if parts.username is not None or parts.query or parts.fragment:
        raise Wrong("an address with a user, a query or a fragment", _API)
    if not parts.hostname or parts.scheme not in {"https", "http"}:
        raise Wrong("something that is not a web address", _API)
    if parts.path.strip("/"):
        shown = "a path" if any(map(may_be_a_token, parts.path.split("/"))) else f"the path {parts.path[:60]!r}"
        raise Wrong(shown, f"{_API}; the version is set in api_version")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise Wrong("plain http, which would expose the token", _API)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _split(url: str, expected: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed only now
    except ValueError:
        raise Wrong("an address that cannot be read", expected) from None  # the library's message may repeat a password
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
