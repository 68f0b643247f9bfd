"""Notify systemd about the state of a service of `Type=notify`, with the protocol that sd_notify(3) describes.

If systemd did not start this process as a service, nothing is sent, and the process has no watchdog.
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
        """Read the address of the service manager and the time limit of its watchdog from environment variables."""
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        given = environ.get("WATCHDOG_USEC", "") if mine and self._address else ""
        self.watchdog_s = int(given) / _PER_SECOND if given.isdigit() and int(given) else None
        """systemd kills this process after this many seconds without a keep-alive message. None means never."""
        self._alive_at = float("-inf")
        self._status, self._is_ready = "", False

    def ready(self, status: str) -> None:
        """Report that the service is ready, and set the status line that `systemctl status` shows.

        Nothing is sent if neither the state nor the status line has changed.
        """
        self._send(*([] if self._is_ready else ["READY=1"]), *self._changed_status(status))
        self._is_ready = True

    def reloading(self) -> None:
        """Report that the configuration is being read again. Call `ready` afterwards."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * _PER_SECOND)}")
        self._is_ready = False

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1", *self._changed_status("stopping"))

    def alive(self) -> None:
        """Send a keep-alive message to the watchdog, but at most four times within the watchdog's time limit."""
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
            manager.settimeout(1)  # because the manager may not be reading its messages
            manager.sendto("\n".join(lines).encode(), address)
