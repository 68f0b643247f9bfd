"""The options -v and -q set how much a command prints and logs.

They may come before or after the command's name. All of them are added up, so one -q cancels one -v.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY = "rostersync.verbosity"
_LEVELS = ("debug", "info", "warning", "error")


def verbosity_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v and -q to a command. The command itself does not receive them."""
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=lambda ctx, _, times: _add(ctx, times),
        help="Log more: -v logs info, and -vv debug. `run` logs info anyway.",
    )
    quiet = click.option(
        "-q",
        "--quiet",
        count=True,
        expose_value=False,
        callback=lambda ctx, _, times: _add(ctx, -times),
        help="Print only results and errors: no progress, no success messages and no notes. Log only errors.",
    )
    return verbose(quiet(verb))


def _add(ctx: click.Context, number: int) -> None:
    ctx.meta[_KEY] = ctx.meta.get(_KEY, 0) + number  # `meta` is shared by a command and the groups above it


def _verbosity() -> int:
    ctx = click.get_current_context(silent=True)
    return ctx.meta.get(_KEY, 0) if ctx else 0


def is_quiet() -> bool:
    """Return whether the running command should print only results and errors."""
    return _verbosity() < 0


def log_level(usual: str) -> str:
    """Return the lowest level that the running command logs. `usual` is that level without -v and -q."""
    more = _verbosity()
    return "error" if more < 0 else _LEVELS[max(0, _LEVELS.index(usual) - more)]
