"""Notify systemd about a service of `Type=notify`, by the protocol of sd_notify(3).

If systemd did not start the process as a service, nothing is sent and there is no watchdog.
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
        """Read the manager's address and its watchdog's time limit from `environ`, where systemd puts them."""
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        given = environ.get("WATCHDOG_USEC", "") if mine and self._address else ""
        self.watchdog_s = int(given) / _PER_SECOND if given.isdigit() and int(given) else None
        """The manager kills this process after this many seconds without a sign of life. None means never."""
        self._alive_at = float("-inf")
        self._status, self._is_ready = "", False

    def ready(self, status: str) -> None:
        """Report that the service is ready, and set the line in `systemctl status`. Send only what has changed."""
        self._send(*([] if self._is_ready else ["READY=1"]), *self._changed_status(status))
        self._is_ready = True

    def reloading(self) -> None:
        """Report that the configuration is being read again. `ready` reports that this has ended."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * _PER_SECOND)}")
        self._is_ready = False

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1", *self._changed_status("stopping"))

    def alive(self) -> None:
        """Send the watchdog a sign of life, unless the last one is newer than a quarter of its time limit."""
        if self.watchdog_s is not None and self._clock.monotonic() - self._alive_at >= self.watchdog_s / 4:
            self._alive_at = self._clock.monotonic()
            self._send("WATCHDOG=1")

    def _changed_status(self, status: str) -> list[str]:
        line = status.replace("\n", " ")
        if line == self._status:
            return []
        self._status = line
        return [f"STATUS={line}"]

    def _send(self, *lines: str) -> None:
        if not (self._address and lines):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(1)  # do not wait for a manager that does not read
            manager.sendto("\n".join(lines).encode(), address)
