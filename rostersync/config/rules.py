"""Check for settings that contradict each other, that this version does not support, or that are unwise."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.config.cron import Cron
from rostersync.config.mistakes import find_field, spell_key
from rostersync.config.model import Config
from rostersync.config.timing import spell_duration
from rostersync.config.token import DEFAULT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

# Settings of planned features. Any value other than the default is refused until the feature exists.
NOT_AVAILABLE = (
    ("privacy", "exclude"),
    ("retention", "deleted"),
    ("retention", "history"),
    ("retention", "runs"),
    ("reporting", "copy"),
    ("http", "listen"),
    ("alerts", "urls"),
    ("alerts", "after_failures"),
    ("alerts", "ping_url"),
)


def not_available(key: tuple[int | str, ...], value: Any) -> list[str]:
    """Return an error line if `value` would switch on a feature that this version does not have."""
    field = find_field(key, Config)
    names = tuple(step for step in key if isinstance(step, str))
    if field is None or names not in NOT_AVAILABLE or value == field.default:
        return []
    default = _as_toml(field.default)
    return [f"{spell_key(key)}: not available in this version; remove it or leave it at its default {default}"]


def _as_toml(value: Any) -> str:
    if isinstance(value, timedelta):
        return f'"{spell_duration(value)}"'
    return {(): "[]", "": '""'}.get(value, str(value))


# Rules across settings -------------------------------------------------------------------------------------------


class Rule(msgspec.Struct, frozen=True):
    """A rule that concerns several settings of one section.

    `broken` returns an error line, or None if the settings obey the rule. `broken` is called only if all settings in
    `keys` are valid.
    """

    section: str
    keys: tuple[str, ...]
    broken: Callable[[Any], str | None]


def _timeout(sync: Any) -> str | None:
    if sync.timeout < sync.run_deadline:
        return None
    found, limit = spell_duration(sync.timeout), spell_duration(sync.run_deadline)
    return f'sync.timeout: found "{found}"; expected less than sync.run_deadline ("{limit}")'


RULES = (Rule("sync", ("timeout", "run_deadline"), _timeout),)


def broken_rules(section: str, table: BaseModel, wrong: set[str]) -> list[str]:
    """Return an error line for each rule that `table` breaks. A rule is skipped if one of its keys is in `wrong`."""
    rules = (rule for rule in RULES if rule.section == section and wrong.isdisjoint(rule.keys))
    return [line for rule in rules if (line := rule.broken(table))]


def between_sources(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return an error line for each source that has both token_env and token_file, and for each duplicate name.

    `sources` has the tables as they are in the file.
    """
    both = [index for index, source in enumerate(sources) if "token_env" in source and "token_file" in source]
    lines = [f"sources[{index}]: found both token_env and token_file; expected one of them" for index in both]
    # Names that differ only in case count as duplicates. Lock files and token files contain the source's name, and some
    # file systems ignore case.
    names = [str(source.get("name", "")).casefold() for source in sources]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            first = names.index(name)
            lines.append(f"sources[{index}].name: found the same name as sources[{first}]; expected another one")
    return lines


# Allowed, but unwise ---------------------------------------------------------------------------------------------

_ACCEPTABLE = timedelta(hours=1)
_SAFE_OVERLAP = timedelta(minutes=1)


def warnings(config: Config) -> list[str]:
    """Return a warning for each valid setting that ManageBac advises against or that is probably a mistake."""
    return [*_about_schedule(config), *_about_sync(config), *_about_guard(config), *_about_tokens(config)]


def _about_schedule(config: Config) -> list[str]:
    schedule = config.schedule
    slots = {"schedule.incremental": schedule.incremental, "schedule.full": schedule.full}
    lines = [
        f"{key}: more than once an hour; ManageBac recommends once a day; hourly is acceptable"
        for key, slot in slots.items()
        if _is_hasty(slot)
    ]
    if isinstance(schedule.incremental, timedelta) and schedule.jitter >= schedule.incremental:
        lines.append("schedule.jitter: not shorter than schedule.incremental, so some slots will be skipped")
    return lines


def _is_hasty(slot: timedelta | Cron) -> bool:
    return slot.per_day() > 24 if isinstance(slot, Cron) else slot < _ACCEPTABLE  # noqa: PLR2004 - a day has 24 hours


def _about_sync(config: Config) -> list[str]:
    lines = []
    if config.sync.overlap < _SAFE_OVERLAP:
        lines.append('sync.overlap: below "1m", so changes that the server commits late may wait for the next full run')
    interval = config.schedule.incremental
    if isinstance(interval, timedelta) and config.sync.max_age <= interval:
        lines.append("sync.max_age: not longer than schedule.incremental, so every run will be full")
    return lines


def _about_guard(config: Config) -> list[str]:
    guard = config.guard
    if 0 < guard.max_deletions < guard.floor:
        return ["guard.floor: above guard.max_deletions, so it has no effect"]
    return []


def _about_tokens(config: Config) -> list[str]:
    # A token belongs to one school, so two sources with the same token would store the same students twice.
    shared = [source for source in config.sources if source.token_file is None]
    uses = Counter((source.token_env or DEFAULT_VARIABLE, source.base_url) for source in shared if source.token_env)
    lines = [
        f"sources: {count} of them use the same token_env, so they read from the same school"
        for count in uses.values()
        if count > 1
    ]
    unnamed = [source.name for source in shared if source.token_env is None and config.tokens_dir is None]
    if len(unnamed) > 1:
        lines.append(
            f"sources {', '.join(unnamed)}: no token_env, token_file or tokens_dir; they all use {DEFAULT_VARIABLE}, "
            "so they read from the same school"
        )
    return lines
