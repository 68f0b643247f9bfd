"""Write the audit log, which records who did what and when, and how the action ended.

An entry contains the ids of students and the names of fields. An entry must never contain the value of a field.
"""

from __future__ import annotations

import enum
import os
import pwd
import socket
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import insert, update

from rostersync.store.schema.tables import audit

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


class Outcome(enum.StrEnum):
    """The possible results of an action in the audit log."""

    SENDING = "sending"
    """The action has not ended yet. If this outcome never changes, the process died before it recorded the result."""
    DONE = "done"
    """The action was carried out."""
    NOT_TAKEN = "not_taken"
    """Only part of the action was carried out. For example, ManageBac changed only some of the fields."""
    REFUSED = "refused"
    """The action was not carried out."""
    UNKNOWN = "unknown"
    """It is unknown whether the action was carried out, for example because ManageBac's response was lost."""


class Entry(msgspec.Struct, frozen=True):
    """An action of a user. `source` is the name of the source that the action concerns, or `*` for the whole database.

    `verb` is the kind of action. `ids` are the ids of the students concerned. `fields` are the names of the fields that
    the action sets or exports. If the action is a grant, `fields` are the names of the role and of its views. `counts`
    maps the name of each figure to its value.
    """

    source: str
    verb: str
    ids: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    counts: dict[str, int] = {}


class Caller(NamedTuple):
    """The operating system user who started an action, and the machine."""

    who: str
    host: str


def caller() -> Caller:
    """Return the account that this process runs as, and the name of the machine.

    If the variable SUDO_USER is set, its value is added and marked as "claimed", because any user can set this
    variable.
    """
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # the account has no name, for example in a container
        name = f"uid {user}"
    by = os.environ.get("SUDO_USER")
    return Caller(f"{name} (claimed: sudo by {by})" if by else name, socket.gethostname())


def begin(connection: Connection, entry: Entry, *, who: str, host: str, now: datetime) -> int:
    """Record that an action is about to start, and return the number of its entry.

    Call this function inside a transaction.
    """
    number: int = connection.execute(
        insert(audit)
        .values(
            source=entry.source,
            at=now,
            who=who,
            host=host,
            verb=entry.verb,
            ids=entry.ids,
            fields=entry.fields,
            counts=entry.counts,
            outcome=str(Outcome.SENDING),
        )
        .returning(audit.c.audit_id)
    ).scalar_one()
    return number


def finish(connection: Connection, audit_id: int, outcome: Outcome, entry: Entry) -> None:
    """Record how an action ended, with the ids and figures that are known now.

    Call this function inside a transaction.
    """
    connection.execute(
        update(audit)
        .where(audit.c.audit_id == audit_id)
        .values(outcome=str(outcome), ids=entry.ids, counts=entry.counts)
    )
