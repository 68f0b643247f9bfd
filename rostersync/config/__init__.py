"""The configuration. `load` returns a frozen `Config`, or raises a `ConfigError` that lists every mistake."""

from rostersync.config.cron import Cron
from rostersync.config.load import exposed_password, find_config, load, load_new
from rostersync.config.model import (
    Config,
    Schedule,
    Source,
)
from rostersync.config.rules import warnings
from rostersync.config.template import TEMPLATE
from rostersync.config.timing import parse_duration, spell_duration
from rostersync.config.token import DEFAULT_VARIABLE
from rostersync.config.trust import SERVICE_USER, shared_place, shared_place_of_command

__all__ = [
    "DEFAULT_VARIABLE",
    "SERVICE_USER",
    "TEMPLATE",
    "Config",
    "Cron",
    "Schedule",
    "Source",
    "exposed_password",
    "find_config",
    "load",
    "load_new",
    "parse_duration",
    "shared_place",
    "shared_place_of_command",
    "spell_duration",
    "warnings",
]
