"""What PostgreSQL writes of students into its own log, and the settings of docs/security.md that keep them out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from conftest import ManualClock, postgres_of_this_machine, running_postgres
from harness import World

from rostersync.simulator.switches import Switches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

LOGS_ALL = "-c log_min_duration_statement=0 -c log_statement=all"
SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
NAME = "Canary-Of-The-Log"


@pytest.fixture(scope="module", params=["wheel", "machine"])
def logging_server(request: pytest.FixtureRequest) -> Iterator[tuple[URL, Path]]:
    """A PostgreSQL that logs every statement: the url of its first database, and its log."""
    programs = postgres_of_this_machine() if request.param == "machine" else None
    if request.param == "machine" and programs is None:
        pytest.skip("no PostgreSQL is installed on this machine")
    with tempfile.TemporaryDirectory(prefix="rs-log-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with running_postgres(folder, LOGS_ALL, programs) as admin:
            yield admin, folder / "log"


def settings_in_the_docs() -> list[str]:
    return re.findall("^ALTER ROLE rostersync SET .*;", SECURITY.read_text(encoding="utf-8"), re.MULTILINE)


def logged(server: tuple[URL, Path], database: str, settings: list[str]) -> str:
    """Return what the server logs of a run in which a student is renamed, and of a row that it refuses."""
    admin, log = server
    conninfo = admin.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = 'rostersync'").fetchall():
            connection.execute("CREATE ROLE rostersync LOGIN")
        connection.execute(f"CREATE DATABASE {database} OWNER rostersync TEMPLATE template0".encode())
        for statement in settings:
            connection.execute(statement.encode())
    url = admin.set(username="rostersync", database=database)
    clock = ManualClock()
    # A name that only GET serves: what lists serve is staged by COPY, whose rows are no parameters.
    switches = Switches(lists_omit=("last_name",))
    world = World(url.render_as_string(hide_password=False), clock, switches=switches)
    world.sync()
    before = log.stat().st_size
    clock.advance(60)
    world.school.update(min(world.living_ids()), last_name=NAME)
    world.sync()
    assert NAME in str(world.replica())
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    insert = "INSERT INTO rostersync.student (source, id, last_name) VALUES ('main', 1, %s)"
    copy = "COPY rostersync.student (source, id, last_name) FROM STDIN"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        with pytest.raises(psycopg.Error):
            connection.execute(insert, [f"Failing-{NAME}"])
        with pytest.raises(psycopg.Error), connection.cursor() as cursor, cursor.copy(copy) as copied:
            copied.write(f"main\t1\tCopied-{NAME}\n")
    world.store.engine.dispose()
    return log.read_bytes()[before:].decode()


def test_the_documented_settings_keep_students_out_of_the_servers_log(logging_server: tuple[URL, Path]) -> None:
    without = logged(logging_server, "as_it_comes", [])
    assert {NAME, f"Failing-{NAME}", f"Copied-{NAME}"} <= set(re.findall(f"[A-Za-z]*-?{NAME}", without))
    settings = settings_in_the_docs()
    assert settings
    assert NAME not in logged(logging_server, "as_documented", settings)
