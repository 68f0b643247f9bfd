"""Which configuration and which tokens a service is installed with."""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from rostersync.address import is_loopback
from rostersync.config import load, load_content, service_template
from rostersync.config.token import credential_file, token_from_file
from rostersync.config.urls import holds_password
from rostersync.daemon.places import CONFIG, Machine
from rostersync.daemon.steps import exists
from rostersync.errors import ConfigError, ServiceError
from rostersync.store.engine import sqlite_path
from rostersync.store.failures import STATE

if TYPE_CHECKING:
    from rostersync.config import Config, Source
    from rostersync.secret import Secret

API = "https://api.managebac.com"


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration as it is read in its place; `original` is the same as it was read where it came from.

    `content` is to be written; None where the file is there already.
    """

    config: Config
    original: Config
    content: bytes | None

    @property
    def local_postgresql(self) -> bool:
        """Whether the database is a PostgreSQL on this machine."""
        parts = urlsplit(self.config.database.url)
        hosts = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
        return parts.scheme.startswith("postgresql") and any(map(_is_local, hosts.split(",")))

    @property
    def notes(self) -> list[str]:
        """What works inside the service only."""
        return [
            f'source {source.name}: for commands outside the service add token_file = "{credential_file(source.name)}"'
            for source in self.config.sources
            if not (source.token_file or source.token_env)
        ]


def _is_local(host: str) -> bool:
    return not host or unquote(host).startswith("/") or is_loopback(host)


# The configuration -----------------------------------------------------------------------------------------------


def settings(machine: Machine, named: Path | None, base_url: str | None) -> Settings:
    """Return the configuration to install with: the one that is there, else a copy of `named`, else a new one.

    Raises `ConfigError` for a configuration with mistakes, `ServiceError` for one that the service cannot use, or that
    is not the one which is there.
    """
    there = machine.config
    if named is not None and not _same(named, there):
        chosen = _copied(there, named)
    elif there.exists():
        config = load_content(_content(there), Path(CONFIG))
        chosen = Settings(config, config, None)
        _require_readable(there)
    else:
        content = service_template(f"sqlite:///{STATE}/roster.db", base_url or API, credential_file("main")).encode()
        config = load_content(content, Path(CONFIG))
        chosen = Settings(config, config, content)
    if base_url and base_url not in {source.base_url for source in chosen.config.sources}:
        message = f"{named or there} has another base_url than {base_url}, and was not changed"
        raise ServiceError(message, "change it in that file, or leave --base-url out")
    _require_usable(chosen.config)
    return chosen


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _copied(there: Path, named: Path) -> Settings:
    original = load(named)
    content = _content(named)
    if there.exists() and _content(there) != content:
        message = f"{there} exists and differs from {named}; it was not overwritten"
        raise ServiceError(message, "leave -c out to use it, or move it away to have the other one copied")
    if holds_password(tomllib.loads(content.decode("utf-8-sig")).get("database", {}).get("url", "")):
        message = f"database.url in {named} has a password, which its copy would show to every user"
        raise ServiceError(message, f"let PostgreSQL know the user rostersync by its name, or put the file at {there}")
    config = load_content(content, Path(CONFIG))
    for before, after in zip(original.sources, config.sources, strict=True):
        _require_absolute(before, after, named)
    return Settings(config, original, None if there.exists() else content)


def _require_absolute(before: Source, after: Source, named: Path) -> None:
    if after.token_file not in {before.token_file, Path(credential_file(after.name))}:
        message = f"source {after.name}: token_file is relative to {named}, and its copy would lead elsewhere"
        raise ServiceError(message, f'set token_file = "{credential_file(after.name)}"')


def _require_readable(path: Path) -> None:
    found = path.stat()
    if not (found.st_mode & stat.S_IROTH or (found.st_mode & stat.S_IRGRP and found.st_gid != 0)):
        message = f"the service cannot read {path} (mode {stat.S_IMODE(found.st_mode):04o})"
        raise ServiceError(message, f"chmod 644 {path}; or, with a password in it: chgrp rostersync and chmod 640")


def _require_usable(config: Config) -> None:
    path = sqlite_path(config.database.url)
    if path is not None and not Path(os.path.normpath(path)).is_relative_to(STATE):
        message = f"database.url: the service cannot write {path}, only what is in {STATE}"
        raise ServiceError(message, f'set url = "sqlite:///{STATE}/roster.db"')


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"cannot read the configuration {path}: {error.strerror}"]) from error


# The tokens ------------------------------------------------------------------------------------------------------


def absent_credentials(machine: Machine, chosen: Settings) -> dict[str, Secret | None]:
    """Return the sources whose credential is to be written, with the token that the configuration leads to, if any.

    Raises `ServiceError` where something else than a plain file is in the place of a credential.
    """
    return {
        source.name: _known_token(source)
        for source in chosen.original.sources
        if not _has_credential(machine, source.name)
    }


def _has_credential(machine: Machine, source: str) -> bool:
    path = machine.at(credential_file(source))
    if not exists(path):
        return False
    if not os.access(path, os.R_OK):  # for the one that a dry run without root sees
        return True
    try:
        token_from_file(path, f"source {source}")
    except ConfigError:  # empty, or something else than a token
        return False
    return True


def _known_token(source: Source) -> Secret | None:
    if source.token_file == Path(credential_file(source.name)):  # which is what is missing
        source = source.model_copy(update={"token_file": None})
    try:
        return source.token()
    except ConfigError:
        return None
