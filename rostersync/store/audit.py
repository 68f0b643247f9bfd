"""Who wrote what, when, and how it ended: ids and names of fields, never their values."""

from __future__ import annotations

import enum
import os
import pwd
import socket
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import insert, update

from rostersync.store.tables import audit

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


class Outcome(enum.StrEnum):
    """How a write ended."""

    SENDING = "sending"
    """It was about to be sent. Where this stays, the process ended before it knew more."""
    DONE = "done"
    """ManageBac, or the database, has it."""
    NOT_TAKEN = "not_taken"
    """Only a part of it was carried out: ManageBac left some of the fields as they were."""
    REFUSED = "refused"
    """It was not carried out."""
    UNKNOWN = "unknown"
    """The answer was lost, so ManageBac may have it or not."""


class Entry(msgspec.Struct, frozen=True):
    """Something that a user does: its verb, and the source (`*`: all of them) that it is about.

    `ids` are the students, if they are named, `fields` the names of the fields that are set or exported (for a grant,
    the role and its views), and `counts` figures.
    """

    source: str
    verb: str
    ids: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    counts: dict[str, int] = {}


class Caller(NamedTuple):
    """The user of the operating system and the machine that a write comes from."""

    who: str
    host: str


def caller() -> Caller:
    """Return who runs this process, and where; and who says to use sudo, which the environment may claim falsely."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # an account that the system has no name for, as in a container
        name = f"uid {user}"
    by = os.environ.get("SUDO_USER")
    return Caller(f"{name} (claimed: sudo by {by})" if by else name, socket.gethostname())


def begin(connection: Connection, entry: Entry, *, who: str, host: str, now: datetime) -> int:
    """Note that a write is about to be sent; return the number of its entry. Call it inside a transaction."""
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
    """Note how something ended, with the ids and figures that are known now. Call it inside a transaction."""
    connection.execute(
        update(audit)
        .where(audit.c.audit_id == audit_id)
        .values(outcome=str(outcome), ids=entry.ids, counts=entry.counts)
    )
