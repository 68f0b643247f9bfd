"""The options -v and -q, which set how much a command prints and logs.

The user may give these options before or after the command's name. The options are cumulative, so one -q cancels one
-v.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY = "rostersync.verbosity"
_LEVELS = ("debug", "info", "warning", "error")


def verbosity_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v and -q to a command. These options are not passed to the command's function."""
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=lambda ctx, _, times: _add(ctx, times),
        help="Log more: -v logs level info, and -vv level debug. `run` logs level info even without -v.",
    )
    quiet = click.option(
        "-q",
        "--quiet",
        count=True,
        expose_value=False,
        callback=lambda ctx, _, times: _add(ctx, -times),
        help="Print only results and errors, without progress, success messages and notes. Log only errors.",
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
    """Return the lowest level that the running command logs. `usual` is the level if neither -v nor -q is given."""
    more = _verbosity()
    return "error" if more < 0 else _LEVELS[max(0, _LEVELS.index(usual) - more)]
