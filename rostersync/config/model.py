"""Define the settings, with their types, bounds and defaults.

Only the class `Source` reads files, because a file may contain a token.

In error messages, a field's description follows the word "expected", so word the description to fit after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping  # noqa: TC003 - pydantic evaluates the annotations at run time
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
)

from rostersync.address import api_url
from rostersync.config.cron import Cron, is_meant_as_cron
from rostersync.config.timing import parse_duration
from rostersync.config.token import exposure, find_token, token_path
from rostersync.config.trust import foreign_owner, this_user
from rostersync.config.urls import database_url, mask_url
from rostersync.errors import ConfigError
from rostersync.secret import Secret  # noqa: TC001 - the same


class ConfigContext(msgspec.Struct, frozen=True):
    """The context of a configuration file.

    Relative paths in the file start at `folder`. Variables in the file get their values from `environ`.
    """

    folder: Path = msgspec.field(default_factory=Path.cwd)
    environ: Mapping[str, str] = msgspec.field(default_factory=lambda: os.environ)


def _context(info: ValidationInfo) -> ConfigContext:
    return info.context if isinstance(info.context, ConfigContext) else ConfigContext()


# Kinds of values -------------------------------------------------------------------------------------------------


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError("not a string")  # noqa: TRY004 - pydantic collects only ValueErrors
    return parse_duration(value)


def _slot(value: Any) -> timedelta | Cron:
    if isinstance(value, Cron):
        return value
    if isinstance(value, str) and is_meant_as_cron(value):
        return Cron(value)
    interval = _duration(value)
    if not timedelta(seconds=1) <= interval <= timedelta(days=366):
        raise ValueError("out of bounds")
    return interval


def _zone(value: str) -> str:
    if value == "UTC":  # valid even if the system has no time zones installed
        return value
    try:
        return ZoneInfo(value).key
    except (LookupError, OSError, ValueError):
        raise ValueError("unknown time zone") from None


def _matching(pattern: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError("does not match")
        return value

    return AfterValidator(check)


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("empty")
    return values


def _path(value: Any, info: ValidationInfo) -> Any:
    return _context(info).folder.absolute() / value if isinstance(value, str) and value else value


def _folder(value: Any, info: ValidationInfo) -> Any:
    return None if value == "" else _path(value, info)


def _command(words: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Return a command. If the program is a relative path, join the path to the configuration file's folder."""
    if not words:
        return words
    if not words[0] or any("\0" in word for word in words):
        raise ValueError("not a command")
    program = str(_context(info).folder.absolute() / words[0]) if "/" in words[0] else words[0]
    return (program, *words[1:])


def _database_url(value: str, info: ValidationInfo) -> str:
    context = _context(info)
    return database_url(value, context.folder, context.environ)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Slot = Annotated[timedelta | Cron, PlainValidator(_slot)]
TimeZone = Annotated[str, AfterValidator(_zone)]
SOURCE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SourceName = Annotated[str, _matching(SOURCE_NAME)]
Version = Annotated[str, _matching(r"v[0-9]+(p[0-9]+)?")]
Variable = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*")]
File = Annotated[Path, BeforeValidator(_path)]
Folder = Annotated[Path | None, BeforeValidator(_folder)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
ApiUrl = Annotated[str, AfterValidator(api_url)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists, but no tuples


def _whole(default: int, low: int, high: int) -> Any:
    return Field(default, ge=low, le=high, description=f"a whole number from {low} to {high}")


def _lasting(default: str, low: str, high: str) -> Any:
    low_, high_ = parse_duration(low), parse_duration(high)
    expected = f'a duration from "{low}" to "{high}", such as "{default}"'
    return Field(parse_duration(default), ge=low_, le=high_, description=expected)


def _slots(default: str) -> Any:
    expected = 'an interval of at least "1s", such as "1h", or a cron line such as "0 2 * * *"'
    return Field(_slot(default), description=expected)


def _flag() -> Any:
    return Field(default=False, description="true or false")


# Sections --------------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A table of the configuration file.

    A table is immutable, refuses unknown keys and does not convert between types.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Database(Section):
    """The database of the replica. `url` may contain a password, so print `shown` instead."""

    url: DatabaseUrl = Field(
        default="sqlite:///roster.db",
        repr=False,
        validate_default=True,
        description='a string: "sqlite:///FILE" or "postgresql+psycopg://USER@HOST/DATABASE"',
    )
    auto_upgrade: bool = _flag()

    @property
    def shown(self) -> str:
        """The URL without its user, password and options."""
        return mask_url(self.url)


class Source(Section):
    """One school. `find_token` documents where the school's token may be stored."""

    name: SourceName = Field(
        description="up to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit"
    )
    base_url: ApiUrl = Field(description="the address of the API, such as https://api.managebac.com")
    api_version: Version = Field(default="v2p1", description='a version such as "v2p1"')
    auth: Literal["header", "parameter"] = Field(default="header", description='"header" or "parameter"')
    token_env: Variable | None = Field(
        default=None, repr=False, description="the name of an environment variable (not the secret itself)"
    )
    token_file: File | None = Field(default=None, description="the path of a file")
    allow_writes: bool = _flag()
    _tokens_dir: Path | None = PrivateAttr(None)  # a copy of `Config.tokens_dir`
    _read: Secret | ConfigError | None = PrivateAttr(None)

    def with_token(self) -> Source:
        """Return a copy of this source that has read its token. If reading fails, the copy keeps the error.

        A process calls this method before it gives up root's rights, because it may be unable to read the token later.
        """
        read: Secret | ConfigError
        try:
            read = self.token()
        except ConfigError as error:
            read = error
        source = self.model_copy()
        source._read = read  # noqa: SLF001 - an attribute of this class
        return source

    def token(self, environ: Mapping[str, str] = os.environ) -> Secret:
        """Return the token. If `with_token` has not read the token before, read it now.

        Args:
            environ: the environment variables, which are searched for the token if no file contains it. The default is
                the environment of this process.

        Returns:
            The token, as a `Secret` that does not show its value.

        Raises:
            NotConfigured: no token has been given yet.
            ConfigError: the token cannot be read, or the file or the variable contains something that is not a token.

        """
        if isinstance(self._read, ConfigError):
            raise self._read
        if self._read is not None:
            return self._read
        return find_token(self.name, self.token_file, self.token_env, self._tokens_dir, environ)

    def token_warnings(self) -> list[str]:
        """Return warnings if other users can read the token's file, or if the file belongs to another user."""
        file = self.token_file
        if file is None and self._tokens_dir and not self.token_env:
            file = token_path(self._tokens_dir, self.name)
        if file is None:
            return []
        lines = []
        if mode := exposure(file):
            lines.append(f"source {self.name}: others can read {file} (mode {mode}); run: chmod 600 {file}")
        if (owner := foreign_owner(file)) is not None:
            lines.append(
                f"source {self.name}: {file} belongs to another user (uid {owner}); run: chown {this_user()} {file}"
            )
        return lines


class Schedule(Section):
    """The daemon's schedule. A slot is an interval (`timedelta`) or a cron line (`Cron`) in the zone `timezone`."""

    incremental: Slot = _slots("1h")
    full: Slot = _slots("0 2 * * *")
    jitter: Duration = _lasting("2m", "0s", "1d")
    timezone: TimeZone = Field(default="UTC", description='a time zone such as "UTC" or "Europe/Berlin"')


class Sync(Section):
    overlap: Duration = _lasting("10m", "0s", "7d")
    per_page: int = _whole(200, 1, 200)
    max_age: Duration = _lasting("7d", "1s", "3650d")
    concurrency: int = _whole(4, 1, 32)
    sources_at_once: int = _whole(4, 1, 64)
    timeout: Duration = _lasting("30s", "1s", "1h")
    retries: int = _whole(5, 0, 20)
    run_deadline: Duration = _lasting("30m", "1s", "7d")
    crawl_attempts: int = _whole(3, 1, 20)
    details_per_run: int = _whole(500, 0, 100_000)
    stage_mib: int = _whole(2048, 1, 1 << 20)


class Guard(Section):
    max_deletions: int = _whole(25, 0, 1_000_000)
    max_deletion_percent: float = Field(default=5.0, ge=0, le=100, description="a number from 0 to 100")
    floor: int = _whole(3, 0, 1_000_000)


class Privacy(Section):
    exclude: Texts = Field(default=(), description="a list of strings")


class Retention(Section):
    deleted: Duration = _lasting("365d", "1s", "36500d")
    history: Duration = _lasting("730d", "1s", "36500d")
    runs: Duration = _lasting("90d", "1s", "36500d")


class Network(Section):
    proxy_from_env: bool = _flag()


class Reporting(Section):
    copy_to: str = Field(default="", alias="copy", description="the path of a file")


class Http(Section):
    listen: str = Field(default="", description='an address such as "127.0.0.1:9464"')


class Logging(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    format: Literal["auto", "console", "json"] = Field(default="auto", description="auto, console or json")


class Alerts(Section):
    urls: Texts = Field(default=(), repr=False, description="a list of strings")
    after_failures: int = _whole(3, 1, 1000)
    ping_url: str = Field(default="", repr=False, description="an address")


class Hooks(Section):
    """The command to call after runs. Its arguments may contain secrets, so the arguments are never printed."""

    after_run: Annotated[Texts, AfterValidator(_command)] = Field(
        default=(), repr=False, description='a list of strings: a command and its arguments, such as ["./notify.sh"]'
    )
    timeout: Duration = _lasting("30s", "1s", "1h")


class Config(Section):
    """The whole configuration file. `rostersync.config.load` returns an instance of this class."""

    tokens_dir: Folder = Field(default=None, description="the path of a folder")
    database: Database  # always present, because `load` adds an empty table if the file has no [database]
    sources: Annotated[tuple[Source, ...], Field(strict=False), AfterValidator(_some)] = Field(
        description="at least one [[sources]], in double brackets, with a name and a base_url"
    )
    schedule: Schedule = Schedule()
    sync: Sync = Sync()
    guard: Guard = Guard()
    privacy: Privacy = Privacy()
    retention: Retention = Retention()
    network: Network = Network()
    reporting: Reporting = Reporting()
    http: Http = Http()
    logging: Logging = Logging()
    alerts: Alerts = Alerts()
    hooks: Hooks = Hooks()

    def model_post_init(self, _context: Any, /) -> None:
        for source in self.sources:
            source._tokens_dir = self.tokens_dir  # noqa: SLF001 - an attribute of a class in this module

    def with_tokens(self) -> Config:
        """Return a copy of this configuration in which each source has read its token. See `Source.with_token`."""
        return self.model_copy(update={"sources": tuple(source.with_token() for source in self.sources)})
