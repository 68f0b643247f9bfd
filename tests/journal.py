"""A socket in the place of the system's journal, so that no test depends on the machine's, or writes into it."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import canary

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """Listens on a socket, and keeps what comes until it is asked for it."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.place)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):  # at the end of the session
            while line := self._socket.recv(1 << 20):
                self._lines.put(line)

    def events(self, number: int = 0) -> list[dict[str, Any]]:
        """Return the events since the last call: wait for `number` of them, and for no more."""
        lines = [self._lines.get(timeout=5) for _ in range(number)]
        with suppress(Empty):
            while True:
                lines.append(self._lines.get_nowait())
        canary.SEARCH.output(("journal",), b"\n".join(lines).decode(), "")
        return [json.loads(re.sub(rb"^<\d+>rostersync: |\0$", b"", line)) for line in lines]
