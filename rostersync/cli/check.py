"""`rostersync check`: test whether the database, the tokens and the APIs in the configuration work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from rostersync.cli.checkup import Finding, examine, examine_file, failed
from rostersync.cli.options import common_options, config_named, json_option, start_log
from rostersync.cli.output import document, echo, mark, note
from rostersync.cli.ownership import as_owner
from rostersync.config import find_config, load
from rostersync.errors import ConfigError, DatabaseUnreachable
from rostersync.store.database import tls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rostersync.cancel import CancelScope


@click.command()
@click.option(
    "--config-only", is_flag=True, help="Check only the configuration file. Contact neither the database nor an API."
)
@json_option
@common_options
@click.pass_context
def command(ctx: click.Context, named: Path | None, config_only: bool, as_json: bool) -> int:
    """Check the configuration, the tokens, the database and each source's API, and say how to fix what fails.

    The command changes nothing. The check of an API requests one student. With --config-only, the command checks no
    token, and contacts neither the database nor an API. Exit status: 0 if everything works, 1 if a check fails, 2 if
    the configuration or a token is wrong.
    """
    findings = []
    for finding in _findings(config_named(ctx, named), ctx.obj, config_only=config_only):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        document({"ok": not any(finding.exit_status for finding in findings), "checks": [*map(_json, findings)]})
    return max(finding.exit_status for finding in findings)


def _findings(named: Path | None, scope: CancelScope, *, config_only: bool) -> Iterator[Finding]:
    try:
        path = find_config(named)
        config = load(path)
        if config_only:
            tls.require(config.database.url)
    except ConfigError as error:
        yield from failed("config", error)
        return
    start_log(config)
    # Examine the file before `as_owner` switches to another user, who may be unable to read the file.
    yield from examine_file(config, path)
    if config_only:
        return
    try:
        config = as_owner(config)
    except DatabaseUnreachable as error:
        yield from failed("database", error)
    else:
        yield from examine(config, scope)


def _json(finding: Finding) -> dict[str, object]:
    return {"ok": finding.exit_status == 0, **asdict(finding)}


def _show(finding: Finding) -> None:
    word, colour = (
        ("fail", "red") if finding.exit_status else ("warn", "yellow") if finding.warning else ("ok", "green")
    )
    say = note if word == "ok" else echo
    say(mark(word.ljust(4), colour), f"  {finding.what}: {finding.said}")
    if finding.hint:
        say(f"      {finding.hint}")
