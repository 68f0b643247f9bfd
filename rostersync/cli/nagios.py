"""Report the state as a Nagios plugin does, with one line on standard output and an exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.output import echo
from rostersync.errors import Stopped, reported

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class MonitoredCommand(click.Command):
    """A command that, with --nagios, reports an error as one line on standard output and exits with status 3."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        nagios = "--nagios" in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if not nagios:
                raise
            ctx.exit(answer(UNKNOWN, error.format_message()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Stopped:
            raise
        except Exception as error:
            if not ctx.params["for_monitor"]:
                raise
            return answer(UNKNOWN, reported(error).message)


def answer(status: int, text: str, perfdata: Sequence[str] = ()) -> int:
    """Print the line of a Nagios plugin, and return the exit status. `|` separates the message from the perfdata."""
    word, text = _WORDS[status], text.replace("|", "/")
    echo(f"ROSTERSYNC {word} - {text}", f" | {' '.join(perfdata)}" if perfdata else "")
    return status
