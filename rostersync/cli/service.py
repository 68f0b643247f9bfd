"""`rostersync service`: this installation as a service of systemd."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rostersync.address import Wrong, api_url
from rostersync.cli.options import config_named
from rostersync.cli.output import ask_secret, echo, note
from rostersync.cli.verbosity import verbosity_options
from rostersync.config.token import LARGEST_TOKEN, credential_file, token_from_file, token_from_text
from rostersync.daemon import installation
from rostersync.daemon.installation import Token
from rostersync.daemon.places import CONFIG, Machine, this_program
from rostersync.daemon.settings import API, absent_credentials, settings
from rostersync.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from rostersync.daemon.installation import Plan
    from rostersync.daemon.settings import Settings
    from rostersync.daemon.steps import Step
    from rostersync.secret import Secret

MACHINE = Machine()


def _base_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        return value and api_url(value)
    except Wrong as error:
        raise click.BadParameter(str(error)) from None


@click.group()
def command() -> None:
    """Install the daemon as a service of systemd, or take the service away."""


@command.command("install")
@click.option("--base-url", metavar="URL", callback=_base_url, help=f"The API of your region. Default: {API}.")
@click.option(
    "-c", "--config", "named", type=click.Path(path_type=Path), metavar="FILE", help=f"Copied to {CONFIG}, if new."
)
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="The token; also to replace it.")
@click.option("--dry-run", is_flag=True, help="Show what would be done and written, and change nothing.")
@verbosity_options
@click.pass_context
def install(
    ctx: click.Context, base_url: str | None, named: Path | None, token_file: Path | None, dry_run: bool
) -> int:
    """Install this installation of rostersync as a service of systemd, and start it; needs root.

    Writes the unit, its user, a configuration where there is none, and the token of each source, where it is not there
    yet: from --token-file, else from standard input, else asked for. What is right is left as it is, so it can be run
    again; a unit that somebody edited is not overwritten.
    """
    _require_root("install", dry_run)
    program = this_program()
    installation.require_possible(MACHINE, program)
    now = installation.state()
    if now.reason and not dry_run:
        raise ServiceError(now.reason, "a service needs a machine that systemd runs")
    chosen = settings(MACHINE, config_named(ctx, named), base_url)
    tokens = _tokens(chosen, token_file, dry_run=dry_run)
    plan = installation.plan_install(MACHINE, program, chosen, tokens, now)
    _carry_out(plan, dry_run=dry_run, nothing="installed already: nothing to change")
    return 0 if dry_run else _tell_state()


@command.command("uninstall")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@verbosity_options
def uninstall(dry_run: bool) -> None:
    """Stop the service, and take away its unit and the tokens; needs root.

    Configuration, data and the user rostersync stay, and so does a unit that somebody edited.
    """
    _require_root("uninstall", dry_run)
    plan = installation.plan_uninstall(MACHINE, installation.state())
    _carry_out(plan, dry_run=dry_run, nothing="no service here: nothing to take away")


def _require_root(verb: str, dry_run: bool) -> None:
    if os.geteuid() != 0 and not dry_run:
        raise ServiceError(f"service {verb} needs root", "run it with sudo; --dry-run shows what it would do")


def _carry_out(plan: Plan, *, dry_run: bool, nothing: str) -> None:
    for step in plan.steps:
        infinitive, past = step.verb
        if dry_run:
            echo(f"would {infinitive} {step.what}")
            for line in step.text.splitlines():
                echo(f"    {line}")
        else:
            _do(step)
            note(f"{past} {step.what}")
    for line in (*(() if plan.steps else (nothing,)), *plan.notes):
        note(line)


def _do(step: Step) -> None:
    try:
        step.carry_out()
    except OSError as error:
        raise ServiceError(
            f"cannot {step.verb[0]} {step.what}: {error.strerror}", "fix that, and run it again"
        ) from error


def _tell_state() -> int:
    now = installation.state()
    if not now.runs:
        raise ServiceError(now.line, "see why: journalctl -u rostersync -n 20")
    note(now.line)
    return 0


# Tokens ----------------------------------------------------------------------------------------------------------


def _tokens(chosen: Settings, file: Path | None, *, dry_run: bool) -> dict[str, Token]:
    """Return the tokens that are to be written. Raises `ConfigError` where one is missing, or is none."""
    absent = absent_credentials(MACHINE, chosen)
    missing = [name for name, token in absent.items() if token is None]
    tokens = {name: Token(token, "the token that the configuration leads to") for name, token in absent.items()}
    if file is not None:
        name = _only(missing or [source.name for source in chosen.config.sources])
        tokens[name] = Token(token_from_file(file, "--token-file"), f"the token in {file}")
        missing = []
    if missing and not sys.stdin.isatty():
        name = _only(missing)
        tokens[name] = Token(None if dry_run else _read(name), "the token from standard input")
        missing = []
    for name in missing:
        tokens[name] = Token(None if dry_run else _asked(name), "the token, which is asked for")
    return tokens


def _only(names: list[str]) -> str:
    """Return the one source that a single token is for."""
    if len(names) == 1:
        return names[0]
    files = " and ".join(credential_file(name) for name in names)
    raise ConfigError([f"one token, and {len(names)} sources: {', '.join(names)}"], f"put their tokens into {files}")


def _asked(name: str) -> Secret:
    return token_from_text(ask_secret(f"Token of the source {name} (not shown)"), f"source {name}: the token")


def _read(name: str) -> Secret:
    text = sys.stdin.buffer.read(LARGEST_TOKEN + 1).decode(errors="replace")
    if not text:
        hint = "give it with --token-file FILE or on standard input, or run this on a terminal"
        raise ConfigError([f"source {name}: no token yet"], hint)
    return token_from_text(text, f"source {name}: the token from standard input")
