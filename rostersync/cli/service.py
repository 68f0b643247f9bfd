"""`rostersync service`: store a token for the systemd service, and check what the service still lacks."""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rostersync.cli.options import common_options, config_named, configured_as_caller, unknown_source
from rostersync.cli.output import ask_secret, note
from rostersync.cli.program import print_stderr
from rostersync.config import find_config, load_new, shared_place
from rostersync.config.token import LARGEST_TOKEN, token_from_file, token_from_text, token_path
from rostersync.config.trust import service_group
from rostersync.errors import ConfigError, NotConfigured, RostersyncError
from rostersync.runs.wiring import token_mistakes
from rostersync.store.database.files import NotPlain, is_plain

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.secret import Secret


@click.group()
def command() -> None:
    """Store a token for the systemd service, or show what the service still lacks."""


# The token -------------------------------------------------------------------------------------------------------


@command.command("token")
@click.argument("name")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="A file with the token.")
@configured_as_caller
def token(session: Session, name: str, token_file: Path | None) -> None:
    """Store the token of the source NAME in tokens_dir. An earlier token is replaced.

    Without --token-file, the command reads the token from standard input. If standard input is a terminal, the command
    asks for the token.
    """
    known = [source.name for source in session.config.sources]
    if name not in known:
        raise ConfigError([unknown_source(name, known)], f"add a [[sources]] with this name to {session.path} first")
    folder = session.config.tokens_dir
    if folder is None:
        hint = 'set it before the first [table], such as tokens_dir = "/etc/rostersync/tokens"'
        raise ConfigError([f"tokens_dir is not set in {session.path}"], hint)
    path = token_path(folder, name)
    _require_safe(path)
    value = token_from_file(token_file, "--token-file") if token_file else _given(name)
    try:
        _write(path, value)
    except OSError as error:
        raise RostersyncError(f"cannot write {path}: {error.strerror}", _who_may(folder)) from error
    note(f"stored the token in {path}; now run: systemctl reload-or-restart rostersync")


def _who_may(folder: Path) -> str:
    return f"run it as a user who may write {folder}, such as root"


def _given(name: str) -> Secret:
    if sys.stdin.isatty():
        return token_from_text(ask_secret(f"Token of the source {name} (not shown)"), f"source {name}: the token")
    text = sys.stdin.buffer.read(LARGEST_TOKEN + 1).decode(errors="replace")
    return token_from_text(text, f"source {name}: the token from standard input")


def _require_safe(path: Path) -> None:
    """Raise `RostersyncError` if the folder is missing or others may write to it, or if `path` is not a plain file."""
    folder = path.parent
    try:
        place = shared_place(folder)
        is_plain(path)
    except NotPlain as error:
        raise RostersyncError(f"{path} is {error.strerror}", NotPlain.HINT) from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = f"create the folder: install -d -m 700 {folder}" if missing else _who_may(folder)
        raise RostersyncError(f"tokens_dir: cannot use {folder}: {error.strerror}", hint) from error
    if place:
        raise RostersyncError(f"tokens_dir: other users may write {place}", f"let only the owner of {place} write it")


def _write(path: Path, value: Secret) -> None:
    """Write the token to a new file, and rename that file to `path`, so that `path` never contains an incomplete token.

    The file's owner can always read the file. The folder's group can read the file if the group has access to the
    folder, and is either the service's group or the only group with access, as in /etc/rostersync/tokens. No other user
    can read the file.
    """
    folder = path.parent.stat()
    shared = folder.st_mode & stat.S_IRWXG and (folder.st_gid == service_group() or not folder.st_mode & stat.S_IRWXO)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(f"{value.reveal()}\n".encode())
            if shared:
                os.fchown(file.fileno(), -1, folder.st_gid)
                os.fchmod(file.fileno(), 0o640)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 - both are paths in the same folder
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - the same
        raise


# What the unit needs to start ------------------------------------------------------------------------------------


@command.command("ready")
@common_options
@click.pass_context
def ready(ctx: click.Context, named: Path | None) -> int:
    """Print whether a new installation still lacks an address or a token.

    The systemd service starts only if it has an address and a token. Exit status: 0 if nothing is missing, 1 if
    something is missing. The status is also 0 if the configuration has mistakes, so that systemd starts the service,
    which logs the mistakes and fails.
    """
    try:
        lines = _missing(find_config(config_named(ctx, named)))
    except NotConfigured as error:
        lines = [*error.mistakes]
    except ConfigError:
        lines = []
    for line in lines:
        print_stderr(line, logging.WARNING)
    return 1 if lines else 0


def _missing(path: Path) -> list[str]:
    config, lines = load_new(path)
    errors = [*token_mistakes(config.sources).values()]
    if len(errors) == len(config.sources) and all(isinstance(error, NotConfigured) for error in errors):
        lines += [f"{line}; {error.hint}" for error in errors for line in error.mistakes]
    return lines
