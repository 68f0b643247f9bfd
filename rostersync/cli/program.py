"""The command line as a whole: its commands, and what becomes of an error.

A command's module is imported when it is used, so that `--help` and the like need not wait for libraries.
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
from rostersync.cli.output import echo
from rostersync.cli.signals import on_signals
from rostersync.cli.verbosity import is_quiet, verbosity_options
from rostersync.clock import SystemClock
from rostersync.errors import ConfigError, RostersyncError, Stopped
from rostersync.observe.journal import is_journal, priority

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)  # the plain one: structlog takes as long to import as click

VERBS = {
    "init": "Write a commented configuration",
    "check": "Check whether configuration, database and API work",
    "sync": "Run each source once",
    "resync": "Read everything again: sync --full",
    "run": "Run the daemon, in the foreground",
    "service": "Store a token for the service of systemd",
    "verify": "Compare the replica with ManageBac",
    "status": "Show how fresh each source is, and what needs attention",
    "runs": "List recent runs, or show one",
    "source": "Forget a source that is no longer configured",
    "db": "Set up, upgrade, check, back up and restore the database",
    "grant-reader": "Let a role of PostgreSQL read the views only",
    "revoke-reader": "Take that from it again",
    "students": "Read and write students straight at the API",
    "simulator": "Serve a stand-in ManageBac",
    "demo": "Show everything, with invented students",
}
_BROKEN_PIPE = 128 + 13  # what a shell reports of a program that a closed pipe has ended


def _module(verb: str) -> str:
    return f"rostersync.cli.{verb.replace('-', '_')}"


class Program(click.Group):
    """The commands, found by name; every error ends as lines on standard error and an exit status."""

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

    def main(  # type: ignore[override] # click's may return instead of ending the process; this one never does
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run `args` (default: those of the process), and exit with the status that the contract gives."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # a name that the terminal's encoding cannot show is no reason to fail
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # not of every stream
        clock = SystemClock()
        with on_signals(clock):
            try:
                result = super().main(args, prog_name, **{**extra, "standalone_mode": False, "obj": clock})
                status = result if isinstance(result, int) else 0
            except Exception as error:  # noqa: BLE001 - here every error ends
                status = _end(error)
        sys.exit(status)


def _end(error: Exception) -> int:
    """Report what went wrong, and return its exit status."""
    status = 1
    match error:
        case click.ClickException():
            _show_usage_error(error)
            status = error.exit_code
        case RostersyncError():
            print_error(error)
            status = error.exit_status
        case Stopped():
            goes_on = "the run goes on in the process that does it: see `rostersync status`"
            rest = goes_on if error.left_running else "nothing unfinished was applied"
            print_stderr(f"stopped by {signal_name(error.signal)}; {rest}", logging.INFO)
            status = 128 + error.signal
        case click.Abort():
            status = 128 + Signals.SIGINT
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
            status = _BROKEN_PIPE
        case _:  # unforeseen; a traceback might name people
            log.debug("unexpected", exc_info=error)
            print_stderr(
                f'unexpected error: {type(error).__name__}; run again with logging.level = "debug" for details'
            )
    return status


def _show_usage_error(error: click.ClickException) -> None:
    """Print click's own lines through our door: they repeat words of the command line."""
    shown = io.StringIO()
    error.show(shown)
    usage, word, message = f"\n{shown.getvalue()}".partition("\nError: ")
    for line in usage.split("\n")[1:]:
        print_stderr(line)
    print_stderr(f"{word}{message}".strip())


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGINT; "itself" for 0, where no signal stopped the process."""
    return Signals(number).name if number else "itself"


def print_stderr(line: str, level: int = logging.ERROR) -> None:
    """Write a line to standard error, with -q only an error; systemd's journal gets the priority of `level` as well."""
    if is_quiet() and level < logging.ERROR:
        return
    echo(priority(level) if is_journal(sys.stderr) else "", line, err=True)


def print_error(error: RostersyncError, about: str = "") -> None:
    """Write an error to standard error: a line, or one for each mistake, and what to do next."""
    lines = error.mistakes if isinstance(error, ConfigError) else (error.message,)
    for line in lines:
        print_stderr(f"{about}: {line}" if about else line)
    if error.hint:
        print_stderr(f"hint: {error.hint}")


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-c", "--config", "named", type=click.Path(path_type=Path), metavar="FILE", help="The configuration.")
@verbosity_options
@click.version_option(__version__, prog_name="rostersync", message="%(prog)s %(version)s")
def program(named: Path | None) -> None:
    """Keep an exact local replica of a school's ManageBac students, in SQLite or PostgreSQL.

    To begin: `rostersync demo` shows what it does; `rostersync init` writes a configuration; `rostersync check`
    tells you what to fix; `rostersync sync` reads the students; `rostersync run` keeps them up to date.
    """
