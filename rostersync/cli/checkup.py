"""Examine the configuration, the tokens, the database and each source's API for `check`, and change nothing."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from rostersync.config import exposed_password, shared_place_of_command, warnings
from rostersync.config.token import exposure
from rostersync.errors import ConfigError, Forbidden, RostersyncError, Unauthorized
from rostersync.records import Query
from rostersync.runs import wiring
from rostersync.store import probe
from rostersync.store.database import tls
from rostersync.store.database.engine import sqlite_path
from rostersync.store.schema.revisions import HEAD, Level
from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rostersync.cancel import CancelScope
    from rostersync.config import Config, Source
    from rostersync.managebac.reader import StudentReader

_TIME_LIMIT = timedelta(seconds=30)


class Finding(msgspec.Struct, frozen=True):
    """The result of one check. The check passed if `exit_status` is 0.

    `warning` marks a check that passed, but needs attention.
    """

    what: str
    said: str
    hint: str = ""
    exit_status: int = 0
    warning: bool = False


def failed(what: str, error: RostersyncError) -> list[Finding]:
    """Convert an error to findings. A `ConfigError` becomes one finding for each of its mistakes."""
    lines = error.mistakes if isinstance(error, ConfigError) else (error.message,)
    return [Finding(what, line.removeprefix(f"{what}: "), error.hint, error.exit_status) for line in lines]


def examine_file(config: Config, path: Path) -> Iterator[Finding]:
    """Yield the findings about the configuration that was read from `path`."""
    yield Finding("config", str(path))
    yield from (Finding("config", line, warning=True) for line in warnings(config))
    if mode := exposed_password(path):
        said = f"others can read {path} (mode {mode}), which holds the database's password"
        hint = f"run: chmod 600 {path}; or write ${{VARIABLE}} instead of the password"
        yield Finding("config", said, hint, warning=True)


def examine(config: Config, scope: CancelScope) -> Iterator[Finding]:
    """Yield the findings about the database, the hook, and each source's token and API."""
    yield from _database(config)
    yield from _hooks(config)
    quick = config.sync.model_copy(
        update={"per_page": 1, "retries": 1, "run_deadline": min(config.sync.run_deadline, _TIME_LIMIT)}
    )
    connect = wiring.connector(config.model_copy(update={"sync": quick}))
    for source in config.sources:
        try:
            yield from _secret(source)
            with connect(source.name, scope) as students:
                yield _api(source, students)
        except RostersyncError as error:
            if isinstance(error, Unauthorized):
                other = "parameter" if source.auth == "header" else "header"
                error.hint += f'; if the token is right, try auth = "{other}" for this source'
            yield from failed(f"source {source.name}", error)


# The database ----------------------------------------------------------------------------------------------------


def _database(config: Config) -> Iterator[Finding]:
    url = config.database.url
    path = sqlite_path(url)
    try:
        if path is None and (weakness := tls.weakness(url)):
            said, hint = weakness
            yield Finding("database", said, hint, warning=True)
        level = probe.level(url)
        if path is None and level in {Level.EMPTY, Level.OLDER}:
            probe.require_privileges(url)
        yield _level(config, level, path)
        if path is None:
            yield _session(url)
        elif mode := exposure(path):
            yield Finding("database", f"others can read {path} (mode {mode})", f"run: chmod 600 {path}", warning=True)
    except RostersyncError as error:
        yield from failed("database", error)


def _level(config: Config, level: Level, path: Path | None) -> Finding:
    shown = str(path) if path else config.database.shown
    if level is Level.EMPTY:
        if path and not os.access(path.parent, os.W_OK):
            hint = "create the folder, or set database.url to a folder that this user can write to"
            return Finding("database", f"cannot be created at {shown}", hint, 1)
        return Finding("database", f"{shown}: {'none yet' if path else 'empty'}; the first sync creates the tables")
    if level is Level.NEWER:
        hint = "install that version or a later one"
        return Finding("database", f"{shown}: written by a later version of rostersync", hint, 1)
    if level is Level.OLDER and not (path or config.database.auto_upgrade):
        return Finding("database", f"{shown}: has the schema of an older version", "run: rostersync db upgrade", 1)
    if level is Level.OLDER:
        return Finding("database", f"{shown}: has the schema of an older version; the next sync upgrades it")
    return Finding("database", f"{shown}: schema {HEAD}")


def _session(url: str) -> Finding:
    if probe.keeps_sessions(url):
        return Finding("database", "session locks work (no transaction-mode pooler)")
    hint = "set database.url to the server itself, or to a pooler in session mode"
    return Finding(
        "database",
        "behind a pooler in transaction mode: session locks do not work, so two processes might write at once",
        hint,
        1,
    )


# The hooks -------------------------------------------------------------------------------------------------------


def _hooks(config: Config) -> Iterator[Finding]:
    command = config.hooks.after_run
    place = shared_place_of_command(command) if command else None
    if place is None:
        return
    hint = f"let only root write {place} and everything in it"
    if os.geteuid() == 0:
        yield Finding("hooks", f"after_run is refused: users other than root may write {place}", hint, 1)
    else:
        yield Finding("hooks", f"other users may write {place}, and so decide what after_run does", hint, warning=True)


# The sources -----------------------------------------------------------------------------------------------------


def _secret(source: Source) -> Iterator[Finding]:
    what = f"source {source.name}"
    source.token()
    yield from (Finding(what, line.removeprefix(f"{what}: "), warning=True) for line in source.token_warnings())


def _api(source: Source, students: StudentReader) -> Finding:
    """Request a list that is limited to one student, and then this student by id. Rostersync needs both endpoints."""
    what = f"source {source.name}"
    page = students.first_page(Query())
    key = next((row.id for row in page.rows if row.id is not None), None)
    if key is None:
        hint = "check that the token has permission to read students"
        return Finding(what, f"{source.base_url} answers, but lists no students", hint, warning=True)
    try:
        students.get(key)
    except (Forbidden, Unauthorized) as error:
        hint = "give the token permission to read individual students, because removals cannot be confirmed otherwise"
        said = f"the token can list students, but cannot read an individual student: {error.message}"
        return Finding(what, said, hint, 1)
    students_listed = f"{count(page.total_count, 'student')} listed"
    return Finding(what, f"{source.base_url}: {students_listed}; requests for a single student work too")
