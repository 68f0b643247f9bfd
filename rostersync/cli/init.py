"""`rostersync init`: write a configuration file that the user can complete."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rostersync.cli.options import common_options, config_named
from rostersync.cli.output import note
from rostersync.config import TEMPLATE
from rostersync.errors import ConfigError


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@common_options
@click.pass_context
def command(ctx: click.Context, path: Path | None, named: Path | None) -> None:
    """Write a configuration with comments to PATH (default: ./config.toml). An existing file is not overwritten."""
    path = path or config_named(ctx, named) or Path("config.toml")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # an unusual umask may have removed the owner's own permissions
            file.write(TEMPLATE)
    except FileExistsError as error:
        raise ConfigError([f"{path} already exists, and was not overwritten"], "choose another name") from error
    except FileNotFoundError as error:
        hint = "create the folder, or choose another path"
        raise ConfigError([f"cannot write {path}: the folder {path.parent} does not exist"], hint) from error
    except OSError as error:
        raise ConfigError([f"cannot write {path}: {os.strerror(error.errno or 0)}"], "choose another path") from error
    note(f"wrote {path}; now set base_url in it, store the token where the file says, and run: rostersync check")
