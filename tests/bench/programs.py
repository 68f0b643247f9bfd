"""The programs that the benchmark runs, each as a process: the school's server, its databases, and what a run costs."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
from conftest import PostgresServer, running_postgres
from page import Cost
from sqlalchemy import make_url

from rostersync.config.model import Sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
CERTIFICATE = HERE.parent / "security" / "localhost.pem"
ENVIRON = {**os.environ, "ROSTERSYNC_TOKEN": "benchmark-" + "0" * 20}
PER_PAGE = Sync().per_page
"""Every program asks for this many students a page: as many as rostersync does by default."""
LIMIT_S = 600
"""A program that takes longer is killed, and has failed."""


class Upstream:
    """The fast server, as a process. `secure` makes it serve HTTPS."""

    def __init__(self, size: int, latency: float, environ: dict[str, str], *, secure: bool) -> None:
        command = [*python("upstream.py", size, latency), *([str(CERTIFICATE)] if secure else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.base_url = f"{'https' if secure else 'http'}://127.0.0.1:{self.port}"
        self.environ = environ
        """The environment of the server's clients."""

    def control(self, what: str) -> Any:
        trust = ssl.create_default_context(cafile=CERTIFICATE)
        with urllib.request.urlopen(f"{self.base_url}/control/{what}", context=trust) as answer:
            return json.load(answer)


@contextmanager
def upstream(size: int, latency: float = 0.0, *, secure: bool = False) -> Iterator[Upstream]:
    with tempfile.NamedTemporaryFile(suffix=".pem") as bundle:
        # certifi's certificates are in it as well, because a client reads them wherever its server is.
        bundle.write(Path(certifi.where()).read_bytes() + CERTIFICATE.read_bytes())
        bundle.flush()
        served = Upstream(size, latency, {**ENVIRON, "REQUESTS_CA_BUNDLE": bundle.name}, secure=secure)
        try:
            yield served
        finally:
            served.process.kill()
            served.process.wait()


class Databases:
    """Databases of one kind: new ones, and copies of one that is full."""

    def __init__(self, kind: str, folder: Path, server: PostgresServer | None) -> None:
        self.kind, self.folder = kind, folder
        self._server, self._number = server, 0

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


def python(script: str, *words: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, words)]


def driver_url(url: str) -> str:
    """Return a url as the drivers themselves take it."""
    return url.removeprefix("sqlite:///").replace("postgresql+psycopg", "postgresql")


def run(command: list[str], served: Upstream) -> Cost:
    """Run a program to its end. Raises `SystemExit` if it fails."""
    served.control("reset")
    cost = _measured(command, served, LIMIT_S)
    if cost.failed:
        raise SystemExit(1)
    return _with_requests(cost, served)


def run_all(commands: list[list[str]], served: Upstream, *, at_once: int, limit_s: int) -> Cost:
    """Run several programs, `at_once` of them at a time, and return what they cost together.

    The memory is the largest program's. A program that takes longer than `limit_s` seconds is killed, and has failed.
    """
    served.control("reset")
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        costs = list(pool.map(lambda command: _measured(command, served, limit_s), commands))
    wall = time.perf_counter() - began
    cpu, memory, failed = sum(c.cpu for c in costs), max(c.memory for c in costs), sum(c.failed for c in costs)
    return _with_requests(Cost(wall, cpu, memory, failed=failed), served)


def _measured(command: list[str], served: Upstream, limit_s: int) -> Cost:
    """Run a program to its end, and print its last lines if it fails."""
    measured = [sys.executable, "-S", "-E", str(HERE / "measured.py"), str(limit_s), *command]
    ended = subprocess.run(measured, env=served.environ, capture_output=True, text=True, check=False)
    *written, figures = ended.stderr.splitlines()
    if ended.returncode:
        print(f"{' '.join(command)} failed with status {ended.returncode}:", *written[-2:], sep="\n  ", file=sys.stderr)
    return Cost(*map(float, figures.split()), failed=int(ended.returncode != 0))


def _with_requests(cost: Cost, served: Upstream) -> Cost:
    told = served.control("told")
    return replace(cost, requests=int(told["requests"]), megabytes=told["bytes"] / 1e6)


def requests_of(command: list[str], served: Upstream) -> list[str]:
    """Run a program, and return what it asked for."""
    served.control("reset")
    subprocess.run(command, check=True, env=served.environ, capture_output=True)
    return list(served.control("asked")["asked"])


@dataclass(frozen=True)
class Trial:
    """The programs over one school and one kind of database. Each run gets its own database."""

    made: Databases
    served: Upstream
    size: int
    orm_too: bool = False
    sources: tuple[str, ...] = ("main",)
    """The names of the sources. All of them read the same school."""

    def ours(self, url: str, *words: str) -> list[str]:
        """Return the command line of rostersync for the database at `url`."""
        config = Path(tempfile.mkstemp(suffix=".toml", dir=self.made.folder)[1])
        config.write_text(
            f'[database]\nurl = "{url}"\nauto_upgrade = true\n'
            + "".join(f'[[sources]]\nname = "{name}"\nbase_url = "{self.served.base_url}"\n' for name in self.sources)
            + "[guard]\nmax_deletions = 1000000\nmax_deletion_percent = 100\n"
        )
        return [sys.executable, "-m", "rostersync", *words, "-c", str(config)]

    def rostersync(self, *words: str, like: str | None = None) -> Callable[[], Cost]:
        return self.on(lambda url: self.ours(url, *words), like)

    def limit(self) -> Callable[[], Cost]:
        return self.on(lambda url: python("limit.py", "load", self.served.port, PER_PAGE, driver_url(url)))

    def orm(self, *since: str, like: str | None = None) -> Callable[[], Cost]:
        return self.on(lambda url: self._orm(url, *since), like)

    def _orm(self, url: str, *since: str) -> list[str]:
        return python("orm_script.py", self.served.port, PER_PAGE, url, *since)

    def small(self, asked: Path, like: str) -> Callable[[], Cost]:
        return self.on(lambda url: python("small_script.py", self.served.base_url, url, asked), like)

    def on(self, command: Callable[[str], list[str]], like: str | None = None) -> Callable[[], Cost]:
        """Return a function that runs a program on a new database, or on a copy of the database `like`."""

        def program() -> Cost:
            url = self.made.new(like)
            try:
                return run(command(url), self.served)
            finally:
                self.made.drop(url)

        return program

    def filled(self, *words: str) -> str:
        """Return a new database, after a command of rostersync on it."""
        url = self.made.new()
        run(self.ours(url, *words), self.served)
        return url

    @cached_property
    def full(self) -> str:
        """A database that rostersync has filled."""
        return self.filled("sync")

    @cached_property
    def by_orm(self) -> str:
        """A database that the ORM script has filled."""
        url = self.made.new()
        run(self._orm(url), self.served)
        return url
