"""Carry out a write command: ask the user, send the write, report the result and update the replica.

Before a command asks the user, it checks that the configuration allows writes.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.cli import output
from rostersync.cli.output import document, echo, note
from rostersync.cli.program import print_error, print_stderr
from rostersync.cli.students.reading import as_json_object
from rostersync.cli.students.source import chosen_source
from rostersync.errors import ApiError, ConfigError, Invalid, NoDatabase, RostersyncError, Stopped
from rostersync.managebac import ManageBac
from rostersync.managebac.wire.http import JSON_TYPE
from rostersync.report import RunState
from rostersync.runs import wiring
from rostersync.store.audit import Outcome
from rostersync.store.store import open_store
from rostersync.words import count
from rostersync.writing.single import Sender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rostersync.cancel import CancelScope
    from rostersync.cli.options import Session
    from rostersync.config import Source
    from rostersync.managebac.wire.http import Call, Reply
    from rostersync.store.store import Store
    from rostersync.writing.single import Write, WriteResult

_WARNINGS = {
    "create": "ManageBac may send a welcome mail to a new student.",
    "archive": (
        "Archiving takes students out of classes and groups. "
        "Parents who have no other child at the school may be archived too."
    ),
    "unarchive": (
        "ManageBac does not document what else unarchiving restores, "
        "so check the student's classes and year group afterwards."
    ),
}
"""The warnings about side effects that are printed before a write, for each verb."""

GRACE_S = 2.0
"""After a signal to stop, a command has this many seconds to finish the current line and to refresh the replica. This
timeout must be shorter than `rostersync.cli.signals.GRACE`, after which the process is killed.
"""

PATIENCE = timedelta(seconds=10)
"""How long a command waits for another process to store the command's writes in the replica."""


class WriteOptions(msgspec.Struct, frozen=True):
    """The options that all write commands have: `--source`, `--dry-run`, `--yes` and `--json`."""

    session: Session
    name: str | None
    dry_run: bool
    yes: bool
    as_json: bool

    @property
    def source(self) -> Source:
        """The chosen source. Raises `ConfigError` if several sources are configured and the user chose none."""
        return chosen_source(self.session, self.name)


def carry_out(options: WriteOptions, write: Write) -> int:
    """Do one write, and return the exit status.

    The status is 0 if the write was done. The status is 1 if the write was refused or done only in part, or if its
    outcome is unknown.
    """
    source = options.source
    if options.dry_run:
        return show_requests(options, source, [write])
    require_allowed(options.session, source)
    confirm(options, _question(write, source), write.verb)
    session = options.session.as_owner()
    scope = session.scope.child(grace=GRACE_S)
    with wiring.clients(session.config)(source.name, scope) as api:
        store = open_replica(session)
        result = Sender(source.name, api.students, store, scope).write(write)
    _print_result(options, source, write, result)
    if result.key and result.outcome is not Outcome.REFUSED:
        refresh(session, source, store, [result.key], scope)
    try:
        session.scope.check()
    except Stopped as stopped:
        return 128 + stopped.signal
    return 0 if result.outcome is Outcome.DONE else 1


def require_allowed(session: Session, source: Source) -> None:
    """Raise `ConfigError` unless the configuration allows writes to the source."""
    if not source.allow_writes:
        hint = f"set allow_writes = true for it in {session.path}; its token also needs the permission to write"
        raise ConfigError([f"source {source.name} does not allow writes"], hint)


def confirm(options: WriteOptions, question: str, verb: str) -> None:
    """Print a warning about the verb's side effects, and ask for confirmation. With --yes, do nothing.

    Raises `ConfigError` if there is no terminal, and `click.Abort` unless the answer is yes.
    """
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(["without a terminal, a write needs --yes"], "try it with --dry-run first")
    warn(verb)
    output.confirm(question, err=True)


def warn(verb: str) -> None:
    """Print a warning about the verb's side effects, if it has any."""
    if verb in _WARNINGS:
        print_stderr(_WARNINGS[verb])


def _question(write: Write, source: Source) -> str:
    whom = f"student {write.key}" if write.key else "a student"
    what = f"{write.verb} {whom} of source {source.name}"
    fields = f" ({', '.join(write.fields)})" if write.verb in {"create", "update"} else ""
    return f"{what}{fields}?"


# Dry runs --------------------------------------------------------------------------------------------------------


class _NotSent(Exception):
    """Raised by `_Showcase` with the request that the client would have sent."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class _Showcase:
    """A replacement for the HTTP layer that sends nothing. It raises `_NotSent` with the request."""

    def send(self, call: Call, timeout: float, scope: CancelScope) -> Reply:  # noqa: ARG002 - the protocol's signature
        raise _NotSent(call)


def show_requests(options: WriteOptions, source: Source, writes: Sequence[Write]) -> int:
    """Print the requests that the writes would send, without the token, and return the exit status."""
    calls = [_call(source, write) for write in writes]
    if options.as_json:
        document({"requests": [_as_document(source, call) for call in calls]})
    else:
        for call in calls:
            for line in _as_lines(source, call):
                echo(line)
    print_stderr(f"{count(len(calls), 'request')}, nothing sent", logging.INFO)
    if not source.allow_writes:
        closed = f"source {source.name} does not allow writes: to send this, set allow_writes = true"
        print_stderr(closed, logging.WARNING)
    return 0


def _call(source: Source, write: Write) -> Call:
    """Return the request that the client would send for this write."""
    try:
        write.send(ManageBac(source.base_url, "not sent", api_version=source.api_version, wire=_Showcase()).students)
    except _NotSent as shown:
        return shown.call
    raise AssertionError(write)


def _as_document(source: Source, call: Call) -> dict[str, Any]:
    url = f"{source.base_url}{call.path}"
    return {"method": call.method, "url": url, "content_type": call.content_type, "body": _shown_body(call)}


def _as_lines(source: Source, call: Call) -> list[str]:
    """Return the request as lines, followed by a blank line. Headers that all requests have are left out."""
    head = f"{call.method} {source.base_url}{call.path}"
    if not call.content_type:
        return [head, ""]
    body = _shown_body(call)
    shown = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return [head, f"Content-Type: {call.content_type}", "", shown, ""]


def _shown_body(call: Call) -> Any:
    """Return the body as a JSON value, with any password masked.

    If the body is a file, return its size as a string.
    """
    if not call.body:
        return None
    if call.content_type != JSON_TYPE:
        return f"({len(call.body):,} bytes)"
    body = msgspec.json.decode(call.body)
    student = body.get("student", {})
    return body | {"student": student | {"password": "***"}} if "password" in student else body


# The replica -----------------------------------------------------------------------------------------------------


def open_replica(session: Session) -> Store | None:
    """Open the database. If the database does not exist, return None and do not create it. Raises `StoreError`."""
    try:
        return open_store(session.config, session.clock, create=False)
    except NoDatabase:
        return None


def refresh(session: Session, source: Source, store: Store | None, keys: Sequence[int], scope: CancelScope) -> None:
    """Fetch the students that were just written, and update them in the replica.

    If only a later run can update the replica, print a warning. If `scope` is cancelled, the refresh remains in the
    database as a queued request, which the next process that syncs the source executes.
    """
    if store is None:
        print_stderr("there is no database yet: only the system's journal has a record of this write", logging.WARNING)
        return
    later = f"the replica will have the change after the next run of {source.name}"
    executor = wiring.executor(session.config, store, "rostersync students")
    try:
        report = executor.refresh(source.name, keys, PATIENCE, scope)
    except RostersyncError as error:
        print_stderr(f"{later} ({error.message})", logging.WARNING)
    except Stopped:
        print_stderr(later, logging.WARNING)
    else:
        if report is None:
            print_stderr(f"{later}, because another process is syncing it now", logging.WARNING)
        elif report.state is not RunState.SUCCEEDED:
            print_stderr(f"{later} ({report.error})", logging.WARNING)


# Reporting -------------------------------------------------------------------------------------------------------


def _print_result(options: WriteOptions, source: Source, write: Write, result: WriteResult) -> None:
    if options.as_json:
        document(
            {
                "source": source.name,
                "verb": write.verb,
                "id": result.key or None,
                "outcome": str(result.outcome),
                "fields": list(write.fields),
                "not_taken": list(result.not_taken),
                "student": result.student and as_json_object(result.student),
                "error": result.error and result.error.message,
            }
        )
    elif result.outcome is Outcome.DONE:
        # Print the line for a new student even with -q, because the user has no other way to learn the student's id.
        say = echo if write.verb == "create" else note
        say(f"{source.name}: student {result.key}: {_PAST[write.verb]}")
    _explain(write, result)


def _explain(write: Write, result: WriteResult) -> None:
    """If a write was not done, was done only in part, or has an unknown outcome, print the reason on standard error."""
    error = result.error
    if result.log_error is not None and result.recording is not None:
        print_stderr(
            f"entry {result.recording.number} of the audit log could not be completed: {result.log_error.message}"
        )
    match result.outcome:
        case Outcome.REFUSED if result.stopped:
            print_stderr("stopped; nothing was sent, or ManageBac did not accept the write")
        case Outcome.REFUSED if error:
            print_error(error)
            if error.status is None and not error.request:
                print_stderr("hint: nothing was sent")
            if isinstance(error, Invalid) and error.status:
                for name, texts in error.fields.items():
                    print_stderr(f"{name}: {', '.join(texts)}")
        case Outcome.NOT_TAKEN:
            not_taken = ", ".join(result.not_taken)
            print_stderr(f"student {result.key}: ManageBac accepted the write, but did not apply {not_taken}")
            print_stderr("hint: the token's permissions, or ManageBac's own rules, may exclude these fields")
        case Outcome.UNKNOWN:
            reason = error.message if isinstance(error, ApiError) else "the answer was lost"
            print_stderr(f"{reason}; {doubt(write)}")
        case Outcome.DONE if error:
            print_stderr(f"the student could not be read back: {error.message}")


def doubt(write: Write) -> str:
    """Return a hint for a write with an unknown outcome."""
    if not write.key:
        return "it is safe to try again, because the command first looks for the e-mail address"
    if not write.shows:
        return "it is safe to send it again"
    return f"look at student {write.key} before you try again: rostersync students get {write.key}"


_PAST = {
    "create": "created",
    "update": "updated",
    "archive": "archived",
    "unarchive": "unarchived",
    "set-avatar": "avatar set",
    "delete-avatar": "avatar deleted",
}
