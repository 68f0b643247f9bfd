"""Where a source's token comes from, and what makes it usable. No message here repeats a token."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rostersync.address import may_be_a_token
from rostersync.errors import CREDENTIALS_NEED_A_RESTART, ConfigError
from rostersync.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_VARIABLE = "ROSTERSYNC_TOKEN"

LARGEST_TOKEN = 4096  # bytes; longer than any token, shorter than most files named by mistake


def find_token(source: str, file: Path | None, variable: str | None, environ: Mapping[str, str]) -> Secret:
    """Return the token of `source` from the first of these places that there is.

    systemd's credential `<source>-token`, if the process was given it; `file`; `variable`, or ROSTERSYNC_TOKEN. So one
    configuration serves the service, which has the credential, and root, who has the file.
    Raises `ConfigError` when the token is missing there, or is not one.
    """
    key = f"source {source}"
    credential = _credential(source, environ)
    if credential and credential.exists():
        try:
            return token_from_file(credential, key)
        except ConfigError as error:
            hint = f"put the token and nothing else into {_origin(source, file)}; {CREDENTIALS_NEED_A_RESTART}"
            raise ConfigError(error.mistakes, hint) from error
    # A service reads no file of root's: what it lacks is the credential.
    missing = _missing_credential(source, file) if credential else ""
    if file:
        return token_from_file(file, key, missing)
    return _from_environment(variable or DEFAULT_VARIABLE, environ, key, missing)


def credential_file(source: str) -> str:
    """Return the file of root's that the service's credential is made from, where nothing else is said."""
    return f"/etc/rostersync/{source}-token"


def _credential(source: str, environ: Mapping[str, str]) -> Path | None:
    """Return where systemd's credential of `source` would be; None for a process that was given no credentials."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder, f"{source}-token") if folder else None


def _origin(source: str, file: Path | None) -> str:
    """Return the file that systemd makes the credential from: a service sees its copy only."""
    return str(file) if file and not may_be_a_token(file.name) else credential_file(source)


def _missing_credential(source: str, file: Path | None) -> str:
    path = _origin(source, file)
    return (
        f"put the token into {path}, and run `rostersync service install` again, or add the line "
        f"LoadCredential={source}-token:{path} to the unit, and then: systemctl restart rostersync"
    )


def _from_environment(name: str, environ: Mapping[str, str], key: str, missing: str) -> Secret:
    """Return the token in the variable `name`; `missing` is the hint if it is not set, in place of the usual one."""
    if not environ.get(name):
        # A name in lower case may be a token that was pasted by mistake: it is not repeated.
        shown = name if name.isupper() else "that token_env names"
        hint = "set it, or name another place with token_env or token_file (never put the token itself there)"
        raise ConfigError([f"{key}: the environment variable {shown} is not set or empty"], missing or hint)
    return token_from_text(environ[name], f"{key}: the token in the environment")


def token_from_file(path: Path, key: str, missing: str = "") -> Secret:
    """Return the token that is the only line of `path`; `missing` is the hint if it cannot be read."""
    shown = "the file that token_file names" if may_be_a_token(path.name) else str(path)
    hint = missing or f"put the token and nothing else into {shown}, and make it readable for this user"
    try:
        text = _read(path)
    except OSError as error:
        raise ConfigError([f"{key}: cannot read {shown}: {error.strerror}"], hint) from error
    except UnicodeDecodeError:
        raise ConfigError([f"{key}: {path} is not a text file"], hint) from None  # the cause would show its bytes
    return token_from_text(text, f"{key}: the token in {path}")


def exposure(path: Path) -> str | None:
    """Return the mode of a file that others than its owner can read; None when only the owner can, or there is none."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return f"{mode:04o}" if mode & (stat.S_IRGRP | stat.S_IROTH) else None


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
