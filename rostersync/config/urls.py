"""Read the database's URL from the configuration. No error message in this module contains a password."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from rostersync.address import Wrong, split

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FORMS = '"sqlite:///FILE" or "postgresql+psycopg://USER@HOST/DATABASE"'
_DRIVER = "pip install --require-hashes -r requirements.txt"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def mask_url(url: str) -> str:
    """Return `url` without the user, the password and the query, which may be secret."""
    return re.sub(r"\?.*", "?***", re.sub(r"://.*@", "://***@", url, flags=re.DOTALL), flags=re.DOTALL)


def holds_password(url: str) -> bool:
    """Return whether a database URL from the configuration contains a password. A `${VARIABLE}` is not a password."""
    scheme, _, rest = _VARIABLE.sub("", url).partition("://")
    if not scheme.startswith("postgresql"):
        return False
    user, _, _ = rest.rpartition("@")
    return bool(user.partition(":")[2] or re.search(r"[?&]\w*password=[^&]", rest))


def database_url(text: str, folder: Path, environ: Mapping[str, str]) -> str:
    """Return the SQLAlchemy URL for `text`. Variables are expanded, and a relative path is relative to `folder`.

    Raises `Wrong` if a variable is not set, if the driver is unknown or not installed, if the database would be in
    memory, or if the URL is otherwise invalid.
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
        raise Wrong(f"${{{name}}}, a variable that is not set", "the name of an environment variable")
    return environ[name]


def _sqlite(rest: str, folder: Path) -> str:
    path = unquote(rest.removeprefix("/"))
    if path in {"", ":memory:"}:
        raise Wrong(
            "a database in memory, which would be lost when the process ends", 'a file, such as "sqlite:///roster.db"'
        )
    if not rest.startswith("/") or "?" in rest or path.startswith("file:"):
        raise Wrong("an SQLite URL with a host or options", 'only a file path, such as "sqlite:///roster.db"')
    return f"sqlite:///{quote(str(folder.absolute() / path))}"


def _postgresql(rest: str) -> str:
    before, _, _ = rest.rpartition("@")
    if re.search(r"[@/?#]", before):
        raise Wrong(
            "a password with a special character",
            "the character percent-encoded (@ is %40, / is %2F, ? is %3F, # is %23)",
        )
    split(f"postgresql://{rest}", 'an address such as "postgresql+psycopg://USER@HOST/DATABASE"')
    if find_spec("psycopg") is None:
        raise Wrong("PostgreSQL, but its driver is not installed", f"the driver: {_DRIVER}")
    return f"postgresql+psycopg://{rest}"
