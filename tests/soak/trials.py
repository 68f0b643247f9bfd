"""`./dev soak --trials N`: how soon a daemon begins what a command asks for, and how soon a second one takes over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

from daemons import logged, wait_until
from school_site import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from school_site import Site


class Daemon:
    """A daemon as a process, with its log in a file."""

    def __init__(self, site: Site, number: int, prefix: Sequence[str] = ()) -> None:
        """Start it, by the command `prefix` where there is one, and wait until it is there."""
        self.log = site.folder / f"log-{number}"
        with self.log.open("w") as log:
            command = [*prefix, sys.executable, "-m", "rostersync", "run", "-c", str(site.path)]
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | site.environ, stderr=log)
        wait_until(lambda: self.when("started"))

    def when(self, event: str) -> float | None:
        """Return when an event was logged last, in seconds since 1970; None where it was not."""
        times = [told["timestamp"] for told in logged(whole_lines(self.log)) if told["event"] == event]
        return datetime.fromisoformat(times[-1]).timestamp() if times else None

    def kill(self) -> float:
        """Kill it, as a machine would, and return when."""
        self.process.kill()
        killed = time.time()
        self.process.wait()
        return killed


def whole_lines(path: Path) -> str:
    text = path.read_text()
    return text[: text.rfind("\n") + 1]


def resyncs(site: Site, times: int) -> list[float]:
    """Ask a daemon so many times for a resync; return for each the seconds from the command to the run's start."""
    daemon = Daemon(site, 0)
    try:
        return [resync(site) for _ in range(times)]
    finally:
        daemon.process.terminate()
        daemon.process.wait(20)


def resync(site: Site) -> float:
    asked = time.time()
    command = [sys.executable, "-m", "rostersync", "resync", "-c", str(site.path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ROSTERSYNC_TOKEN": ""}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    started = site.json("runs", "--limit", "1")["runs"][0]["started_at"]
    return datetime.fromisoformat(started).timestamp() - asked


def take_overs(site: Site, times: int) -> list[float]:
    """Kill the daemon that holds the source beside a second one, so often; return the seconds until that has it."""
    holder, taken = Daemon(site, 1), []
    for number in range(times):
        second = Daemon(site, number + 2)
        wait_until(lambda second=second: second.when("standing_by"))  # type: ignore[misc] # bound at once
        killed = holder.kill()
        wait_until(lambda second=second: second.when("taken_over"))  # type: ignore[misc] # the same
        taken.append((second.when("taken_over") or 0.0) - killed)
        holder = second
    holder.kill()
    return taken


def tell(what: str, seconds: Callable[[Site, int], list[float]], site: Site, times: int) -> str:
    """Return a line with the median and the largest of the figures."""
    figures = sorted(seconds(site, times))
    return f"{what}, {times} times: median {figures[len(figures) // 2]:.2f} s, largest {figures[-1]:.2f} s"
