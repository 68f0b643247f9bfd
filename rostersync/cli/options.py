"""The options that several commands share, and the types of their values."""

from __future__ import annotations

import functools
import shlex
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import replace

from rostersync.cli.ownership import as_owner
from rostersync.cli.verbosity import log_level, verbosity_options
from rostersync.clock import from_text
from rostersync.config import find_config, load, parse_duration
from rostersync.errors import ConfigError
from rostersync.observe import log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rostersync.cancel import CancelScope
    from rostersync.clock import Clock
    from rostersync.config import Config, Source


class Session(msgspec.Struct, frozen=True):
    """The configuration of a command, and the scope of its work.

    A signal cancels `scope`. `named` is the path given with `--config`, or None.
    """

    config: Config
    path: Path
    scope: CancelScope
    named: Path | None

    @property
    def clock(self) -> Clock:
        """The clock of the process."""
        return self.scope.clock

    def as_owner(self) -> Session:
        """Return a session that may use the database. If the process runs as root, it first becomes the service's user.

        Root reads the tokens before the process switches to this user. See `rostersync.cli.ownership.as_owner`.
        """
        return replace(self, config=as_owner(self.config))

    def command(self, words: str) -> str:
        """Return the command line `rostersync WORDS`, with `-c` if the user gave a configuration file."""
        return f"rostersync {words}" + (f" -c {shlex.quote(str(self.named))}" if self.named else "")

    def chosen(self, names: Sequence[str]) -> list[Source]:
        """Return the sources with these names, without duplicates. If `names` is empty, return all sources.

        Raises `ConfigError` if a name is unknown.
        """
        known = {source.name: source for source in self.config.sources}
        unknown = [name for name in dict.fromkeys(names) if name not in known]
        if unknown:
            lines = [f"--source {unknown_source(name, known)}" for name in unknown]
            raise ConfigError(lines, f"the sources are in {self.path}")
        return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def unknown_source(name: str, known: Collection[str]) -> str:
    """Return the error message for an unknown source name. The message suggests a known name that is similar."""
    close = get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{name}: no such source; known: {', '.join(known)}{meant}"


_config_option = click.option(
    "-c",
    "--config",
    "named",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file. Default: $ROSTERSYNC_CONFIG, ./config.toml or /etc/rostersync/config.toml.",
)


def common_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all commands: -v, -q and --config.

    The path that the user gives with --config is passed to the command as the argument `named`.
    """
    return _config_option(verbosity_options(verb))


def config_named(ctx: click.Context, named: Path | None) -> Path | None:
    """Return the path given with --config, or None if --config was not given.

    The option may come before or after the command's name.
    """
    before = ctx.parent
    while named is None and before is not None:
        named, before = before.params.get("named"), before.parent
    return named


def configured(verb: Callable[..., int | None]) -> Callable[..., Any]:
    """Add the options of all commands. The command receives a `Session` as its first argument.

    If root started the command, the process has already become the service's user, so it may use the database. See
    `Session.as_owner`.
    """

    @configured_as_caller
    @functools.wraps(verb)
    def command(session: Session, /, **options: Any) -> int | None:
        return verb(session.as_owner(), **options)

    return command


def configured_as_caller(verb: Callable[..., int | None]) -> Callable[..., Any]:
    """Add the options of all commands and pass a `Session`, like `configured`, but do not change the user.

    Use this decorator for a command that needs no database, or that must read files before it calls `Session.as_owner`.
    """

    @common_options
    @click.pass_context
    @functools.wraps(verb)
    def command(ctx: click.Context, /, named: Path | None, **options: Any) -> int | None:
        named = config_named(ctx, named)
        path = find_config(named)
        config = load(path)
        start_log(config)
        return verb(Session(config, path, ctx.obj, named), **options)

    return command


def start_log(config: Config, *, daemon: bool = False) -> None:
    """Set up the log according to the configuration, -v and -q. By default, only the daemon logs at level info."""
    level = config.logging.level
    level = "warning" if level == "info" and not daemon else level
    log.configure(log_level(level), config.logging.format, redact=_secrets(config))


def _secrets(config: Config) -> tuple[str, ...]:
    found = []
    for source in config.sources:
        try:
            found.append(source.token().reveal())
        except ConfigError:  # the code that needs the token reports this error
            continue
    return tuple(found)


class Natural(click.IntRange):
    """A whole number of at least 1, such as an id or a limit."""

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number: int = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a whole number from 1", param, ctx)
        return number


class Duration(click.ParamType[timedelta]):
    """A duration such as 90s, 10m or 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a duration such as 90s, 10m or 1h30m", param, ctx)


class Moment(click.ParamType[datetime]):
    """A time with its offset from UTC, or a date, which means midnight UTC on that date."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return from_text(value) if "T" in value.upper() else _midnight(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-03-01 or 2026-03-01T08:00:00Z", param, ctx)


def _midnight(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
source_option = click.option(
    "--source", "names", multiple=True, metavar="NAME", help="Use only this source; may be repeated."
)
