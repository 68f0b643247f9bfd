"""`kill -9` of real processes, at any moment of a run, on both databases."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from crash_observer import GUARDLESS, CrashObserver, noting
from school_site import serve

from rostersync.simulator import Switches, churn

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from school_site import Site

    from rostersync.simulator import Request

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("ROSTERSYNC_TEST_KILLS", "8"))

CONFIG = f"[sync]\nper_page = 10\nretries = 0\n{GUARDLESS}"  # small pages make many requests

SWITCHES = Switches(login_bumps=True)  # so that every change is one that an incremental run must see

AT_LEAST = {("sync",): 2, ("sync", "--full"): 9}
"""How many requests a run makes, whatever has happened at the school."""


@dataclass(frozen=True)
class Moment:
    """When to kill: the school has got so many requests of the process, and for so many seconds no other."""

    requests: int
    quiet_for: float
    answers: bool = True
    """Whether the last of these requests is answered."""


def draw(rng: random.Random, words: tuple[str, ...], whole: float) -> Moment:
    """Return a moment in the life of a process that takes about `whole` seconds, most of them to start."""
    kind = rng.choice(["any time", "amid a request", "between requests", *["behind the last"] * 3])
    if kind == "any time":
        return Moment(0, rng.uniform(0, whole))
    number = AT_LEAST[words] if kind == "behind the last" else rng.randint(1, AT_LEAST[words])
    if kind == "amid a request":
        return Moment(number, 0, answers=False)
    return Moment(number, rng.uniform(0.01, 0.1) if kind == "behind the last" else rng.uniform(0, 0.01))


def kill(site: Site, process: subprocess.Popen[str], moment: Moment) -> None:
    """Kill the process at that moment, or see it end before."""
    asked, dead = [time.monotonic()], threading.Event()

    def note(_request: Request) -> None:
        asked.append(time.monotonic())
        if len(asked) > moment.requests and not moment.answers:
            dead.wait(20)

    site.app.on_request = note
    while process.poll() is None:
        if len(asked) > moment.requests and time.monotonic() - asked[-1] >= moment.quiet_for:
            process.kill()
        time.sleep(0.001)
    _, told = process.communicate(timeout=20)
    dead.set()
    site.app.on_request = None
    assert process.returncode in {-signal.SIGKILL, 0}, told
    assert "Traceback" not in told


def life(site: Site) -> float:
    """Return how many seconds a process takes that nobody kills."""
    begun = time.monotonic()
    process = site.start("sync")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    return time.monotonic() - begun


@pytest.mark.timeout(60 + 5 * KILLS)
def test_a_process_killed_at_any_moment_leaves_the_old_roster_or_a_whole_new_one_and_is_in_nobodys_way(
    migrated_url: str, tmp_path: Path
) -> None:
    with serve(tmp_path, migrated_url, 40, SWITCHES) as site:
        site.configure(CONFIG)
        whole = life(site)
        observer = CrashObserver(site)
        for seed in range(KILLS):
            rng = random.Random(seed)
            words = rng.choice([("sync",), ("sync",), ("sync", "--full")])
            moment = draw(rng, words, whole)
            churn(site.school, rng, 12)
            before = observer.snapshot()
            with noting(f"seed {seed}: {' '.join(words)} killed at {moment}"):
                kill(site, site.start(*words), moment)
                observer.wait_for_the_lock()
                observer.tells_of_a_whole_run(before)
                assert moment.answers or observer.requests_of_the_dead(), "it was to die amid a run"
            if rng.random() < 0.5:  # else the next process finds what this one has left behind
                observer.sync()
        site.ok("sync")
        assert observer.is_exact()
        assert not observer.requests_of_the_dead()
