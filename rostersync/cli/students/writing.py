"""The commands `rostersync students create`, `update`, `archive`, `unarchive`, `set-avatar` and `delete-avatar`."""

from __future__ import annotations

import functools
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import Natural, configured_as_caller, json_option
from rostersync.cli.students import bulk
from rostersync.cli.students.bulk import GUARDED
from rostersync.cli.students.carrying_out import WriteOptions, carry_out
from rostersync.cli.students.source import one_source_option
from rostersync.errors import ConfigError, Invalid
from rostersync.managebac.fields import lines, typed
from rostersync.writing import single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rostersync.cli.options import Session
    from rostersync.cli.students.bulk import Many


def _write_options(verb: Callable[..., int]) -> Callable[..., Any]:
    """Add the options that all write commands have. The command receives these options as one `WriteOptions`."""

    @one_source_option
    @click.option("--dry-run", is_flag=True, help="Print the request that would be sent, and send nothing.")
    @click.option("--yes", is_flag=True, help="Do not ask before writing. Required without a terminal.")
    @json_option
    @configured_as_caller
    @functools.wraps(verb)
    def command(session: Session, *, name: str | None, dry_run: bool, yes: bool, as_json: bool, **given: Any) -> int:
        return verb(WriteOptions(session, name, dry_run=dry_run, yes=yes, as_json=as_json), **given)

    return command


_key = click.argument("key", metavar="ID", type=Natural())
_key_or_file = click.argument("key", metavar="[ID]", type=Natural(), required=False)
_set = click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a field; may be repeated.")
_from_json = click.option(
    "--from-json",
    "file",
    type=click.File("rb"),
    help="Read the fields from a JSON file that contains one object, or from standard input if FILENAME is -.",
)
_withdrawn = click.option("--withdrawn-on", metavar="DATE", help="The day on which the student left.")
_graduated = click.option("--graduated-on", metavar="DATE", help="The day on which the student graduated.")


@click.command()
@_set
@_from_json
@click.option(
    "--welcome-mail/--no-welcome-mail",
    default=None,
    help="Ask ManageBac to send a welcome mail, or not to send one (API version v2p3 only).",
)
@bulk.options
@_write_options
def create(
    options: WriteOptions, assignments: Sequence[str], file: Any, welcome_mail: bool | None, many: Many | None
) -> int:
    """Create a student, or several students with --from-csv. The fields email and last_name are required.

    Write the value of a list field as en,sl or as a JSON array. Use --from-json for a password, because other users of
    this machine can see the command line. ManageBac may send a welcome mail to the student.

    The student is not created if another student already has the same e-mail address or student_id. A CSV file has a
    column for each field.
    """
    if many:
        many.refuse_beside(assignments, file)
        return bulk.carry_out(options, many, "create", send_welcome_email=welcome_mail)
    fields = _fields(assignments, file)
    with _reporting_mistakes():
        write = single.create(fields, send_welcome_email=welcome_mail)
    return carry_out(options, write)


@click.command()
@_key_or_file
@_set
@click.option("--clear", "cleared", multiple=True, metavar="KEY", help="Clear a field; may be repeated.")
@_from_json
@click.option(
    "--allow-column",
    "allowed",
    type=click.Choice(GUARDED),
    multiple=True,
    metavar="NAME",
    help=f"Allow a CSV file to change this column ({' or '.join(GUARDED)}); may be repeated.",
)
@bulk.options
@_write_options
def update(
    options: WriteOptions,
    *,
    key: int | None,
    assignments: Sequence[str],
    cleared: Sequence[str],
    file: Any,
    allowed: Sequence[str],
    many: Many | None,
) -> int:
    """Change fields of a student, or of several students with --from-csv. Other fields do not change.

    Write the value of a list field as en,sl or as a JSON array. After the write, the command reads the student back. If
    ManageBac did not store a value, the command prints the name of its field, and the exit status is 1.

    A CSV file has a column `id` and a column for each field to change. You can also edit a CSV file that `students list
    --csv` has written. An empty cell does not change its field. A value that ManageBac already has is not sent.
    """
    if many:
        many.refuse_beside(key, assignments, cleared, file)
        return bulk.carry_out(options, many, "update", allowed=allowed)
    if allowed:
        raise click.UsageError("--allow-column can only be used with --from-csv")
    fields = _fields(assignments, file)
    twice = [name for name in cleared if name in fields]
    if twice:
        raise click.UsageError(f"{twice[0]} is both set and cleared")
    with _reporting_mistakes():
        write = single.update(_required(key), fields | dict.fromkeys(cleared))
    return carry_out(options, write)


@click.command()
@_key_or_file
@_withdrawn
@_graduated
@bulk.options
@_write_options
def archive(
    options: WriteOptions, key: int | None, withdrawn_on: str | None, graduated_on: str | None, many: Many | None
) -> int:
    """Archive a student who has withdrawn or graduated, or several students with --from-csv.

    Archiving takes the student out of classes and groups. Parents who have no other child at the school may be archived
    too.

    A CSV file has the column `id` and at least one of the columns `withdrawn_on` and `graduated_on`. Each line has one
    of the two dates.
    """
    if many:
        many.refuse_beside(key, withdrawn_on, graduated_on)
        return bulk.carry_out(options, many, "archive")
    dates = {"withdrawn_on": withdrawn_on, "graduated_on": graduated_on}
    with _reporting_mistakes():
        write = single.archive(_required(key), dates)
    return carry_out(options, write)


@click.command()
@_key_or_file
@bulk.options
@_write_options
def unarchive(options: WriteOptions, key: int | None, many: Many | None) -> int:
    """Take a student out of the archive, or several students with --from-csv.

    ManageBac does not document what else unarchiving restores, so check the student's classes and year group
    afterwards. A CSV file has only the column `id`.
    """
    if many:
        many.refuse_beside(key)
        return bulk.carry_out(options, many, "unarchive")
    with _reporting_mistakes():
        write = single.unarchive(_required(key))
    return carry_out(options, write)


@click.command("set-avatar")
@_key
@click.option("--url", metavar="URL", help="The URL of a picture that ManageBac can fetch.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The picture, as a PNG, JPEG, GIF or WebP file.",
)
@_write_options
def set_avatar(options: WriteOptions, key: int, url: str | None, file: Path | None) -> int:
    """Set a student's picture from a URL, or from a file of at most 10 MiB."""
    with _reporting_mistakes():
        write = single.set_avatar(key, url, file)
    return carry_out(options, write)


@click.command("delete-avatar")
@_key
@_write_options
def delete_avatar(options: WriteOptions, key: int) -> int:
    """Delete a student's picture."""
    with _reporting_mistakes():
        write = single.delete_avatar(key)
    return carry_out(options, write)


# From words to fields --------------------------------------------------------------------------------------------


@contextmanager
def _reporting_mistakes() -> Iterator[None]:
    """Raise `ConfigError`, with a line for each mistake, if the block raises `Invalid`."""
    try:
        yield
    except Invalid as error:
        raise ConfigError(lines(error.fields), "nothing was sent") from None


def _required(key: int | None) -> int:
    if key is None:
        raise click.UsageError("give an ID, or name a file with --from-csv")
    return key


def _fields(assignments: Sequence[str], file: Any) -> dict[str, Any]:
    """Return the fields from `--from-json` and `--set`.

    If a field is in both the JSON file and `--set`, use the value from `--set`.
    """
    fields: dict[str, Any] = {}
    wrong: list[str] = []
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--set takes KEY=VALUE, but {name[:40]!r} has no =")
        if name in fields:
            raise click.UsageError(f"{name} is set twice")
        fields[name] = None
        try:
            fields[name] = typed(name, text)
        except Invalid as error:
            wrong += lines(error.fields)
    if wrong:
        raise ConfigError(wrong, "nothing was sent")
    return (_read_json(file) if file is not None else {}) | fields


def _read_json(file: Any) -> dict[str, Any]:
    try:
        value = json.loads(file.read())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise click.UsageError("--from-json needs a file with one JSON object; its keys are names of fields")
    return value
