"""The command line as a whole: its verbs, and what becomes of an error.

A verb's module is imported when the verb is used, so that `--help` and the like need not wait for libraries.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, NoReturn

import click
import structlog

from rostersync import __version__
from rostersync.clock import SystemClock
from rostersync.daemon.signals import on_signals
from rostersync.errors import ConfigError, RostersyncError, Stopped

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger()

VERBS = {
    "init": "Write a commented configuration",
    "check": "Tell whether configuration, database and API work",
    "sync": "Run each source once",
    "resync": "Read everything anew: sync --full",
    "run": "Run the daemon, in the foreground",
    "status": "Tell how fresh each source is",
    "runs": "List recent runs",
    "db": "Set up, upgrade and check the database",
    "students": "Ask the API for students",
    "simulator": "Serve a stand-in ManageBac",
    "demo": "Show it all, with invented students",
}
_BROKEN_PIPE = 128 + 13  # what a shell reports of a program that a closed pipe has ended


class Program(click.Group):
    """The verbs, found by name; every error ends as lines on standard error and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the same
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"rostersync.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:
        """Do what `args` say (the process's, by default), and exit with the status that the contract gives."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # a name in a script that the terminal cannot show is no reason to fail
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # not of every stream
        clock = SystemClock()
        with on_signals(clock):
            status = self._attempt(args, prog_name, {**extra, "obj": clock})
        sys.exit(status)

    def _attempt(self, args: Sequence[str] | None, prog_name: str | None, extra: dict[str, Any]) -> int:
        try:
            return _status(super().main(args, prog_name, **{**extra, "standalone_mode": False}))
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except RostersyncError as error:
            tell(error)
            return error.exit_status
        except Stopped as stopped:
            complain(f"stopped by {_name(stopped.signal)}; what was under way is not applied")
            return 128 + stopped.signal
        except (click.Abort, KeyboardInterrupt):
            return 128 + Signals.SIGINT
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to be flushed
            return _BROKEN_PIPE
        except Exception as error:  # noqa: BLE001 - nobody foresaw it, and nobody shall read a traceback
            log.debug("unexpected", exc_info=error)
            hint = 'run again with logging.level = "debug" for details'
            complain(f"unexpected: {type(error).__name__}; {hint}")
            return 1


def _status(result: Any) -> int:
    return result if isinstance(result, int) else 0


def _name(number: int) -> str:
    return Signals(number).name if number else "itself"


def complain(line: str) -> None:
    """Write a line to standard error."""
    click.echo(line, err=True)


def tell(error: RostersyncError, about: str = "") -> None:
    """Write an error to standard error: a line, or one for each mistake, and what to do next."""
    lines = error.mistakes if isinstance(error, ConfigError) else (error.message,)
    for line in lines:
        complain(f"{about}: {line}" if about else line)
    if error.hint:
        complain(f"hint: {error.hint}")


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-c", "--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration.")
@click.version_option(__version__, prog_name="rostersync", message="%(prog)s %(version)s")
def program(config: Path | None) -> None:  # noqa: ARG001 - the verbs look it up, see `options`
    """Keep an exact local replica of a school's ManageBac students, in SQLite or PostgreSQL.

    To begin: `rostersync demo` shows what it does; `rostersync init` writes a configuration; `rostersync check`
    tells whether it works; `rostersync sync` reads the students; `rostersync run` keeps them up to date.
    """
