"""`./dev soak`: a daemon whose sources are due every second, for minutes; what it costs, and that it loses nothing.

For each kind of database: a school that changes all the while, a daemon as a process of its own, and a line now and
then with its memory, threads, open files and, on PostgreSQL, sessions. In the end each replica must equal the school.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1])]

import trials
from conftest import PostgresServer, running_postgres
from daemons import logged
from school_site import Site, serve

from rostersync.words import count

if TYPE_CHECKING:
    from collections.abc import Iterator

STUDENTS = 60
ANOTHER_USER = 65_533
LINES = 10
"""So many lines of figures are printed for each database."""

EVERY_SECOND = """
[schedule]
incremental = "1s"
jitter = "0s"
[guard]
max_deletions = 1000000
max_deletion_percent = 100
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="for each database  [20]")
    parser.add_argument("--sources", type=int, default=1, help="all due every second  [1]")
    parser.add_argument("--on", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--threads", type=int, help="the daemon gets a user of its own, and no more threads than these")
    parser.add_argument("--trials", type=int, help="instead: so many resyncs beside a daemon, and take-overs of one")
    asked = parser.parse_args()
    kinds = ["sqlite", "postgresql"] if asked.on == "both" else [asked.on]
    if asked.trials:
        for kind in kinds:
            try_commands(kind, asked.trials)
        return 0
    return max(soak(kind, asked.minutes * 60, asked.sources, asked.threads) for kind in kinds)


def soak(kind: str, seconds: float, sources: int, threads: int | None) -> int:
    """Let a daemon work; tell what it costs, and return 1 where a replica does not equal the school in the end."""
    with database(kind) as (folder, url), serve(folder, url, STUDENTS) as site:
        names = tuple(f"school-{number}" for number in range(1, sources + 1))
        site.configure(EVERY_SECOND, sources=names)
        tell(f"{kind}: {count(sources, 'source')}, due every second, for {seconds:.0f} s")
        daemon = trials.Daemon(site, 0, limited(folder, threads))
        process = daemon.process
        try:
            watch(site, process.pid, kind, seconds)
            time.sleep(10)  # now the school rests
            wrong = [name for name in names if not equal(site, name)]
        finally:
            process.terminate()
            process.wait(20)
        slots = int(seconds) * sources
        tell(f"  {slots:,} slots: {verdict(daemon.log)}")
        tell(f"  replicas that do not equal the school: {len(wrong)}; exit status of the daemon: {process.returncode}")
        return 1 if wrong or process.returncode else 0


def limited(folder: Path, threads: int | None) -> list[str]:
    """Return what starts a program with at most so many threads. The kernel counts them by user, and not root's."""
    if threads is None:
        return []
    folder.parent.chmod(0o755)
    for path in (folder, *folder.iterdir()):
        os.chown(path, ANOTHER_USER, ANOTHER_USER)
    user = [f"--{name}={ANOTHER_USER}" for name in ("reuid", "regid")]
    return ["prlimit", f"--nproc={threads}", "setpriv", *user, "--clear-groups"]


def try_commands(kind: str, times: int) -> None:
    """Tell how soon a daemon does what a command asks for, and how soon another one takes over."""
    with database(kind) as (folder, url), serve(folder, url, STUDENTS) as site:
        tell(f"{kind}: {trials.tell('from a resync beside a daemon to its start', trials.resyncs, site, times)}")
        tell(f"{kind}: {trials.tell('from the death of a daemon to the take-over', trials.take_overs, site, times)}")


def watch(site: Site, pid: int, kind: str, seconds: float) -> None:
    """Let things happen at the school, and tell now and then what the daemon costs."""
    rng, begun = random.Random(1), time.monotonic()
    for line in range(1, LINES + 1):
        while time.monotonic() < begun + seconds * line / LINES:
            change(site, rng)
            time.sleep(0.25)
        tell(f"  {figures(pid, site, kind)}")


def tell(line: str) -> None:
    print(line, flush=True)


@contextmanager
def database(kind: str) -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory(prefix="rs-soak-") as folder:
        place = Path(folder, "site")
        place.mkdir()
        if kind == "sqlite":
            yield place, f"sqlite:///{place}/roster.db"
            return
        server = Path(folder, "pg")
        server.mkdir()
        Path(folder).chmod(0o755)
        with running_postgres(server) as admin:
            yield place, PostgresServer(admin).create()


def change(site: Site, rng: random.Random) -> None:
    """Let one thing happen at the school."""
    act, some = rng.random(), rng.choice(sorted(site.school.truth()))
    if act < 0.7:
        site.school.update(some, nickname=f"Nick {rng.randrange(1000)}")
    elif act < 0.85:
        site.school.create()
    else:
        site.school.delete(some)


def figures(pid: int, site: Site, kind: str) -> str:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    runs = site.rows("SELECT count(*) FROM sync_run")[0][0]
    told = [f"{int(lines['VmRSS'].split()[0]) / 1024:.1f} MiB", f"{lines['Threads'].strip()} threads"]
    told += [f"{files} files", f"{runs:,} runs"]
    if kind == "postgresql":
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        told.append(f"{site.rows(f'SELECT count(*) FROM pg_stat_activity WHERE {others}')[0][0]} sessions")
    return ", ".join(told)


def equal(site: Site, name: str) -> bool:
    rows = site.rows(f"SELECT id, nickname FROM current_student WHERE source = '{name}'")
    truth = {key: record.get("nickname") for key, record in site.school.truth().items()}
    return {row.id: row.nickname for row in rows} == truth


def verdict(log: Path) -> str:
    """Return how the runs ended, how many slots were skipped, and what else the daemon found worth a warning."""
    ended: Counter[str] = Counter()
    for event in logged(log.read_text()):
        name = event["event"]
        if name == "run_finished":
            ended[event["state"]] += 1
        elif name == "slot_skipped" or event["level"] not in {"debug", "info"}:
            ended[name] += 1
    return ", ".join(f"{number:,} {what}" for what, number in ended.most_common())


if __name__ == "__main__":
    sys.exit(main())
