"""`rostersync simulator`: a stand-in ManageBac on loopback, to try things out."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import config_option
from rostersync.cli.program import print_stderr
from rostersync.errors import RostersyncError, Stopped
from rostersync.simulator import App, School, Server, Switches, activity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rostersync.clock import Clock

_ORDERS = ("id", "-id", "updated_at", "-updated_at", "random")
_FEEDS = ("full", "full_deleted_at", "stub", "ignored", "empty")


@click.command()
@click.option("--students", type=click.IntRange(0, 1_000_000), default=1200, show_default=True, help="How many.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same school.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0, the default: any free one.")
@click.option("--token", default="simulator-token", show_default=True, help="The token it accepts.")
@click.option(
    "--churn", type=click.FloatRange(0, 6000), default=0.0, metavar="PER_MINUTE", help="Changes to students per minute."
)
@click.option("--order", type=click.Choice(_ORDERS), default="id", show_default=True, help="Order of the list.")
@click.option(
    "--deleted-feed",
    type=click.Choice(_FEEDS),
    default="full",
    show_default=True,
    help="What the deleted feed answers.",
)
@click.option(
    "--per-page-cap", type=click.IntRange(1, 200), default=200, show_default=True, help="Most rows of a page."
)
@click.option("--clock-skew", type=float, default=0.0, metavar="SECONDS", help="How far its clock is ahead.")
@click.option(
    "--late-commit", type=float, default=0.0, metavar="SECONDS", help="Delay from a change to its appearance."
)
@click.option("--nulls", is_flag=True, help="Render fields without a value as null.")
@config_option
@click.pass_obj
def command(
    clock: Clock,
    /,
    *,
    students: int,
    seed: int,
    port: int,
    token: str,
    churn: float,
    named: Path | None,  # noqa: ARG001 - all commands take it; this one needs none
    **switches: Any,
) -> None:
    """Serve a stand-in ManageBac on this machine, with invented students, until Ctrl-C."""
    school = School(seed, students, clock, _switches(**switches))
    with serving(App(school, token), port) as base_url:
        click.echo(f'# a source for the configuration:\n[[sources]]\nname = "simulator"\nbase_url = "{base_url}"\n')
        click.echo(f"# and its token, for the shell:\nexport ROSTERSYNC_TOKEN={token}\n")
        print_stderr(f"{students:,} students at {base_url}; Ctrl-C to stop")
        try:
            _live(school, clock, churn, random.Random(seed))  # noqa: S311 - a simulation that must repeat
        except Stopped:
            print_stderr("stopped")


def _switches(*, late_commit: float, **switches: Any) -> Switches:
    return Switches(late_commit_seconds=late_commit, **switches)


@contextmanager
def serving(app: App, port: int = 0) -> Iterator[str]:
    """Serve `app` on loopback; yields its base_url. Raises `RostersyncError` when the port is in use."""
    try:
        server = Server(app, port=port)
    except OSError as error:
        raise RostersyncError(f"cannot listen on port {port}: {error.strerror}", "choose another --port") from error
    with server:
        yield server.base_url


def _live(school: School, clock: Clock, per_minute: float, rng: random.Random) -> None:
    """Change students, `per_minute` times a minute, until `Stopped` is raised."""
    while True:
        clock.sleep(60 / per_minute if per_minute else 3600)
        if per_minute:
            activity.churn(school, rng, 1)
