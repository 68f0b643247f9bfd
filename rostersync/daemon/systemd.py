"""What systemd and a service of `Type=notify` tell each other, by the protocol of sd_notify(3).

Outside such a service nothing is told, and no watchdog waits.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rostersync.clock import Clock

_PER_SECOND = 1_000_000  # systemd counts in microseconds


class Systemd:
    """The service manager that started this process."""

    def __init__(self, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        """Find the manager and its watchdog in `environ`, as it puts them there."""
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        given = environ.get("WATCHDOG_USEC", "") if mine and self._address else ""
        self.watchdog_s = int(given) / _PER_SECOND if given.isdigit() and int(given) else None
        """After so many seconds without a sign of life the manager kills this process; None: never."""
        self._patted_at = float("-inf")
        self._status, self._is_ready = "", False

    def ready(self, status: str) -> None:
        """Tell that the service works, where that is news, and what `systemctl status` shows."""
        self._tell(*([] if self._is_ready else ["READY=1"]), *self._news(status))
        self._is_ready = True

    def reloading(self) -> None:
        """Tell that the configuration is being read again; `ready` tells the end of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * _PER_SECOND)}")
        self._is_ready = False

    def stopping(self) -> None:
        """Tell that the service ends."""
        self._tell("STOPPING=1", *self._news("stopping"))

    def alive(self) -> None:
        """Give the watchdog its sign of life, four times as often as it asks for one."""
        if self.watchdog_s is not None and self._clock.monotonic() - self._patted_at >= self.watchdog_s / 4:
            self._patted_at = self._clock.monotonic()
            self._tell("WATCHDOG=1")

    def _news(self, status: str) -> list[str]:
        line = status.replace("\n", " ")
        if line == self._status:
            return []
        self._status = line
        return [f"STATUS={line}"]

    def _tell(self, *lines: str) -> None:
        if not (self._address and lines):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(1)  # a manager that does not read must not stop us
            manager.sendto("\n".join(lines).encode(), address)
