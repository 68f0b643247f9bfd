"""Where a source's token comes from, and what makes it usable. No message here repeats a token."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from rostersync.address import may_be_a_token
from rostersync.config.trust import service_group
from rostersync.errors import ConfigError, NotConfigured
from rostersync.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_VARIABLE = "ROSTERSYNC_TOKEN"

LARGEST_TOKEN = 4096  # bytes; longer than any token, shorter than most files named by mistake


def find_token(
    source: str, file: Path | None, variable: str | None, folder: Path | None, environ: Mapping[str, str]
) -> Secret:
    """Return the token of a source from the first of four places.

    A place that the source names is the only one for it. Without one, a missing file in `folder` leaves the variable.

    Args:
        source: the source's name.
        file: `token_file` of the source.
        variable: `token_env` of the source.
        folder: `tokens_dir`, which may have a file NAME-token.
        environ: the environment, whose ROSTERSYNC_TOKEN is the last place.

    Raises:
        NotConfigured: there is no token yet.
        ConfigError: the token cannot be read, or is not a token.

    """
    key = f"source {source}"
    if file:
        return token_from_file(file, key)
    if variable:
        return _from_environment(variable, environ, key)
    if folder:
        kept = token_path(folder, source)
        with suppress(NotConfigured):
            return token_from_file(kept, key)
        if not environ.get(DEFAULT_VARIABLE):
            raise NotConfigured([f"{key}: no token yet: there is no {kept}"], f"run: rostersync service token {source}")
    return _from_environment(DEFAULT_VARIABLE, environ, key)


def token_path(folder: Path, source: str) -> Path:
    """Return the file for the token of a source in `tokens_dir`."""
    return folder / f"{source}-token"


def _from_environment(name: str, environ: Mapping[str, str], key: str) -> Secret:
    if not environ.get(name):
        # A name in lower case may be a token that was pasted by mistake: it is not repeated.
        shown = name if name.isupper() else "that token_env names"
        hint = "set it, or name another place: token_file, token_env or tokens_dir (never put the token itself there)"
        raise NotConfigured([f"{key}: the environment variable {shown} is not set or empty"], hint)
    return token_from_text(environ[name], f"{key}: the token in the environment")


def token_from_file(path: Path, key: str) -> Secret:
    """Return the token that is the only line of `path`.

    Raises `NotConfigured` if there is no such file, and `ConfigError` if it cannot be read or does not hold a token.
    """
    shown = "the file that token_file names" if may_be_a_token(path.name) else str(path)
    hint = f"put the token and nothing else into {shown}, and make it readable for this user"
    try:
        text = _read(path)
    except OSError as error:
        kind = NotConfigured if isinstance(error, FileNotFoundError) else ConfigError
        raise kind([f"{key}: cannot read {shown}: {error.strerror}"], hint) from error
    except UnicodeDecodeError:
        raise ConfigError([f"{key}: {path} is not a text file"], hint) from None  # the cause would show its bytes
    return token_from_text(text, f"{key}: the token in {path}")


def exposure(path: Path) -> str | None:
    """Return the mode of a file that other users can read, else None; also None if there is no such file.

    The group of the service's own user does not count: it has no other members.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    readable = stat.S_IROTH if found.st_gid == service_group() else stat.S_IRGRP | stat.S_IROTH
    return f"{stat.S_IMODE(found.st_mode):04o}" if found.st_mode & readable else None


def _read(path: Path) -> str:
    # A pipe without a writer must not block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(LARGEST_TOKEN + 1).decode()


def token_from_text(text: str, what: str) -> Secret:
    """Return the token that is the only line of `text`; `ConfigError`, about `what`, when it is not one."""
    token = text.rstrip("\r\n")
    hint = "copy it again from ManageBac: Settings > Develop > API Manager"
    if not token:
        raise ConfigError([f"{what} is empty"], hint)
    if len(token) > LARGEST_TOKEN:
        raise ConfigError([f"{what} is longer than any token"], hint)
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError([f"{what} contains spaces, line breaks or other characters that no token has"], hint)
    return Secret(token)
