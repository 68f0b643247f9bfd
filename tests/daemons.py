"""For tests of daemons as processes: waiting, ending, what they log, and what they tell systemd."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Process
    from school_site import Site


def wait_until(fact: Callable[[], object]) -> None:
    """Return when `fact` is true; fail after 20 seconds."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@contextmanager
def started(site: Site) -> Iterator[Callable[..., Process]]:
    """Lend what starts the program as a process of its own; those that it started end with the test."""
    processes: list[Process] = []

    def start(*words: str) -> Process:
        processes.append(site.start(*words))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[float, str]:
    """Send a signal; return the seconds until the end, and what was written to standard error."""
    begun = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    return time.monotonic() - begun, told


def logged(told: str) -> list[dict[str, Any]]:
    """Return the events of a log."""
    return [json.loads(line) for line in told.splitlines()]


class Notices:
    """The socket of a service manager, and what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told: SimpleQueue[str] = SimpleQueue()

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait_for(self, beginning: str) -> str:
        """Return the next message in which `beginning` begins a line; fail after 20 seconds without any."""
        while True:
            told = self._told.get(timeout=20)
            if f"\n{told}".find(f"\n{beginning}") >= 0:
                return told

    def _listen(self) -> None:
        with suppress(OSError):
            while told := self._socket.recv(4096):
                self._told.put(told.decode())
