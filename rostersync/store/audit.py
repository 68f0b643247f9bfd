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
    """ManageBac has it."""
    NOT_TAKEN = "not_taken"
    """ManageBac accepted it, and left some of the fields as they were."""
    REFUSED = "refused"
    """ManageBac did not accept it."""
    UNKNOWN = "unknown"
    """The answer was lost, so ManageBac may have it or not."""


class Entry(msgspec.Struct, frozen=True):
    """A write: its verb, the students it is about, and the names of the fields that it sets."""

    source: str
    verb: str
    ids: tuple[int, ...]
    fields: tuple[str, ...]


class Caller(NamedTuple):
    """The user of the operating system and the machine that a write comes from."""

    who: str
    host: str


def caller() -> Caller:
    """Return who runs this process, and where; of somebody who uses sudo both names."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # an account that the system has no name for, as in a container
        name = f"uid {user}"
    by = os.environ.get("SUDO_USER")
    return Caller(f"{name} (sudo by {by})" if by else name, socket.gethostname())


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
            outcome=str(Outcome.SENDING),
        )
        .returning(audit.c.audit_id)
    ).scalar_one()
    return number


def finish(connection: Connection, audit_id: int, outcome: Outcome, ids: tuple[int, ...] | None = None) -> None:
    """Note how a write ended; `ids` where they are known only now, as of a student who was created.

    Call it inside a transaction.
    """
    known = {} if ids is None else {"ids": ids}
    connection.execute(update(audit).where(audit.c.audit_id == audit_id).values(outcome=str(outcome), **known))
