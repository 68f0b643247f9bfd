"""`rostersync init`: a configuration to begin with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rostersync.cli.options import config_named, config_option
from rostersync.config import TEMPLATE
from rostersync.errors import ConfigError


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@config_option
@click.pass_context
def command(ctx: click.Context, path: Path | None, named: Path | None) -> None:
    """Write a commented configuration to PATH (./config.toml); a file that is there already is left alone."""
    path = path or config_named(ctx, named) or Path("config.toml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError as error:
        raise ConfigError([f"{path} is there already, and is left as it is"], "name another file") from error
    except FileNotFoundError as error:
        hint = "create the folder, or name another file"
        raise ConfigError([f"cannot write {path}: there is no folder {path.parent}"], hint) from error
    except OSError as error:
        raise ConfigError([f"cannot write {path}: {os.strerror(error.errno or 0)}"], "name another file") from error
    click.echo(f"wrote {path}; now set base_url in it, put the token where it says, and run: rostersync check")
