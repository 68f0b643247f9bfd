"""`./dev simulate N`: play N histories on both databases, as many processes as there are processors."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import structlog
from conftest import ManualClock, PostgresServer, _running
from harness import kept_sessions
from histories import Diverged, History

from rostersync.store import Store

BATCH = 50


def play(job: tuple[str, int, int]) -> tuple[Counter[str], list[str]]:
    """Play histories `first` to `last` on the database at `url`; return their figures, and who diverged."""
    url, first, last = job
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    store = Store(url, ManualClock(), create=True)
    figures: Counter[str] = Counter()
    diverged = []
    with kept_sessions(store.engine):
        for seed in range(first, last):
            try:
                tale = asdict(History(seed, url, store).play())
            except Diverged as error:
                diverged.append(str(error))
            else:
                figures.update({name: int(value) for name, value in tale.items() if name != "seed"})
    return figures, diverged


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev simulate", description=__doc__)
    parser.add_argument("histories", type=int, nargs="?", default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("--on", choices=["sqlite", "postgresql", "both"], default="both")
    asked = parser.parse_args()
    bad = 0
    for database in ["sqlite", "postgresql"] if asked.on == "both" else [asked.on]:
        bad += simulate(database, asked.first, asked.first + asked.histories)
    return 1 if bad else 0


def simulate(database: str, first: int, last: int) -> int:
    """Play the histories on one kind of database and tell of them; return how many diverged."""
    started = time.monotonic()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.TemporaryDirectory(prefix="rs-sim-", dir=None if database == "postgresql" else memory) as folder:
        if database == "postgresql":
            with _running(Path(folder)) as admin:
                server = PostgresServer(admin)
                figures, diverged = spread(first, last, lambda _: server.create())
        else:
            figures, diverged = spread(first, last, lambda number: f"sqlite:///{folder}/{number}.db")
    for line in diverged:
        print(line)
    told = ", ".join(f"{value} {name}" for name, value in sorted(figures.items()))
    seconds = time.monotonic() - started
    print(f"{database}: {last - first} histories, {len(diverged)} diverged, {seconds:.0f} s ({told})", flush=True)
    return len(diverged)


def spread(first: int, last: int, url_of: object) -> tuple[Counter[str], list[str]]:
    """Deal the seeds in batches to as many processes as there are processors."""
    assert callable(url_of)
    jobs = [(str(url_of(at)), at, min(at + BATCH, last)) for at in range(first, last, BATCH)]
    figures: Counter[str] = Counter()
    diverged: list[str] = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=4) as pool:
        for count, bad in pool.imap_unordered(play, jobs):
            figures.update(count)
            diverged += bad
    return figures, diverged


if __name__ == "__main__":
    sys.exit(main())
