"""`./dev bench`: what the work costs, beside the bare limit and the usual script, in one run on one machine.

Each figure is the median of several runs, and each run is a process of its own: wall seconds, processor seconds, and
the most memory that it had. Read the ratios: the seconds are those of a machine, and of an hour.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1])]

import psycopg
from page import Cost, Row, write_page
from programs import PER_PAGE, Trial, databases, driver_url, python, requests_of, run, run_all, upstream
from sqlalchemy import create_engine

from rostersync.store.schema.tables import run as run_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (1_000, 20_000, 100_000)
CHANGED, LEFT = 100, 20
FEW = 1_000
"""Students of the works that are done once on each database."""
SLOW, LATENCY_MS = 20_000, 50
SOURCES, OLD_RUNS = 3, 3_000_000
LOADS, LOAD_LIMIT_S = 16, 120
WARM_UP_S, DAEMON_S = 8, 30


class Bench:
    """Runs programs, and keeps their rows."""

    def __init__(self, sizes: list[int], repeat: int) -> None:
        self.sizes, self.repeat = sizes, repeat
        self.rows: list[Row] = []
        self.daemon: dict[str, float] = {}
        """For each database, the milliseconds of processor of a daemon's run without changes."""

    def compare(self, work: str, trial: Trial, programs: dict[str, Callable[[], Cost]]) -> None:
        """Run each program `repeat` times. The programs take turns, so that a slow minute is everybody's."""
        costs: dict[str, list[Cost]] = {name: [] for name in programs}
        for _ in range(self.repeat):
            for name, program in programs.items():
                costs[name].append(program())
        first = median(next(iter(costs.values()))).wall
        for name, taken in costs.items():
            self.rows.append(Row(work, trial.size, trial.made.kind, name, median(taken), first))
            report(self.rows[-1])


def median(costs: list[Cost]) -> Cost:
    """Return the median of each figure. One failure is enough to count, so of the failures it is the most."""
    middle = Cost(*map(statistics.median, zip(*map(astuple, costs), strict=True)))
    return replace(middle, failed=max(cost.failed for cost in costs))


def report(row: Row) -> None:
    cost = row.cost
    print(
        f"{row.work}, {row.size:,}, {row.database}: {row.program_and_failures}: {cost.wall:.2f} s ({row.ratio:.2f}x),"
        f" {cost.cpu:.2f} s of processor, {cost.memory:.0f} MiB, {cost.requests:.0f} requests, {cost.megabytes:.1f} MB",
        flush=True,
    )


# Works of each size ----------------------------------------------------------------------------------------------


def full_load(bench: Bench, trial: Trial) -> None:
    programs = {"bare limit": trial.limit(), "rostersync": trial.rostersync("sync")}
    bench.compare("full load", trial, programs | ({"ORM script": trial.orm()} if trial.orm_too else {}))


def resync(bench: Bench, trial: Trial) -> None:
    again = trial.rostersync("sync", "--full", like=trial.full)
    programs = {"first load": trial.rostersync("sync"), "full resync": again}
    bench.compare("nothing changed, read in full", trial, programs)


def no_change(bench: Bench, trial: Trial) -> None:
    small_run(bench, trial, "no change")


def some_changed(bench: Bench, trial: Trial) -> None:
    """Comes last of each size, because it changes the school."""
    small_run(bench, trial, f"{CHANGED} changed, {LEFT} departed", CHANGED, LEFT)


def small_run(bench: Bench, trial: Trial, work: str, changed: int = 0, left: int = 0) -> None:
    """Measure a run after a full load, since when some students have changed and some have left."""
    full, by_orm = trial.full, trial.by_orm if trial.orm_too else ""
    trial.served.control(f"change?changed={changed}&left={left}")
    asked = trial.made.folder / "asked"
    asked.write_text("\n".join(requests_of(trial.ours(trial.made.new(full), "sync"), trial.served)))
    programs = {"bare script": trial.small(asked, full), "rostersync": trial.rostersync("sync", like=full)}
    if trial.orm_too:
        programs["ORM script"] = trial.orm("2025-01-01T00:00:00Z", like=by_orm)
    bench.compare(work, trial, programs)


# Works that are done once on each database -----------------------------------------------------------------------


def start(bench: Bench, kind: str) -> None:
    """Measure how long a process takes to start. The database makes no difference, so SQLite is enough."""
    if kind == "sqlite":
        with databases(kind) as made, upstream(FEW) as served:
            trial = Trial(made, served, FEW)
            status, usage = trial.rostersync("status", like=trial.full), trial.rostersync("--help")
            nothing = trial.on(lambda _: [sys.executable, "-c", "pass"])
            bench.compare("start", trial, {"python": nothing, "status": status, "--help": usage})


def slow_line(bench: Bench, kind: str) -> None:
    """Measure a full load over a slow line, beside its requests alone: every page twice, four at once."""
    size = min(SLOW, max(bench.sizes))
    with databases(kind) as made, upstream(size, LATENCY_MS / 1000) as served:
        trial = Trial(made, served, size)
        alone = python("limit.py", "requests", served.port, PER_PAGE, 2)
        programs = {"requests alone": lambda: run(alone, served), "rostersync": trial.rostersync("sync")}
        bench.compare(f"full load at {LATENCY_MS} ms", trial, programs)


def https(bench: Bench, kind: str) -> None:
    with databases(kind) as made, upstream(FEW, secure=True) as served:
        small_run(bench, Trial(made, served, FEW), "no change, over HTTPS")


def old_runs(bench: Bench, kind: str) -> None:
    """Measure `status` of a replica with millions of old runs, beside the same replica without them."""
    with databases(kind) as made, upstream(FEW) as served:
        trial = Trial(made, served, FEW, sources=tuple(f"school-{number}" for number in range(SOURCES)))
        few, many = trial.filled("sync"), trial.filled("sync")
        add_old_runs(many)
        programs = {
            "few runs": lambda: run(trial.ours(few, "status"), served),
            f"{OLD_RUNS:,} old runs": lambda: run(trial.ours(many, "status"), served),
        }
        bench.compare("status", trial, programs)


def add_old_runs(url: str) -> None:
    """Copy the first run of each source, a minute older each time, until there are as many as wanted.

    The copies have smaller ids than the runs that exist.
    """
    engine, each = create_engine(url), OLD_RUNS // SOURCES
    if engine.dialect.name == "sqlite":
        ages = f"WITH RECURSIVE a (age) AS (SELECT {each} UNION ALL SELECT age - 1 FROM a WHERE age > 1)"
        earlier = "strftime('%Y-%m-%dT%H:%M:%fZ', {}, '-' || age || ' minutes')"
        table = "run"
    else:
        ages = f"WITH a AS (SELECT generate_series({each}, 1, -1) AS age)"
        earlier = "{} - age * interval '1 minute'"
        table = "rostersync.run"
    names = run_table.c.keys()
    values = {name: earlier.format(name) for name in ("started_at", "finished_at")}
    values["run_id"] = f"run_id - {SOURCES} * age"
    copies = f"SELECT {', '.join(values.get(name, name) for name in names)} FROM a, {table} WHERE run_id <= {SOURCES}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"{ages} INSERT INTO {table} ({', '.join(names)}) {copies}")
    engine.dispose()


def loads_at_once(bench: Bench, kind: str) -> None:
    """Measure the first loads of many sources on PostgreSQL, each a process. SQLite has one writer at a time."""
    if kind == "sqlite":
        return
    with databases(kind) as made, upstream(FEW) as served:
        trial = Trial(made, served, FEW, sources=tuple(f"school-{number}" for number in range(LOADS)))
        empty = trial.filled("db", "upgrade")

        def loads(at_once: int, *, analyzed: bool = False) -> Cost:
            url = made.new(empty)
            commands = [trial.ours(url, "sync", "--source", name) for name in trial.sources]
            try:
                with analyzing(url) if analyzed else nullcontext():
                    return run_all(commands, served, at_once=at_once, limit_s=LOAD_LIMIT_S)
            finally:
                made.drop(url)

        programs = {
            "one after the other": lambda: loads(1),
            "at once": lambda: loads(LOADS),
            "at once, during an ANALYZE": lambda: loads(LOADS, analyzed=True),
        }
        bench.compare(f"{LOADS} first loads", trial, programs)


@contextmanager
def analyzing(url: str) -> Iterator[None]:
    """Hold the locks of an ANALYZE of every table meanwhile."""
    with psycopg.connect(driver_url(url)) as session:
        session.execute("ANALYZE")  # its transaction stays open
        yield


def daemon(bench: Bench, kind: str) -> None:
    """Measure the processor time of a run without changes in a daemon, all that the daemon does included."""
    with databases(kind) as made, upstream(FEW) as served:
        trial = Trial(made, served, FEW)
        command = trial.ours(trial.full, "run")
        Path(command[-1]).write_text(f'{Path(command[-1]).read_text()}[schedule]\nincremental = "1s"\njitter = "0s"\n')
        process = subprocess.Popen(command, env=served.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(WARM_UP_S)
            served.control("told")
            before = processor_seconds(process.pid)
            time.sleep(DAEMON_S)
            used, requests = processor_seconds(process.pid) - before, int(served.control("told")["requests"])
        finally:
            process.terminate()
            process.wait()
    bench.daemon[kind] = 1000 * used / (requests / 2)  # each such run makes two
    print(f"no change, in the daemon, {FEW:,}, {kind}: {bench.daemon[kind]:.1f} ms of processor a run", flush=True)


def processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


OF_EACH_SIZE = {"load": full_load, "resync": resync, "no-change": no_change, "changed": some_changed}
ONCE = {
    "https": https,
    "start": start,
    "latency": slow_line,
    "old-runs": old_runs,
    "at-once": loads_at_once,
    "daemon": daemon,
}


def throughput(size: int) -> float:
    """Return how many pages the server serves in a second to a program that only fetches them."""
    with upstream(size) as served:
        cost = run(python("limit.py", "requests", served.port, PER_PAGE, 5), served)
        return cost.requests / cost.wall


def main() -> int:
    works = [*OF_EACH_SIZE, *ONCE]
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--only", metavar="WORKS", help=f"only these works, of {', '.join(works)}")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of students  [%(default)s]")
    parser.add_argument("--repeat", type=int, default=5, help="how often each program runs  [5]")
    parser.add_argument("--on", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--no-orm", action="store_true", help="leave the usual script away: it takes minutes")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    asked = parser.parse_args()
    wanted = asked.only.split(",") if asked.only else works
    if unknown := set(wanted) - set(works):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the works are {', '.join(works)}")
    if asked.write and asked.only:
        parser.error("--write needs all works, so it cannot go with --only")
    bench = Bench([int(size) for size in asked.sizes.split(",")], asked.repeat)
    pages_a_second = 0.0
    if not asked.only:
        pages_a_second = throughput(max(bench.sizes))
        print(f"the server: {pages_a_second:,.0f} pages of {PER_PAGE} a second", flush=True)
    for kind in ["sqlite", "postgresql"] if asked.on == "both" else [asked.on]:
        for size in bench.sizes:
            measure(bench, kind, size, [name for name in OF_EACH_SIZE if name in wanted], orm=not asked.no_orm)
        for name, work in ONCE.items():
            if name in wanted:
                work(bench, kind)
    if asked.write:
        facts = {"repeat": asked.repeat, "per_page": PER_PAGE, "pages": pages_a_second}
        write_page(bench.rows, bench.daemon, **facts, sources=SOURCES, limit=LOAD_LIMIT_S)
    return 0


def measure(bench: Bench, kind: str, size: int, works: list[str], *, orm: bool) -> None:
    """Measure works of one size on one kind of database."""
    if works:
        with databases(kind) as made, upstream(size) as served:
            trial = Trial(made, served, size, orm_too=orm and size < SIZES[-1])  # there it takes minutes a run
            for name in works:
                OF_EACH_SIZE[name](bench, trial)


if __name__ == "__main__":
    sys.exit(main())
