"""-v and -q: how much a command says, before or after its name. They add up, so that one takes back the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY = "rostersync.verbosity"
_LEVELS = ("debug", "info", "warning", "error")


def verbosity_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command -v and -q; it need not know of them."""
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=lambda ctx, _, times: _add(ctx, times),
        help="Log one level more: info, with -vv debug; `run` logs info by itself.",
    )
    quiet = click.option(
        "-q",
        "--quiet",
        count=True,
        expose_value=False,
        callback=lambda ctx, _, times: _add(ctx, -times),
        help="Only what was asked for, and errors: no progress, no word of success, no notes; log errors only.",
    )
    return verbose(quiet(verb))


def _add(ctx: click.Context, number: int) -> None:
    ctx.meta[_KEY] = ctx.meta.get(_KEY, 0) + number  # one for a command and the groups above it


def _verbosity() -> int:
    ctx = click.get_current_context(silent=True)
    return ctx.meta.get(_KEY, 0) if ctx else 0


def is_quiet() -> bool:
    """Tell whether the running command is to print only what was asked for, and errors."""
    return _verbosity() < 0


def log_level(usual: str) -> str:
    """Return from which level on the running command logs, where it is `usual` without -v and -q."""
    more = _verbosity()
    return "error" if more < 0 else _LEVELS[max(0, _LEVELS.index(usual) - more)]
