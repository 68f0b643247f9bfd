"""Find and run the programs `pg_dump` and `pg_restore`, and report their errors.

We pass the parameters of the connection to the programs as environment variables, because every user of the machine can
read the arguments of a process. We do not pass on other environment variables, which may contain a token, except a few
that the programs need.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

from rostersync.errors import StoreError
from rostersync.store.database import tls

if TYPE_CHECKING:
    from collections.abc import Iterator

_PASSED_ON = ("PATH", "HOME", "TMPDIR")


def find(program: str, at_least: int = 0) -> str:
    """Return the path of a PostgreSQL program.

    Raises `StoreError` if the program is missing or older than `at_least`.
    """
    path = shutil.which(program)
    if path is None:
        raise StoreError(f"{program} is not installed", "apt install postgresql-client")
    said = subprocess.run(  # noqa: S603 - our own command
        [path, "--version"], capture_output=True, check=False, text=True, env=_environment()
    )
    found = re.search(r"\) (\d+)", said.stdout)
    if not found or int(found[1]) < at_least:
        version = f"version {found[1]}" if found else "an unknown version"
        message = f"{path} has {version}, which is too old for the server's version {at_least}"
        raise StoreError(message, f"apt install postgresql-client-{at_least}")
    return path


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"LC_ALL": "C"}


def way_to_server(url: str) -> tuple[dict[str, str], list[str]]:
    """Return the environment and the arguments that make a program connect to `url` in the same way as our engine.

    If the server must prove its identity by authentication, we pass `require_auth` as an argument. libpq versions
    before 16 would ignore the environment variable for `require_auth`, and connect without requiring proof. If
    `require_auth` is passed as an argument, an old libpq refuses to connect, because it does not know this parameter.
    Raises `ConfigError` in the same cases as `tls.parameters`.
    """
    from psycopg import pq  # noqa: PLC0415 - installed for PostgreSQL only

    given = tls.url_parameters(make_url(url))
    given |= tls.parameters(given)
    variables = {known.keyword.decode(): known.envvar.decode() for known in pq.Conninfo.get_defaults() if known.envvar}
    ours = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    passed = {variables[name]: str(value) for name, value in given.items() if name in variables}
    proof = [f"--dbname=require_auth={given['require_auth']}"] if "require_auth" in given else []
    return {**_environment(), "PGCONNECT_TIMEOUT": "10", **ours, **passed}, proof


@contextmanager
def running(command: list[str], failure: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, run the block, and wait until the program ends. If the block raises an error, kill the program.

    Raises `StoreError` if the program fails. The message contains `failure`, the program's name, and the first line of
    the program's error output. If the program's error output is empty, the message contains the exit status instead.
    """
    with tempfile.TemporaryFile() as errors:
        options = {"stdin": subprocess.DEVNULL, "env": _environment(), **options}
        with subprocess.Popen(command, stderr=errors, **options) as process:  # noqa: S603 - our own command
            try:
                yield process
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            name = Path(command[0]).name
            said = errors.readline(1000).decode(errors="replace").strip().removeprefix(f"{name}: error: ")
            too_old = "use the server's socket in database.url, or install postgresql-client 16 or later"
            hint = too_old if "require_auth" in said else "nothing was changed"
            raise StoreError(f"{failure}: {name}: {said or f'exit status {process.returncode}'}", hint)
