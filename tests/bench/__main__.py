"""`./dev bench`: what the work costs, beside the bare limit and the usual script, in one run on one machine.

Each figure is the median of several runs, and each run a process of its own: wall seconds, processor seconds, and the
most memory that it had. Read the ratios: the seconds are those of a machine, and of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from conftest import PostgresServer, running_postgres
from page import Cost, Row, write_page
from sqlalchemy import make_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (1_000, 20_000, 100_000)
CHANGED, LEFT = 100, 20
WARM_UP_S, DAEMON_S = 8, 30
ENVIRON = {**os.environ, "ROSTERSYNC_TOKEN": "benchmark-" + "0" * 20}


class Upstream:
    """The fast server, as a process."""

    def __init__(self, size: int, latency: float) -> None:
        command = [sys.executable, str(HERE / "upstream.py"), str(size), str(latency)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def control(self, what: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/control/{what}") as answer:
            return json.load(answer)


@contextmanager
def upstream(size: int, latency: float = 0.0) -> Iterator[Upstream]:
    served = Upstream(size, latency)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()


class Databases:
    """Databases of one kind: new ones, and copies of one that is full."""

    def __init__(self, kind: str, folder: Path, server: PostgresServer | None) -> None:
        self.folder = folder
        self._kind, self._server, self._number = kind, server, 0

    def new(self, like: str | None = None) -> str:
        if self._server is not None:
            return self._server.create((make_url(like).database or "") if like else "template0")
        self._number += 1
        path = self.folder / f"{self._number}.db"
        if like:
            subprocess.run(["cp", like.removeprefix("sqlite:///"), path], check=True)
        return f"sqlite:///{path}"

    def drop(self, url: str) -> None:
        if self._server is not None:
            self._server.execute("DROP DATABASE {} WITH (FORCE)", make_url(url).database or "")
        else:
            for path in self.folder.glob(Path(url).name + "*"):
                path.unlink()


@contextmanager
def databases(kind: str) -> Iterator[Databases]:
    with tempfile.TemporaryDirectory(prefix="rs-bench-") as name:
        folder = Path(name)
        if kind == "sqlite":
            yield Databases(kind, folder, None)
            return
        folder.chmod(0o755)
        (folder / "pg").mkdir()
        with running_postgres(folder / "pg") as admin:
            yield Databases(kind, folder, PostgresServer(admin))


def run(command: list[str], served: Upstream) -> Cost:
    """Run a program to its end. Raises `SystemExit` where it fails."""
    served.control("reset")
    measured = [sys.executable, "-S", "-E", str(HERE / "measured.py"), *command]
    ended = subprocess.run(measured, env=ENVIRON, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {ended.stderr}")
    wall, cpu, memory = map(float, ended.stderr.splitlines()[-1].split())
    told = served.control("told")
    return Cost(wall, cpu, memory, int(told["requests"]), told["bytes"] / 1e6)


def requests_of(command: list[str], served: Upstream) -> list[str]:
    """Run a program, and return what it asked for."""
    served.control("reset")
    subprocess.run(command, check=True, env=ENVIRON, capture_output=True)
    return list(served.control("asked")["asked"])


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, field.name) for cost in costs) for field in fields(Cost)))


class Bench:
    """Runs programs, and keeps their rows."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat
        self.rows: list[Row] = []

    def compare(
        self, work: str, size: int, latency_ms: int, database: str, programs: dict[str, Callable[[], Cost]]
    ) -> None:
        """Run each program so many times, taking turns, so that a slow minute is everybody's."""
        costs: dict[str, list[Cost]] = {name: [] for name in programs}
        for _ in range(self.repeat):
            for name, program in programs.items():
                costs[name].append(program())
        first = median(next(iter(costs.values()))).wall
        for name, taken in costs.items():
            self.rows.append(Row(work, size, latency_ms, database, name, median(taken), first))
            tell(self.rows[-1])


def tell(row: Row) -> None:
    cost, latency = row.cost, f" at {row.latency_ms} ms" if row.latency_ms else ""
    print(
        f"{row.work}, {row.size:,}{latency}, {row.database}: {row.program}: {cost.wall:.2f} s ({row.ratio:.2f}x),"
        f" {cost.cpu:.2f} s of processor, {cost.memory:.0f} MiB, {cost.requests:.0f} requests, {cost.megabytes:.1f} MB",
        flush=True,
    )


def python(script: str, *words: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, words)]


def driver_url(url: str) -> str:
    """Return a url as the drivers themselves take it."""
    return url.removeprefix("sqlite:///").replace("postgresql+psycopg", "postgresql")


class Trial:
    """The programs over one school and one kind of database; each run gets a database of its own."""

    def __init__(self, made: Databases, served: Upstream) -> None:
        self.made, self.served = made, served

    def ours(self, url: str, *words: str) -> list[str]:
        """Return the command line of rostersync for the database at `url`."""
        config = Path(tempfile.mkstemp(suffix=".toml", dir=self.made.folder)[1])
        config.write_text(
            f'[database]\nurl = "{url}"\nauto_upgrade = true\n'
            f'[[sources]]\nname = "main"\nbase_url = "http://127.0.0.1:{self.served.port}"\n'
            "[guard]\nmax_deletions = 1000000\nmax_deletion_percent = 100\n"
        )
        return [sys.executable, "-m", "rostersync", *words, "-c", str(config)]

    def rostersync(self, *words: str, like: str | None = None) -> Callable[[], Cost]:
        return self.on(lambda url: self.ours(url, *words), like)

    def limit(self) -> Callable[[], Cost]:
        return self.on(lambda url: python("limit.py", "load", self.served.port, driver_url(url)))

    def orm(self, *since: str, like: str | None = None) -> Callable[[], Cost]:
        return self.on(lambda url: python("orm_script.py", self.served.port, url, *since), like)

    def small(self, asked: Path, like: str) -> Callable[[], Cost]:
        return self.on(lambda url: python("small_script.py", self.served.port, url, asked), like)

    def on(self, command: Callable[[str], list[str]], like: str | None = None) -> Callable[[], Cost]:
        """Return what runs a program on a new database, or on a copy of one."""

        def program() -> Cost:
            url = self.made.new(like)
            try:
                return run(command(url), self.served)
            finally:
                self.made.drop(url)

        return program

    def filled(self, command: Callable[[str], list[str]]) -> str:
        """Return a database that a program has filled."""
        url = self.made.new()
        run(command(url), self.served)
        return url


def measure(bench: Bench, kind: str, size: int, *, orm: bool) -> None:
    """Measure all work of one size on one kind of database."""
    with databases(kind) as made, upstream(size) as served:
        trial = Trial(made, served)
        load = {"bare limit": trial.limit(), "rostersync": trial.rostersync("sync")}
        bench.compare("full load", size, 0, kind, load | ({"ORM script": trial.orm()} if orm else {}))
        full = trial.filled(lambda url: trial.ours(url, "sync"))
        by_orm = trial.filled(lambda url: python("orm_script.py", served.port, url)) if orm else ""
        resync = {"first load": load["rostersync"], "full resync": trial.rostersync("sync", "--full", like=full)}
        bench.compare("nothing changed, read in full", size, 0, kind, resync)
        for work, changed, left in (("no change", 0, 0), (f"{CHANGED} changed, {LEFT} left", CHANGED, LEFT)):
            if changed:
                served.control(f"change?changed={changed}&left={left}")
            asked = made.folder / "asked"
            asked.write_text("\n".join(requests_of(trial.ours(made.new(full), "sync"), served)))
            small = {"bare script": trial.small(asked, full), "rostersync": trial.rostersync("sync", like=full)}
            if orm:
                small["ORM script"] = trial.orm("2025-01-01T00:00:00Z", like=by_orm)
            bench.compare(work, size, 0, kind, small)
        if kind == "sqlite" and size == SIZES[0]:
            nothing = trial.on(lambda _: [sys.executable, "-c", "pass"])
            status = trial.rostersync("status", like=full)
            bench.compare(
                "start", size, 0, kind, {"python": nothing, "status": status, "--help": trial.rostersync("--help")}
            )


def measure_latency(bench: Bench, kind: str, size: int, latency_ms: int) -> None:
    """Measure a full load over a slow line, beside its requests alone: every page twice, four at once."""
    with databases(kind) as made, upstream(size, latency_ms / 1000) as served:
        alone = python("limit.py", "requests", served.port, 2)
        programs = {
            "requests alone": lambda: run(alone, served),
            "rostersync": Trial(made, served).rostersync("sync"),
        }
        bench.compare("full load", size, latency_ms, kind, programs)


def daemon_run(kind: str, size: int) -> float:
    """Return how many milliseconds of processor a run without changes takes in a daemon, all that it does included."""
    with databases(kind) as made, upstream(size) as served:
        trial = Trial(made, served)
        url = trial.filled(lambda url: trial.ours(url, "sync"))
        command = trial.ours(url, "run")
        Path(command[-1]).write_text(f'{Path(command[-1]).read_text()}[schedule]\nincremental = "1s"\njitter = "0s"\n')
        process = subprocess.Popen(command, env=ENVIRON, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(WARM_UP_S)
            served.control("told")
            before = processor_seconds(process.pid)
            time.sleep(DAEMON_S)
            used, requests = processor_seconds(process.pid) - before, int(served.control("told")["requests"])
            return 1000 * used / (requests / 2)  # each such run makes two
        finally:
            process.terminate()
            process.wait()


def processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def throughput(size: int) -> float:
    """Return how many pages a second the server serves to whoever only fetches them."""
    with upstream(size) as served:
        cost = run(python("limit.py", "requests", served.port, 5), served)
        return cost.requests / cost.wall


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of students  [%(default)s]")
    parser.add_argument("--repeat", type=int, default=5, help="how often each program runs  [5]")
    parser.add_argument("--on", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--no-orm", action="store_true", help="leave the usual script away: it takes minutes")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    asked = parser.parse_args()
    sizes = [int(size) for size in asked.sizes.split(",")]
    kinds = ["sqlite", "postgresql"] if asked.on == "both" else [asked.on]
    bench = Bench(asked.repeat)
    pages_a_second = throughput(max(sizes))
    print(f"the server: {pages_a_second:,.0f} pages of 100 a second", flush=True)
    for kind in kinds:
        for size in sizes:
            measure(bench, kind, size, orm=size < SIZES[-1] and not asked.no_orm)  # there it takes minutes a run
        if 20_000 in sizes:
            measure_latency(bench, kind, 20_000, 50)
    daemon = {kind: daemon_run(kind, sizes[0]) for kind in kinds}
    for kind, milliseconds in daemon.items():
        print(f"no change, in the daemon, {sizes[0]:,}, {kind}: {milliseconds:.1f} ms of processor a run", flush=True)
    if asked.write:
        write_page(bench.rows, pages_a_second, asked.repeat, daemon)
    return 0


if __name__ == "__main__":
    sys.exit(main())
