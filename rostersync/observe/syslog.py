"""The socket of the system's journal, or of another syslog service, for what must be on record.

A command on a terminal shows its log there and nowhere else, so an audit event goes to this socket as well.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from logging.handlers import SysLogHandler
from typing import TYPE_CHECKING, Any

from rostersync.observe.log import json_formatter

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET = "/dev/log"

_PATIENCE_S = 2.0


class Journal(SysLogHandler):
    """Sends records to the socket, and knows whether the last one was sent."""

    delivered = False
    socket: Any  # the type stubs do not name it

    def __init__(self) -> None:
        """Connect to the socket. Raises `OSError` if there is none."""
        super().__init__(SOCKET, facility=SysLogHandler.LOG_AUTHPRIV)
        self.socket.settimeout(_PATIENCE_S)  # a journal that hangs is none
        self.ident = "rostersync: "
        self.setFormatter(json_formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.delivered = True
        super().emit(record)

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        self.delivered = False


@contextmanager
def sent_to_journal(name: str) -> Iterator[Journal | None]:
    """Send the events of the logger `name` to the journal as well; lend None if that is not possible."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    try:
        journal = Journal()
    except OSError:
        yield None
        return
    logger.addHandler(journal)
    try:
        yield journal
    finally:
        logger.removeHandler(journal)
        journal.close()
