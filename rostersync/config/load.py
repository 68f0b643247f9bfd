"""Find and read the configuration file. One error reports all mistakes in the file."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rostersync.config.mistakes import Key, describe
from rostersync.config.model import SOURCE_NAME, Config, ConfigContext, Section
from rostersync.config.rules import between_sources, broken_rules, not_available
from rostersync.config.token import exposure
from rostersync.config.trust import why_not_trusted
from rostersync.config.urls import holds_password
from rostersync.errors import ConfigError, NotConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES = (Path("config.toml"), Path("/etc/rostersync/config.toml"))
_REGIONS = (
    "use your region's API address: https://api.managebac.com (international), https://api.managebac.cn (China), "
    "https://api.us.managebac.com or https://api.managebac.us (United States)"
)
_INIT = "run `rostersync init` to write one, or name it with --config"


def find_config(explicit: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return `explicit` if it is given, else $ROSTERSYNC_CONFIG if it is set, else the first of `PLACES` that exists.

    If the user chose a file, its path is returned even if the file does not exist, so that no other file is read
    instead. Raises `NotConfigured` if no file is found. Raises `ConfigError` if the file is in the current folder and
    another user may have written it, because the user did not choose that file.
    """
    if explicit is not None:
        return explicit
    if named := environ.get("ROSTERSYNC_CONFIG"):
        return Path(named)
    for place in PLACES:
        if place.exists():
            _require_trust(place)
            return place
    raise NotConfigured([f"no configuration found: looked for ./{PLACES[0]} and {PLACES[1]}"], _INIT)


def _require_trust(place: Path) -> None:
    if place.is_absolute():  # the configuration in /etc, which only root can write
        return
    if reason := why_not_trusted(place):
        hint = f"if this is the right file, use the option -c ./{place}"
        raise ConfigError([f"./{place} is not used: {reason}"], hint)


def exposed_password(path: Path) -> str | None:
    """Return the mode of the file at `path` if the file contains a database password that other users can read.

    In all other cases, return None.
    """
    url = _parse(path, _read(path)).get("database", {}).get("url", "")
    return exposure(path) if holds_password(url) else None


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration that is read from a file.

    Args:
        path: the path of the file. Relative paths in the file are relative to the file's folder.
        environ: the variables for `${NAME}` in `database.url`. By default, the environment variables of this process.

    Returns:
        The checked configuration. The tokens have not been read yet.

    Raises:
        NotConfigured: the file does not exist.
        ConfigError: the file cannot be read, or it has mistakes. The error has one line for each mistake.

    """
    return _checked(_parse(path, _read(path)), path, environ)


def load_new(path: Path) -> tuple[Config, list[str]]:
    """Return the configuration in a file. If no source has a `base_url`, also return a line for each source.

    If all sources lack `base_url`, they get an address that does not exist. If only some sources lack `base_url`, the
    function raises `ConfigError`, like `load`.
    """
    raw = _parse(path, _read(path))
    tables, missing = _tables(raw), _without_address(raw, path)
    if len(missing) == len(tables):
        for table in tables:
            table["base_url"] = "https://not-set.invalid"
        return _checked(raw, path, os.environ), [*missing.values()]
    return _checked(raw, path, os.environ), []


def _checked(raw: dict[str, Any], path: Path, environ: Mapping[str, str]) -> Config:
    raw.setdefault("database", {})  # so that the default path is also relative to the file's folder
    context = ConfigContext(path.absolute().parent, environ)
    config: Config | None = None
    lines: dict[Key, str] = {}
    try:
        config = Config.model_validate(raw, context=context)
    except ValidationError as error:
        lines = describe(error, Config)  # drop pydantic's error here, because it contains all values, including tokens
    missing = _without_address(raw, path)
    lines |= missing
    mistakes = [*lines.values(), *_between_settings(raw, set(lines), context)]
    if mistakes or config is None:
        raise ConfigError(mistakes, _REGIONS if len(missing) == len(mistakes) else f"correct {path}")
    return config


def _without_address(raw: Mapping[str, Any], path: Path) -> dict[Key, str]:
    """Return a dictionary from setting keys to error lines, with one line for each source without `base_url`."""
    return {
        ("sources", index, "base_url"): f"{_name(table, index)}: base_url is missing: set it in {path}"
        for index, table in enumerate(_tables(raw))
        if table.get("base_url", "") == ""
    }


def _name(table: Mapping[str, Any], index: int) -> str:
    name = table.get("name")
    usable = isinstance(name, str) and re.fullmatch(SOURCE_NAME, name, re.ASCII)
    return f"source {name}" if usable else f"sources[{index}]"


def _tables(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the [[sources]] tables of the file. If `sources` is not a list of tables, return an empty list."""
    listed = raw.get("sources")
    return listed if isinstance(listed, list) and all(isinstance(source, dict) for source in listed) else []


def _between_settings(raw: Mapping[str, Any], wrong: set[Key], context: ConfigContext) -> list[str]:
    """Return a line for each broken rule that concerns several settings.

    The settings in `wrong`, which already have a mistake, are left out of the check. The function does not raise an
    error, so that one error can report all mistakes in the file.
    """
    lines = []
    for section, field in Config.model_fields.items():
        table, model = raw.get(section), field.annotation
        if isinstance(table, dict) and isinstance(model, type) and issubclass(model, Section):
            wrong_here = {str(key[1]) for key in wrong if len(key) > 1 and key[0] == section}
            right = {key: value for key, value in table.items() if key not in wrong_here}
            lines += _within_section(section, model.model_validate(right, context=context), wrong_here)
    return [*lines, *_about_sources(raw, wrong)]


def _within_section(section: str, table: Section, wrong: set[str]) -> list[str]:
    values = {field.alias or name: getattr(table, name) for name, field in type(table).model_fields.items()}
    unavailable = [line for key, value in values.items() for line in not_available((section, key), value)]
    return [*unavailable, *broken_rules(section, table, wrong)]


def _about_sources(raw: Mapping[str, Any], wrong: set[Key]) -> list[str]:
    right = [
        {key: value for key, value in source.items() if ("sources", index, key) not in wrong}
        for index, source in enumerate(_tables(raw))
    ]
    tables = enumerate(right)
    lines = [line for n, table in tables for key in table for line in not_available(("sources", n, key), table[key])]
    return [*lines, *between_sources(right)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotConfigured([f"no configuration at {path}"], _INIT) from error
    except OSError as error:
        raise ConfigError([f"cannot read the configuration {path}: {error.strerror}"], _INIT) from error


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows put a byte order mark at the beginning
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}, line {line}: not UTF-8"], "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        where, reason = _where(str(error))
        hint = 'strings go in double quotes: key = "value"; tables in brackets: [sync]'
        raise ConfigError([f"{path}, {where}: {reason}"], hint) from error
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"], "compare it with what `rostersync init` writes") from None


def _where(message: str) -> tuple[str, str]:
    """Split a message from tomllib into the place and the reason.

    The message may contain keys and single characters of the file, but never a whole value.
    """
    match = re.fullmatch(r"(.*) \(at (line \d+, column \d+|end of document)\)", message, re.DOTALL)
    return (match[2], match[1]) if match else ("somewhere", message)
