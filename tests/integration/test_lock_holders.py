"""A wait for a lock of the database that ends without it names the process and the application that holds it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url, text

from rostersync.errors import LockTimedOut
from rostersync.report import RunKind, RunRequest
from rostersync.store.database import engine
from rostersync.store.database.engine import open_engine
from rostersync.store.database.holders import this_process
from rostersync.store.queue import requests
from rostersync.store.schema import revisions
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock

HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""

on_postgresql = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 1)


@pytest.fixture
def analyst(migrated_url: str) -> Iterator[psycopg.Connection]:
    """A session of another program, in a transaction."""
    url = make_url(migrated_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, application_name="analyst's notebook") as connection:
        yield connection


def file_request(store: Store, clock: ManualClock) -> None:
    with store.writing() as connection:
        requests.file(connection, RunRequest("main", RunKind.FULL, wait=None), clock.now())


@on_postgresql
def test_a_request_that_waits_for_a_row_names_the_session_that_has_locked_it(
    migrated_url: str, clock: ManualClock, analyst: psycopg.Connection
) -> None:
    store = Store(migrated_url, clock)
    file_request(store, clock)
    analyst.execute("UPDATE rostersync.source SET fence = fence")
    with pytest.raises(LockTimedOut) as caught:
        file_request(store, clock)
    who = f"analyst's notebook (server pid {analyst.info.backend_pid}, role {analyst.info.user})"
    assert caught.value.message.endswith(f"another session has kept a lock for 1 s: {who}")
    assert f"pg_terminate_backend({analyst.info.backend_pid})" in caught.value.hint
    analyst.rollback()
    file_request(store, clock)


@on_postgresql
def test_an_upgrade_that_waits_for_a_reader_names_its_session(
    migrated_url: str, analyst: psycopg.Connection, clock: ManualClock
) -> None:
    with Store(migrated_url, clock).writing() as connection:
        connection.exec_driver_sql("DROP VIEW public.sync_run")
        connection.exec_driver_sql("CREATE VIEW public.sync_run AS SELECT 1 AS run_id")
    analyst.execute("SELECT * FROM public.sync_run")
    with pytest.raises(LockTimedOut, match=r"1 s: analyst's notebook \(server pid \d+, role "):
        revisions.upgrade(open_engine(migrated_url))


@on_postgresql
def test_our_sessions_have_a_name_unless_the_url_gives_them_another(migrated_url: str) -> None:
    named = make_url(migrated_url).update_query_dict({"application_name": "roster of the west"})
    for url, name in (
        (migrated_url, this_process("rostersync")),
        (named.render_as_string(hide_password=False), "roster of the west"),
    ):
        with open_engine(url).connect() as connection, connection.begin():
            assert connection.scalar(text("SHOW application_name")) == name[:63]


@on_sqlite
def test_a_request_that_waits_for_the_write_lock_of_a_file_names_the_process_that_has_it(
    migrated_url: str, clock: ManualClock
) -> None:
    store = Store(migrated_url, clock)
    command = [sys.executable, "-c", HOLD, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockTimedOut) as caught:
            file_request(store, clock)
        assert caught.value.message.startswith(f"cannot use the database {store.path}: database is locked by python")
        assert caught.value.message.endswith(f"(pid {holder.pid})")
        holder.kill()


@on_sqlite
def test_a_lock_whose_holder_cannot_be_known_is_still_an_error_of_one_line(
    migrated_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(migrated_url, clock)
    monkeypatch.setattr(engine, "sqlite_writer", lambda _: "")
    with store.writing(), pytest.raises(LockTimedOut, match=r"database is locked$"):
        file_request(store, clock)
