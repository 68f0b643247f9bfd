"""`rostersync simulator`: serve a stand-in for ManageBac on the loopback interface, for experiments."""

from __future__ import annotations

import logging
import random
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from rostersync.cli.options import Natural, common_options
from rostersync.cli.output import echo, note
from rostersync.cli.program import print_stderr
from rostersync.config import parse_duration
from rostersync.errors import RostersyncError, Stopped
from rostersync.simulator import App, Faults, RateLimit, School, Server, Switches, activity, faults
from rostersync.simulator.switches import NAMES, read_switch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rostersync.cancel import CancelScope
    from rostersync.simulator.faults import Fault, Match

_ORDERS = ("id", "-id", "updated_at", "-updated_at", "random")
_FEEDS = ("full", "full_deleted_at", "stub", "ids", "ignored", "empty")

_DEFAULT_SHARE = 0.1
_TIMEOUT_S = 10

# The faults for `--fault`, each with a function that selects the affected requests. `None` as the function selects all
# requests.
_FAULTS: dict[str, tuple[Fault, Match | None]] = {
    "unavailable": (faults.http_status(503), None),
    "rate-limited": (faults.rate_limited(), None),
    "reset": (faults.unheard(), None),
    "slow": (faults.delayed(3), None),
    "cut-off": (faults.cut_off(), None),
    "html": (faults.html_200(), None),
    "lost-answer": (faults.reset(), faults.on_write),
}


class _Rate(click.ParamType[RateLimit]):
    """A number of requests and a duration, such as 60/1m."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RateLimit:
        if isinstance(value, RateLimit):
            return value
        number, _, duration = value.partition("/")
        try:
            rate = RateLimit(int(number), int(parse_duration(duration).total_seconds()))
        except (ValueError, OverflowError):
            rate = RateLimit(0, 0)
        if rate.requests < 1 or rate.seconds < 1:
            self.fail(f"{value!r} is not a number of requests and a duration, such as 60/1m", param, ctx)
        return rate


class _PlannedFault(click.ParamType[tuple[str, float]]):
    """The name of a fault and the share of the requests that it affects, such as unavailable=0.2."""

    name = "fault"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, given, share = value.partition("=")
        if name not in _FAULTS:
            self.fail(f"{name!r} is not a fault; known: {', '.join(_FAULTS)}", param, ctx)
        try:
            number = float(share) if given else _DEFAULT_SHARE
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            self.fail(f"{share!r} is not a fraction from 0 to 1", param, ctx)
        return name, number


class _Switch(click.ParamType[tuple[str, Any]]):
    """The name of a switch and its value, such as status_key=true."""

    name = "switch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, given, text = value.partition("=")
        if not given:
            self.fail(f"{value!r} is not a switch and its value, such as status_key=true", param, ctx)
        try:
            return name, read_switch(name, text)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(invoke_without_command=True)
@click.option(
    "--students", type=click.IntRange(0, 1_000_000), default=1200, show_default=True, help="The number of students."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same school.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port. The default 0 means any free port.")
@click.option("--token", default="simulator-token", show_default=True, help="The token with the admin role.")
@click.option(
    "--read-only-token",
    metavar="TOKEN",
    default="simulator-read-only-token",
    show_default=True,
    help="A token without the admin role. Reads with this token succeed, and writes get the status 403.",
)
@click.option(
    "--rate-limit",
    type=_Rate(),
    metavar="N/DURATION",
    help="Allow at most N requests in DURATION, such as 60/1m. Further requests get the status 429. Default: no limit.",
)
@click.option(
    "--fault",
    "planned",
    type=_PlannedFault(),
    multiple=True,
    metavar="NAME[=SHARE]",
    help=f"Cause this fault in a share of the requests, 0 to 1 (default {_DEFAULT_SHARE}); may be repeated. "
    f"Known: {', '.join(_FAULTS)}.",
)
@click.option(
    "--churn",
    type=click.FloatRange(0, 6000),
    default=0.0,
    metavar="PER_MINUTE",
    help="How many changes to make per minute.",
)
@click.option(
    "--order", type=click.Choice(_ORDERS), default="id", show_default=True, help="The order of students in lists."
)
@click.option(
    "--deleted-feed",
    type=click.Choice(_FEEDS),
    default="full",
    show_default=True,
    help="What the feed of deleted students returns.",
)
@click.option(
    "--per-page-cap",
    type=click.IntRange(1, 200),
    default=200,
    show_default=True,
    help="The largest number of rows on a page.",
)
@click.option(
    "--clock-skew", type=float, default=0.0, metavar="SECONDS", help="How many seconds the simulator's clock is fast."
)
@click.option(
    "--late-commit", type=float, default=0.0, metavar="SECONDS", help="How long a change takes to appear in responses."
)
@click.option("--nulls", is_flag=True, help="Return fields without a value as null, instead of leaving them out.")
@click.option(
    "--switch",
    "more",
    type=_Switch(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a behaviour that ManageBac's documentation leaves open, such as status_key=true; may be "
    f"repeated. Known: {', '.join(NAMES)}.",
)
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    students: int,
    seed: int,
    port: int,
    token: str,
    read_only_token: str,
    rate_limit: RateLimit | None,
    planned: tuple[tuple[str, float], ...],
    churn: float,
    named: Path | None,  # noqa: ARG001 - all commands accept it; this one does not need it
    more: tuple[tuple[str, Any], ...],
    **switches: Any,
) -> None:
    """Serve a stand-in for ManageBac on this machine, with invented students, until Ctrl-C.

    The simulator implements the eight student endpoints (list, get, create, update, archive, unarchive, set avatar and
    delete avatar) and /auth/permissions as ManageBac documents them. Changes are lost when the simulator ends. It sends
    no mail.

    These faults exist: unavailable (status 503), rate-limited (status 429), reset (the connection is reset before the
    request is carried out), slow (a delay of 3 seconds), cut-off (only ten bytes of the response are sent), html
    (status 200 with a web page) and lost-answer (a write is carried out, and then the connection is reset).

    `rostersync simulator delete` deletes a student while the simulator runs.
    """
    if ctx.invoked_subcommand:
        return
    scope: CancelScope = ctx.obj
    if read_only_token == token:
        raise click.UsageError("--read-only-token and --token are the same; give two different ones")
    school = School(seed, students, scope.clock, _switches(more, **switches))
    chosen = _faults(planned, _random(seed))
    app = App(school, token, chosen, read_only_token=read_only_token, rate_limit=rate_limit)
    with serving(app, port) as base_url:
        _show_source(base_url, token, read_only_token)
        print_stderr(f"{students:,} students at {base_url}; Ctrl-C to stop", logging.INFO)
        try:
            _live(school, scope, churn, _random(seed))
        except Stopped:
            print_stderr("stopped", logging.INFO)


@command.command()
@click.argument("student", metavar="ID", type=Natural(), help="The student to delete.")
@click.option("--url", required=True, help="The address that the simulator printed when it started.")
@common_options
def delete(*, student: int, url: str, named: Path | None) -> None:  # noqa: ARG001 - the same
    """Delete a student in a running simulator, as an administrator does in ManageBac's web interface."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT_S)
    try:
        connection.request("DELETE", f"/simulator/students/{student}")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        hint = "start `rostersync simulator`, and give --url the address that it prints"
        raise RostersyncError(f"no simulator answers at {url}", hint) from error
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise RostersyncError(f"there is no student {student}", "`rostersync students list` shows the ids")
    note(f"student {student} deleted")


def _show_source(base_url: str, token: str, read_only_token: str) -> None:
    """Print the lines that a configuration and a shell need to use the simulator."""
    for line in (
        "# a source for the configuration:",
        "[[sources]]",
        'name = "simulator"',
        f'base_url = "{base_url}"',
        "allow_writes = true",
        "",
        "# the token of this source, which has the admin role, to paste into the shell:",
        f"export ROSTERSYNC_TOKEN={token}",
        "",
        "# a token without the admin role, which can read, but not write:",
        f"# export ROSTERSYNC_TOKEN={read_only_token}",
        "",
        "# to delete a student, as an administrator does in ManageBac's web interface:",
        f"# rostersync simulator delete ID --url {base_url}",
        "",
    ):
        echo(line)


def _random(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the simulation must be repeatable


def _faults(planned: tuple[tuple[str, float], ...], rng: random.Random) -> Faults:
    """Return the faults to simulate. Each fault affects its share of the requests until the simulator stops."""
    chosen = Faults()
    for name, share in planned:
        fault, match = _FAULTS[name]
        chosen.add(fault, faults.sometimes(rng, share, match), times=None)
    return chosen


def _switches(more: tuple[tuple[str, Any], ...], *, late_commit: float, **switches: Any) -> Switches:
    """Return the switches from all options. A value from --switch takes precedence over the switch's own option."""
    return Switches(**(switches | {"late_commit_seconds": late_commit} | dict(more)))


@contextmanager
def serving(app: App, port: int = 0) -> Iterator[str]:
    """Serve `app` on loopback, and yield its base_url. Raise `RostersyncError` if the port cannot be used."""
    try:
        server = Server(app, port=port)
    except OSError as error:
        raise RostersyncError(f"cannot listen on port {port}: {error.strerror}", "choose another --port") from error
    with server:
        yield server.base_url


def _live(school: School, scope: CancelScope, per_minute: float, rng: random.Random) -> None:
    """Make `per_minute` changes to students each minute, until the scope is cancelled."""
    while True:
        scope.sleep(60 / per_minute if per_minute else 3600)
        if per_minute:
            activity.churn(school, rng, 1)
