"""Send audit events to the socket of systemd's journal or of another syslog service.

A command on a terminal writes its log only to the terminal, so each audit event also goes to this socket.
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
    """Sends log records to the socket. `delivered` is true if the last record was sent."""

    delivered = False
    socket: Any  # missing from the type stubs

    def __init__(self) -> None:
        """Connect to the socket. Raises `OSError` if no process listens on the socket."""
        super().__init__(SOCKET, facility=SysLogHandler.LOG_AUTHPRIV)
        self.socket.settimeout(_PATIENCE_S)  # a journal that does not respond is treated as missing
        self.ident = "rostersync: "
        self.setFormatter(json_formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.delivered = True
        super().emit(record)

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        self.delivered = False


@contextmanager
def sent_to_journal(name: str) -> Iterator[Journal | None]:
    """Within the block, also send the events of the logger `name` to the journal.

    Yield None if the journal is unavailable.
    """
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
