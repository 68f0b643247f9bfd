"""The command `rostersync`, which finds its subcommands and turns each error into messages and an exit status.

A subcommand's module is imported only when it is used, so that `--help` need not wait for libraries.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rostersync import __version__
from rostersync.cancel import CancelScope
from rostersync.cli.output import echo
from rostersync.cli.signals import on_signals
from rostersync.cli.verbosity import is_quiet, verbosity_options
from rostersync.clock import SystemClock
from rostersync.errors import ConfigError, RostersyncError, Stopped
from rostersync.observe.journal import is_journal, priority

if TYPE_CHECKING:
    from collections.abc import Sequence

# This is a logger of the standard library, because importing structlog takes as long as importing click.
log = logging.getLogger(__name__)

VERBS = {
    "init": "Write a commented configuration",
    "check": "Check whether the configuration, the database and the API work",
    "sync": "Run each source once",
    "resync": "Read all students again, like sync --full",
    "run": "Run the daemon in the foreground",
    "service": "Store a token for the systemd service, or show what the service lacks",
    "verify": "Compare the replica with ManageBac",
    "status": "Show how fresh each source is, and what needs attention",
    "runs": "List recent runs, or show one",
    "source": "Delete the data of a source that is no longer configured",
    "db": "Set up, upgrade, check, back up and restore the database",
    "grant-reader": "Let a PostgreSQL role read the views, and nothing else",
    "revoke-reader": "Revoke a PostgreSQL role's right to read the views",
    "students": "Read and write students directly in ManageBac",
    "simulator": "Start a stand-in for ManageBac, with invented students",
    "demo": "Show how rostersync works, with invented students",
}
_BROKEN_PIPE = 128 + 13  # the exit status that a shell reports if SIGPIPE has ended a program


def _module(verb: str) -> str:
    return f"rostersync.cli.{verb.replace('-', '_')}"


class Program(click.Group):
    """The group of all commands, which reports every error on standard error and exits with the error's exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the same
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(_module(cmd_name)).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def main(  # type: ignore[override] # click's method may return; this one always ends the process
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command in `args` (default: the process's arguments), and exit with its status."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # do not fail on a name that the terminal's encoding cannot show
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # some streams lack it
        scope = CancelScope(SystemClock())
        with on_signals(scope):
            try:
                result = super().main(args, prog_name, **{**extra, "standalone_mode": False, "obj": scope})
                status = result if isinstance(result, int) else 0
            except Exception as error:  # noqa: BLE001 - `_end` reports every error
                status = _end(error)
        sys.exit(status)


def _end(error: Exception) -> int:
    """Report an error, and return its exit status."""
    status = 1
    match error:
        case click.ClickException():
            _show_usage_error(error)
            status = error.exit_code
        case RostersyncError():
            print_error(error)
            status = error.exit_status
        case Stopped():
            goes_on = "the run continues in another process: see `rostersync status`"
            rest = goes_on if error.left_running else "no partial results were applied"
            print_stderr(f"stopped by {signal_name(error.signal)}; {rest}", logging.INFO)
            status = 128 + error.signal
        case click.Abort():
            status = 128 + Signals.SIGINT
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes standard output at exit
            status = _BROKEN_PIPE
        case _:  # an unexpected error. Print no traceback, because a traceback might contain people's names.
            log.debug("unexpected", exc_info=error)
            print_stderr(
                f'unexpected error: {type(error).__name__}; run again with logging.level = "debug" for details'
            )
    return status


def _show_usage_error(error: click.ClickException) -> None:
    """Print click's message through `print_stderr`, because the message repeats words that the user typed."""
    shown = io.StringIO()
    error.show(shown)
    usage, word, message = f"\n{shown.getvalue()}".partition("\nError: ")
    for line in usage.split("\n")[1:]:
        print_stderr(line)
    print_stderr(f"{word}{message}".strip())


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGINT.

    If `number` is 0, no signal stopped the process, and the function returns "itself".
    """
    return Signals(number).name if number else "itself"


def print_stderr(line: str, level: int = logging.ERROR) -> None:
    """Write a line to standard error. With -q, write only errors. In systemd's journal, the line has a priority."""
    if is_quiet() and level < logging.ERROR:
        return
    echo(priority(level) if is_journal(sys.stderr) else "", line, err=True)


def print_error(error: RostersyncError, about: str = "") -> None:
    """Write an error to standard error. A `ConfigError` has a line for each mistake. The hint comes last."""
    lines = error.mistakes if isinstance(error, ConfigError) else (error.message,)
    for line in lines:
        print_stderr(f"{about}: {line}" if about else line)
    if error.hint:
        print_stderr(f"hint: {error.hint}")


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "-c", "--config", "named", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file."
)
@verbosity_options
@click.version_option(__version__, prog_name="rostersync", message="%(prog)s %(version)s")
def program(named: Path | None) -> None:
    """Keep an exact local replica of a school's ManageBac students, in SQLite or PostgreSQL.

    To begin, run `rostersync demo`, which shows what the program does. `rostersync init` writes a configuration, and
    `rostersync check` says what to fix in it. `rostersync sync` reads the students, and `rostersync run` keeps them up
    to date.
    """
