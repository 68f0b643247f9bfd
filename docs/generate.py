"""Write the reference pages in docs/reference/ about the command line, the views, and the statements of the store.

`./dev docs` updates the pages, and `./dev docs --check` prints the pages that are out of date. The content of a page
depends only on the code, not on the terminal, the machine or the date.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy.dialects import postgresql

from rostersync.cli.program import program
from rostersync.store.replica import comparison, head_count, students
from rostersync.store.replica import details as stored_details
from rostersync.store.schema.rows import NAMES
from rostersync.store.schema.tables import PAYLOAD
from rostersync.store.schema.views import VIEWS
from rostersync.store.stage import details as staged_details
from rostersync.store.stage import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

    from rostersync.store.schema.views import View

FOLDER = Path(__file__).parent / "reference"

_ABOUT_COMMANDS = """\
# The command line

`./dev docs` generates this page from the code of the commands, so do not edit it. `rostersync COMMAND --help` prints
the same help. The [README](../../README.md#if-a-run-does-not-succeed) explains the exit statuses."""

_ABOUT_VIEWS = """\
# The views

`./dev docs` generates this page from the declarations of the views, so do not edit it. The names and columns of the
views are stable, and they are the same on SQLite and PostgreSQL. On PostgreSQL, each view and column has its
description as a comment. Times are in UTC. SQLite stores times as text, such as `2026-03-01T08:00:00.000Z`. NULL means
that ManageBac served no value."""

_ABOUT_STATEMENTS = """\
# The statements of a run

`./dev docs` generates this page from the code, so do not edit it. The page helps people who change `store/stage/` or
`store/replica/`, because it shows the SQL of statements that are hard to read in Python. A name after a colon, such as
`:run_source`, is a parameter. `FIELDS` stands for all fields of a student's record. The tables `staged`, `records`,
`deletions`, `answers`, `candidates` and `details` belong to the [stage](../glossary.md#stage).

This page shows the SQL for PostgreSQL. On SQLite, `IN (SELECT value FROM json_each(:ids))` replaces `= ANY (:ids)`, and
the date and time functions are different."""


def pages() -> dict[str, str]:
    """Return a dictionary from the file names of the pages to their texts."""
    return {
        "command-line.md": command_line(program, "rostersync"),
        "views.md": dictionary(VIEWS),
        "statements.md": statements(),
    }


def out_of_date(folder: Path) -> dict[str, str]:
    """Return the pages whose file in `folder` is missing or has another text."""
    return {name: text for name, text in pages().items() if _read(folder / name) != text}


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


@click.command()
@click.option("--check", is_flag=True, help="Write nothing. Exit with status 1 if a page is out of date.")
@click.option("--man", is_flag=True, help="Print the manual page rostersync(1), and write nothing.")
def main(*, check: bool, man: bool) -> None:
    """Write the pages of docs/reference/ that are out of date."""
    if man:
        click.echo(manual(program, "rostersync"), nl=False)
        return
    stale = out_of_date(FOLDER)
    if check and stale:
        raise click.ClickException(f"out of date in docs/reference: {', '.join(stale)}; run ./dev docs")
    FOLDER.mkdir(exist_ok=True)
    for name, text in stale.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        click.echo(f"written: docs/reference/{name}")


# The command line ------------------------------------------------------------------------------------------------


def command_line(command: click.Command, name: str) -> str:
    """Return the page about a command and all its subcommands, in the order of `--help`."""
    contexts = list(_contexts(command, name))
    links = [(f"[{_path(ctx)}](#{_path(ctx).replace(' ', '-')})", _cell(_summary(ctx))) for ctx in contexts]
    return _page(_ABOUT_COMMANDS, _table(("command", "does"), links), *map(_section, contexts))


def _contexts(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield click's context for each command that is not hidden.

    With the context, click returns the same help as `--help`.
    """
    ctx = click.Context(command, parent, name, **command.context_settings)
    yield ctx
    if isinstance(command, click.Group):
        for below in command.list_commands(ctx):
            child = command.get_command(ctx, below)
            if child is not None and not child.hidden:
                yield from _contexts(child, below, ctx)


def _path(ctx: click.Context) -> str:
    """Return the words of the command line that select a command, without the arguments of its groups."""
    return f"{_path(ctx.parent)} {ctx.info_name}" if ctx.parent else str(ctx.info_name)


def _summary(ctx: click.Context) -> str:
    return ctx.command.get_short_help_str(limit=1000)


def _section(ctx: click.Context) -> str:
    command = ctx.command
    level = "###" if ctx.parent and ctx.parent.parent else "##"
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    parameters = command.get_params(ctx) if ctx.parent is None else command.params  # --help only once
    arguments = [_parameter(ctx, each) for each in parameters if isinstance(each, click.Argument)]
    options = [_parameter(ctx, each) for each in parameters if isinstance(each, click.Option) and not each.hidden]
    return _page(
        f"{level} {_path(ctx)}",
        f"```text\n{usage}\n```",
        *_paragraphs(command.help),
        _table(("argument", "meaning"), arguments),
        _table(("option", "meaning"), options),
        *_paragraphs(command.epilog),
    ).strip()


def _parameter(ctx: click.Context, parameter: click.Parameter) -> tuple[str, str]:
    """Return the spelling of an argument or option, and its help. If there is no help, return its type instead."""
    spelling, meaning = parameter.get_help_record(ctx) or ("", "")
    return f"`{_one_line(spelling)}`", _cell(meaning or parameter.type.name.removesuffix(" range"))


def _paragraphs(text: str | None) -> Iterator[str]:
    r"""Yield the paragraphs of a help text as Markdown. A paragraph that begins with \b keeps its line breaks."""
    for paragraph in inspect.cleandoc((text or "").partition("\f")[0]).split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        yield f"```text\n{rest}\n```" if first.strip() == "\b" else _prose(paragraph)


# The manual page -------------------------------------------------------------------------------------------------

_ABOUT_FILES = (
    ("/etc/rostersync/config.toml", "The configuration."),
    ("/etc/rostersync/tokens/NAME-token", "The token of the source NAME. `rostersync service token NAME` writes it."),
    ("/var/lib/rostersync/roster.db", "The database, unless the configuration names another one."),
    ("/usr/share/doc/rostersync/", "Documentation about operation, security and the way rostersync works."),
)


def manual(command: click.Command, name: str) -> str:
    """Return the manual page about a command and all its subcommands, for man(1)."""
    contexts = list(_contexts(command, name))
    lines = [f'.TH {name.upper()} 1 "" "{name}" "User Commands"', ".SH NAME", rf"{name} \- {_roff(_purpose(command))}"]
    lines += [".SH SYNOPSIS", rf"\fB{name}\fR COMMAND [OPTIONS] [ARGUMENTS]", ".SH DESCRIPTION"]
    for ctx in contexts:
        if ctx.parent:
            lines.append(f'.SS "{_path(ctx)} {" ".join(ctx.command.collect_usage_pieces(ctx))}"')
        lines += [line for text in (ctx.command.help, ctx.command.epilog) for line in _roff_paragraphs(text)]
        parameters = ctx.command.get_params(ctx) if ctx.parent is None else ctx.command.params
        for parameter in parameters:
            if not getattr(parameter, "hidden", False):
                spelling, meaning = parameter.get_help_record(ctx) or ("", "")
                lines += [".TP", rf"\fB{_roff(spelling)}\fR", _roff(meaning)] if meaning else []
        if ctx.parent is None:
            lines.append(".SH COMMANDS")
    lines.append(".SH FILES")
    for path, meaning in _ABOUT_FILES:
        lines += [".TP", rf"\fI{_roff(path)}\fR", _roff(meaning)]
    return "\n".join(lines) + "\n"


def _purpose(command: click.Command) -> str:
    return command.get_short_help_str(limit=1000).rstrip(".")


def _roff_paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in inspect.cleandoc((text or "").partition("\f")[0]).split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        if first.strip() == "\b":
            yield f".PP\n.nf\n{_roff(rest)}\n.fi"
        elif paragraph:
            yield f".PP\n{_roff(' '.join(paragraph.split()))}"


def _roff(text: str) -> str:
    """Escape what man(1) would interpret: backslashes, hyphens, and a dot or quote at the start of a line."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


# The views -------------------------------------------------------------------------------------------------------


def dictionary(views: Sequence[View]) -> str:
    """Return the data dictionary, which is the page about the views and their columns."""
    links = [(f"[{view.name}](#{view.name})", _cell(view.description)) for view in views]
    return _page(_ABOUT_VIEWS, _table(("view", "holds"), links), *map(_columns, views))


def _columns(view: View) -> str:
    rows = [(f"`{name}`", _cell(description)) for name, description in view.columns]
    return _page(f"## {view.name}", _prose(view.description) + ".", _table(("column", "meaning"), rows)).strip()


# The statements --------------------------------------------------------------------------------------------------

_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call] # SQLAlchemy has no types here
_WIDTH = 110
_CLAUSE = (
    r"\b(?=(INSERT INTO|SELECT|SET|WHERE|GROUP BY|ORDER BY|LIMIT|ON CONFLICT|LEFT OUTER JOIN|UNION)\b"
    r"|(?<!OUTER )JOIN\b|(?<!DELETE )(?<!DISTINCT )FROM\b)"
)
_AND = r" (?=AND )"
_PARTS = (r"(?<=,) ", r" (?=OR )", _AND, r" (?=WHEN |ELSE |END\b)")  # what binds least comes first


def statements() -> str:
    """Return the page about the statements of a run."""
    of_lists = ("RECEIVED", "UNCLEAR", "UNPROVED_RESTORES", "UNPROVED_NEWCOMERS", "UNPROVED_STAMPS")
    of_details = ("_WAITING", "_NEWER", "_OLD", "_REFRESHED", "_BY_ANSWER", "_BY_DETAIL")
    of_changes = ("_INSERT", "_CHANGED", "_supersede_changed", "_REPLACE", "_begin_version", "_remove")
    shown = {
        "store/stage/queries.py": _named(queries, *of_lists, "collect", "STORED_CONTROLS", "NEW_CONTROLS"),
        "store/stage/details.py": _named(staged_details, *of_details),
        "store/replica/comparison.py": _named(comparison, "_VERDICTS", "_MISSING"),
        "store/replica/students.py": _named(students, *of_changes, "_quarantine", "_RELEASE_QUARANTINED"),
        "store/replica/details.py": _named(stored_details, "_LET_WAIT", "_put", "_DROP_UNUSED", "_requeue"),
        "store/replica/head_count.py": _named(head_count, "_count_staged"),
    }
    blocks = [_ABOUT_STATEMENTS]
    for path, by_name in shown.items():
        blocks.append(f"## {path}")
        blocks += [f"### `{name}`\n\n```sql\n{sql(statement)}\n```" for name, statement in by_name]
    return _page(*blocks)


def _named(module: ModuleType, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and the statements. Some are functions of the dialect, which may return several statements."""
    for name in names:
        found = getattr(module, name)
        found = found("postgresql") if callable(found) else found
        several = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, tuple) else ()
        yield from ((f"{name}[{key}]", statement) for key, statement in several)
        if not several:
            yield name, found


def sql(statement: Any) -> str:
    """Return the SQL of a statement for people: without casts, generated names, and the stage's schema."""
    compiled = statement.compile(dialect=_DIALECT)
    text = re.sub(r"::(TIMESTAMP WITH TIME ZONE|[A-Z]+(\[\])?)| AS \w+_\d+\b|\bstage\.", "", _one_line(str(compiled)))
    for name, value in compiled.params.items():
        if not compiled.binds[name].required:
            literal = "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value or '[]'}'"
            text = re.sub(rf":{name}\b", literal, text)
    for columns, short in _FIELDS.items():
        text = text.replace(columns, short)
    return "\n".join(_lines(_without_brackets(text), _WIDTH))


_FIELDS = {
    ", ".join(f"records.{name} AS row_{name}" for name in NAMES): "records.id AS row_id, records.FIELDS",
    ", ".join(f"student.{name}" for name in PAYLOAD): "student.FIELDS",
    ", ".join(f"{name}=records.{name}" for name in PAYLOAD): "FIELDS=records.FIELDS",
    ", ".join(f"records.{name}" for name in PAYLOAD): "records.FIELDS",
    ", ".join(PAYLOAD): "FIELDS",
}


def _without_brackets(text: str) -> str:
    """Return the text without the brackets that SQLAlchemy puts around EXISTS."""
    for found in reversed([*re.finditer(r"\(EXISTS (?=\()", text)]):
        end = _end(text, found.start())
        if _end(text, found.end()) == end - 1:
            text = text[: found.start()] + text[found.start() + 1 : end] + text[end + 1 :]
    return text


def _lines(text: str, width: int) -> Iterator[str]:
    """Yield SQL in lines: one for each clause. A line that is too long is divided further."""
    clauses = _split(text, _CLAUSE)
    if len(clauses) > 1 and (len(text) > width or not text.startswith(("EXISTS", "NOT"))):
        for clause in clauses:
            yield from _lines(clause, width)
    elif len(text) <= width:
        yield text
    elif divided := next((parts for pattern in _PARTS if len(parts := _split(text, pattern)) > 1), []):
        first, *others = _lines(divided[0], width)
        # In `a AND b OR c`, AND binds first, so its line is indented further.
        deeper = "    " if divided[1].startswith("OR ") and len(_split(divided[0], _AND)) > 1 else ""
        yield from (first, *(f"{deeper}{line}" for line in others))
        for part in divided[1:]:
            yield from _indented(part, width)
    elif "(" in text:
        start, end = max(_brackets(text), key=lambda pair: pair[1] - pair[0])
        yield text[: start + 1]
        yield from _indented(text[start + 1 : end], width)
        yield text[end:]
    else:
        yield text


def _indented(text: str, width: int) -> Iterator[str]:
    return (f"    {line}" for line in _lines(text, width - 4))


def _split(text: str, pattern: str) -> list[str]:
    """Divide a text where `pattern` is found outside brackets."""
    outside = [found for found in re.finditer(pattern, text) if _depth(text[: found.start()]) == 0]
    starts, ends = [0, *(found.end() for found in outside)], [*(found.start() for found in outside), len(text)]
    return [part for start, end in zip(starts, ends, strict=True) if (part := text[start:end].strip())]


def _brackets(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of the outermost brackets."""
    end = -1
    while (start := text.find("(", end + 1)) >= 0:
        end = _end(text, start)
        yield start, end


def _end(text: str, start: int) -> int:
    """Return the place of the bracket that closes the one at `start`."""
    return next(place for place in range(start, len(text)) if _depth(text[start : place + 1]) == 0)


def _depth(text: str) -> int:
    return text.count("(") - text.count(")")


# Markdown --------------------------------------------------------------------------------------------------------


def _page(*blocks: str) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |" for left, right in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines]) if lines else ""


def _cell(text: str) -> str:
    return _prose(_one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _prose(text: str) -> str:
    """Escape characters that Markdown would interpret, except in `code`."""
    return re.sub(r"(`[^`]*`)|([*<])", lambda found: found[1] or f"\\{found[2]}", text)


if __name__ == "__main__":
    main(prog_name="./dev docs")
