"""`rostersync db`: upgrade and check the database's schema, write backups and restore them."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from rostersync.cli.new_file import new_file
from rostersync.cli.options import configured, configured_as_caller
from rostersync.cli.output import confirm, echo, note, progress
from rostersync.errors import ConfigError, SchemaOutdated, SchemaTooNew, StoreError
from rostersync.store import probe
from rostersync.store.backup import backup
from rostersync.store.schema.revisions import HEAD, Level

if TYPE_CHECKING:
    from rostersync.cli.options import Session


@click.group()
def command() -> None:
    """Set up, upgrade, check, back up and restore the database."""


@command.command()
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print which migrations would run, and whether readers would have to wait. Change nothing.",
)
@configured
def upgrade(session: Session, dry_run: bool) -> None:
    """Create the tables, or upgrade tables that an older version created. Replace views that were changed by hand."""
    url = session.config.database.url
    if dry_run:
        _show_preview(url)
        return
    begun = session.clock.monotonic()
    before = probe.upgrade(url)
    seconds = session.clock.monotonic() - begun
    if before == HEAD:
        note(f"schema {HEAD}: up to date")
    else:
        was = f"schema {before}" if before else "an empty database"
        note(f"upgraded from {was} to schema {HEAD} in {seconds:.1f} s: up to date")


def _show_preview(url: str) -> None:
    match probe.level(url):
        case Level.EMPTY:
            echo(f"the database is empty: schema {HEAD} would be created")
        case Level.CURRENT:
            echo(f"schema {HEAD}: up to date")
        case Level.NEWER:
            raise SchemaTooNew("a later version of rostersync wrote the schema", "install that version or a later one")
        case Level.OLDER:
            found, steps, views = probe.preview_upgrade(url)
            postgresql = url.startswith("postgresql")
            echo(f"schema {found} would be upgraded to {HEAD}:")
            for step in steps:
                waits = " Readers wait until the upgrade ends." if postgresql and step.locks_readers else ""
                echo(f"  {step.revision}: {step.description}{waits}")
            if views:
                echo(f"  views that would be replaced, which makes their readers wait: {', '.join(views)}")
            if not postgresql:
                echo("  no reader waits: with SQLite, readers see the old tables until the upgrade ends")


@command.command()
@configured
def current(session: Session) -> None:
    """Print the revision of the database's schema."""
    echo(probe.revision(session.config.database.url) or "none: the database is empty")


@command.command()
@configured
def check(session: Session) -> int:
    """Compare tables, keys, indexes, views and head counts with what this version expects.

    The command prints one line for each difference, with its remedy. A head count is the stored number of a source's
    students, which `status` and the guard use. Exit status: 0 if nothing differs, 1 if something differs.
    """
    if probe.level(session.config.database.url) is Level.OLDER:
        raise SchemaOutdated(
            f"the database has the schema of an older version; this version needs schema {HEAD}",
            f"run: {session.command('db upgrade')}",
        )
    if status := _report_differences(session):
        return status
    note(f"schema {HEAD}: up to date")
    return 0


def _report_differences(session: Session) -> int:
    """Print how the database differs from what this version expects, and return the exit status."""
    url = session.config.database.url
    found = probe.differences(url)
    for difference, remedy in found:
        echo(f"{difference}; remedy: {remedy}", err=True)
    miscounted = _miscounted(url, known=bool(found))
    for difference in miscounted:
        echo(f"{difference}; remedy: a full run counts them again: {session.command('sync --full')}", err=True)
    return 1 if found or miscounted else 0


def _miscounted(url: str, *, known: bool) -> list[str]:
    """Return a line for each head count that does not match the number of rows in its table.

    If the query fails and `known` is true, return an empty list, because the differences already found are probably the
    cause.
    """
    try:
        return probe.miscounted(url)
    except StoreError:
        if known:
            return []
        raise


@command.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@configured_as_caller
def write_backup(session: Session, file: Path) -> None:
    """Write a backup of the database into FILE. The daemon can keep running.

    FILE must not exist yet. The file appears when the backup is complete, and only its owner can read it. A backup of a
    PostgreSQL database needs the program pg_dump.
    """
    begun = session.clock.monotonic()
    with new_file(file) as whole:
        session = session.as_owner()
        with progress() as bar:
            backup.write(session.config.database.url, whole, session.scope, bar("backup"))
        size = os.fstat(whole.fileno()).st_size
    seconds = session.clock.monotonic() - begun
    note(f"{file}: {size / 1e6:,.1f} MB in {seconds:.1f} s")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@configured_as_caller
def restore(session: Session, file: Path, yes: bool) -> int:
    """Replace the content of the database with the backup in FILE. Stop the daemon first.

    If the restore fails, the database does not change. FILE must be a backup that `db backup` or `pg_dump
    --format=custom` has written. The backup's schema may be older than the schema of this version, but not newer. The
    restore keeps grants, and views that other users created on top of rostersync's views. New runs get higher ids than
    all earlier runs. At the end, the command checks the database like `db check`. Exit status: 1 if that check finds a
    difference. A restore into a PostgreSQL database needs the program pg_restore.
    """
    if not yes and not sys.stdin.isatty():
        raise ConfigError(["db restore: without a terminal it needs --yes"], "the command replaces the whole database")
    with ExitStack() as stack:
        source = stack.enter_context(_readable(file))
        session = session.as_owner()
        url = session.config.database.url
        with progress() as bar:
            found = stack.enter_context(backup.opened(url, source, session.scope, bar("backup")))
        if not yes:
            confirm(f"Replace {backup.described(url)} by {file} ({found.description})?")
        begun = session.clock.monotonic()
        with progress() as bar:
            notes = found.restore([source.name for source in session.config.sources], bar("restore"))
    for line in notes:
        note(line)
    status = _report_differences(session)
    seconds = session.clock.monotonic() - begun
    note(f"restored {file} ({found.description}) in {seconds:.1f} s")
    resync, verify = session.command("resync"), session.command("verify")
    note(f"next: start the service if there is one, then: {resync}, and: {verify}")
    return status


def _readable(file: Path) -> BinaryIO:
    try:
        return file.open("rb", buffering=0)
    except OSError as error:
        raise ConfigError([f"cannot read {file}: {error.strerror}"], "name a file that `db backup` wrote") from error
