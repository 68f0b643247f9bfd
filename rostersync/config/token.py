"""Find a source's token and check it. No error message in this module contains a token."""

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

LARGEST_TOKEN = 4096  # bytes; longer than any token, but shorter than most files that a user might give by mistake


def find_token(
    source: str, file: Path | None, variable: str | None, folder: Path | None, environ: Mapping[str, str]
) -> Secret:
    """Return the token of a source.

    If the source has a `token_file` or a `token_env`, only that place is read. If the source has neither, the token's
    file in `folder` is read. If there is no file for the token in `folder`, the variable ROSTERSYNC_TOKEN is read.

    Args:
        source: the source's name.
        file: the source's setting `token_file`, or None.
        variable: the source's setting `token_env`, or None.
        folder: the setting `tokens_dir`, or None. The file NAME-token in this folder contains the token of the source
            NAME.
        environ: the environment variables.

    Returns:
        The token, as a `Secret` that does not show its value.

    Raises:
        NotConfigured: no token has been given yet.
        ConfigError: the token cannot be read, or the file or the variable contains something that is not a token.

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
    """Return the path of a source's token in `folder`, which is `tokens_dir`."""
    return folder / f"{source}-token"


def _from_environment(name: str, environ: Mapping[str, str], key: str) -> Secret:
    if not environ.get(name):
        # Do not show a name that contains lower-case letters, because it may be a token that was pasted by mistake.
        shown = name if name.isupper() else "that token_env names"
        hint = "set it, or name another place: token_file, token_env or tokens_dir (never put the token itself there)"
        raise NotConfigured([f"{key}: the environment variable {shown} is not set, or is empty"], hint)
    return token_from_text(environ[name], f"{key}: the token in the environment")


def token_from_file(path: Path, key: str) -> Secret:
    """Return the token that is the only line of the file at `path`. Error messages begin with `key`.

    Raises `NotConfigured` if the file does not exist. Raises `ConfigError` if the file cannot be read, or if it
    contains anything other than one token.
    """
    shown = "the file that token_file names" if may_be_a_token(path.name) else str(path)
    hint = f"put the token and nothing else into {shown}, and let this user read it"
    try:
        text = _read(path)
    except OSError as error:
        kind = NotConfigured if isinstance(error, FileNotFoundError) else ConfigError
        raise kind([f"{key}: cannot read {shown}: {error.strerror}"], hint) from error
    except UnicodeDecodeError:
        raise ConfigError(
            [f"{key}: {path} is not a text file"], hint
        ) from None  # the original exception contains the file's bytes
    return token_from_text(text, f"{key}: the token in {path}")


def exposure(path: Path) -> str | None:
    """Return the mode of a file if users other than its owner can read it. Otherwise return None.

    If the file does not exist, return None too.

    The service's group is allowed to read the file, because only the service's own user is a member of this group.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    readable = stat.S_IROTH if found.st_gid == service_group() else stat.S_IRGRP | stat.S_IROTH
    return f"{stat.S_IMODE(found.st_mode):04o}" if found.st_mode & readable else None


def _read(path: Path) -> str:
    # Without O_NONBLOCK, opening a named pipe would block until another process opens the pipe for writing.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(LARGEST_TOKEN + 1).decode()


def token_from_text(text: str, what: str) -> Secret:
    """Return the token that is the only line of `text`.

    Raises `ConfigError` if `text` is not a single line with a token. `what` is the subject of the error message.
    """
    token = text.rstrip("\r\n")
    hint = "copy it again from ManageBac: Settings > Develop > API Manager"
    if not token:
        raise ConfigError([f"{what} is empty"], hint)
    if len(token) > LARGEST_TOKEN:
        raise ConfigError([f"{what} is longer than any token"], hint)
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError([f"{what} contains spaces, line breaks or other characters that no token has"], hint)
    return Secret(token)
