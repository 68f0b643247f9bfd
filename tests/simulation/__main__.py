"""`./dev simulate N`: play N histories on both databases, as many processes as there are processors."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from conftest import ManualClock, PostgresServer, memory, running_postgres
from histories import Diverged, History
from sqlalchemy import make_url

from rostersync.cli.output import progress
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 50
"""So many histories share a database, which is dropped after them."""


def play(job: tuple[str, int, int]) -> tuple[Counter[str], list[str]]:
    """Play histories `first` to `last` in a database of their own; return their figures, and who diverged.

    `place` is the url of a PostgreSQL's first database, or a folder for SQLite files.
    """
    place, first, last = job
    figures: Counter[str] = Counter()
    diverged = []
    with database_at(place) as url, closing(Store(url, ManualClock(), create=True, keep_sessions=True)) as store:
        for seed in range(first, last):
            try:
                stats = asdict(History(seed, url, store).play())
            except Diverged as error:
                diverged.append(str(error))
            else:
                figures.update({name: int(value) for name, value in stats.items() if name != "seed"})
    return figures, diverged


@contextmanager
def database_at(place: str) -> Iterator[str]:
    if place.startswith("postgresql"):
        server = PostgresServer(make_url(place))
        url = server.create()
        yield url
        server.drop(url)
        return
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield f"sqlite:///{folder}/roster.db"


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
    postgres = database == "postgresql"
    with (
        tempfile.TemporaryDirectory(prefix="rs-sim-", dir=memory()) as folder,
        running_postgres(Path(folder)) if postgres else nullcontext(folder) as place,
    ):
        figures, diverged = spread(database, str(place), first, last)
    told = ", ".join(f"{value} {name}" for name, value in sorted(figures.items()))
    seconds = time.monotonic() - started
    print(f"{database}: {last - first} histories, {diverged} diverged, {seconds:.0f} s ({told})", flush=True)
    return diverged


def spread(database: str, place: str, first: int, last: int) -> tuple[Counter[str], int]:
    """Deal the seeds in batches to as many processes as there are processors; tell at once who diverges."""
    jobs = [(place, at, min(at + BATCH, last)) for at in range(first, last, BATCH)]
    figures: Counter[str] = Counter()
    diverged = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=4) as pool, progress() as watch:
        tell = watch(database)
        for batch, (count, bad) in enumerate(pool.imap_unordered(play, jobs), 1):
            figures.update(count)
            diverged += len(bad)
            for line in bad:
                print(line, flush=True)
            tell("histories", batch * BATCH, last - first)
    return figures, diverged


if __name__ == "__main__":
    sys.exit(main())
