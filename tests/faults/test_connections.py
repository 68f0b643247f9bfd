"""Connections to PostgreSQL that break amid a run, at each statement and at its COMMIT; holders who lost their lock."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from conftest import memory, running_postgres
from crash_observer import GUARDLESS, CrashObserver, is_told_well, noting
from crashes import CrashInjector
from daemons import started, wait_until
from harness import GUARD_OFF, SOURCE, World
from proxy import Cut, proxied
from school_site import serve
from sqlalchemy import text

from rostersync.errors import DatabaseUnreachable, StoreError
from rostersync.simulator import churn
from rostersync.store.database import engine
from rostersync.store.queue.lock import advisory_key, lock_path
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock, PostgresServer
    from sqlalchemy import URL, Connection

    from rostersync.simulator import Request

pytestmark = pytest.mark.long

DAWDLE = (
    "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON run INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle()",
)
"""What makes the server take its time over the COMMIT that records a run."""


@pytest.fixture
def url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A fresh PostgreSQL database that is set up."""
    url = postgres_server.create(template=migrated_template)
    yield url
    postgres_server.drop(url)


def change(world: World) -> None:
    """Let one student come, one go, and one move."""
    first, second, *_ = sorted(world.upstream())
    world.school.update(second, nickname=f"Nick {world.clock.now()}")
    world.school.delete(first)
    world.school.create()
    world.pass_time(minutes=5)


# The server ends the session -------------------------------------------------------------------------------------


def terminate(connection: Connection, pid: int) -> None:
    """End another session, and wait until it has ended."""
    with connection.begin():
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


class Terminator(CrashInjector):
    """Ends the session that is about to take the n-th step; the step is tried all the same."""

    def __init__(self, store: Store, end_at: int, through: Connection) -> None:
        self._through = through
        super().__init__(store.engine, end_at)

    def step(self, *what: Any) -> None:
        self.steps += 1
        if self.steps == self.blow_at:
            driver: Any = what[0].connection.dbapi_connection
            terminate(self._through, driver.info.backend_pid)


def sync_terminated(world: World, step: int, through: Connection) -> tuple[DatabaseUnreachable | None, bool]:
    """Have a run made whose session ends at this step; return how it failed, and whether it got so far."""
    terminator, failure = Terminator(world.store, step, through), None
    try:
        world.sync()
    except DatabaseUnreachable as error:
        failure = error
    finally:
        terminator.remove()
    return failure, terminator.steps >= step


EVERY = 3
"""Of so many steps of a run one is tried."""


def test_a_session_that_the_server_ends_at_any_statement_leaves_the_old_roster_a_free_lock_and_no_request(
    url: str, clock: ManualClock
) -> None:
    world = World(url, clock, policy=GUARD_OFF)
    world.sync()
    world.pass_time(hours=1)
    step, failures, so_far = 0, 0, True
    with engine.open_engine(url).connect() as through:
        while so_far:
            if step % (5 * EVERY) == 0:  # an ordinary run is exact, whatever came before
                world.sync()
                assert world.replica() == world.upstream()
                change(world)
            before, step = world.snapshot(), step + EVERY
            with noting(f"the session ended at step {step}"):
                failure, so_far = sync_terminated(world, step, through)
                assert not world.store.is_held(SOURCE)
                states = {row["state"] for row in world.rows("SELECT state FROM run_request")}
                assert states <= {"done", "failed", "withdrawn"}
                if failure is None:
                    assert world.replica() == world.upstream()
                else:
                    failures += 1
                    assert failure.message.startswith("cannot ")
                    assert failure.hint
                    assert world.snapshot() == before
    assert failures > 50 / EVERY


# The connection breaks at COMMIT ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AMID, Cut.AFTER], ids=lambda cut: cut.name.lower())
def test_a_run_whose_connection_breaks_at_its_commit_is_told_as_what_it_is(url: str, tmp_path: Path, cut: Cut) -> None:
    with proxied(url) as (through, proxy), serve(tmp_path, through, 12) as site:
        site.ok("sync")
        observer = CrashObserver(site)
        if cut is Cut.AMID:
            with observer.store.writing() as connection:
                for statement in DAWDLE:
                    connection.exec_driver_sql(statement)
        churn(site.school, random.Random(1), 6)
        before = observer.snapshot()
        proxy.cut = cut
        process = site.start("sync")
        out, err = process.communicate(timeout=60)
        assert proxy.cut is None
        assert process.returncode == int(cut is Cut.BEFORE), err
        assert is_told_well(process.returncode, out, err), err
        observer.wait_for_the_lock()
        assert observer.tells_of_a_whole_run(before) == (cut is not Cut.BEFORE)
        last = observer.rows("SELECT state FROM run_request ORDER BY request_id")[-1]
        assert last["state"] == ("failed" if cut is Cut.BEFORE else "done")
        site.ok("sync")
        assert observer.is_exact()


def test_a_session_that_the_server_takes_for_alive_keeps_nobody_waiting_for_ever(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 1)
    with proxied(url) as (through, proxy):
        world = World(through, clock, policy=GUARD_OFF)
        world.sync()
        change(world)
        before = world.snapshot()
        proxy.cut = Cut.UNSEEN
        end_of_patience = threading.Timer(20, proxy.hang_up)
        end_of_patience.start()
        for _ in range(2):  # the one whose connection it was, and the next, which cannot even file its request
            with pytest.raises(StoreError, match="another session has kept a lock for 1 s"):
                world.sync()
            assert world.snapshot() == before
        end_of_patience.cancel()
    world.store = Store(url, clock)  # the server has noticed now
    world.sync()
    assert world.replica() == world.upstream()


# A holder who lost the lock --------------------------------------------------------------------------------------


def take_the_lock_away(store: Store) -> None:
    """Let a source's lock be lost without its holder's noticing: its session ends, or its file goes."""
    if store.path is not None:
        lock_path(store.path, SOURCE).unlink()
        return
    mine = "locktype = 'advisory' AND ((classid::bigint << 32) | objid::bigint) = :key"
    with store.reading() as connection:
        with connection.begin():
            pid = connection.scalar(text(f"SELECT pid FROM pg_locks WHERE {mine}"), {"key": advisory_key(SOURCE)})
        assert pid is not None
        terminate(connection, pid)


def test_a_holder_whose_lock_is_lost_and_taken_by_another_process_cannot_commit(
    migrated_url: str, tmp_path: Path
) -> None:
    with serve(tmp_path, migrated_url, 12) as site:
        site.configure(GUARDLESS)
        site.ok("sync")
        observer = CrashObserver(site)
        churn(site.school, random.Random(1), 6)
        holds, goes_on = threading.Event(), threading.Event()

        def wait_at_the_first(_request: Request) -> None:
            if not holds.is_set():
                holds.set()
                goes_on.wait(60)

        site.app.on_request = wait_at_the_first
        overtaken = site.start("sync")
        assert holds.wait(60)
        take_the_lock_away(observer.store)
        site.ok("sync")
        before = observer.snapshot()
        churn(site.school, random.Random(2), 6)
        goes_on.set()
        out, err = overtaken.communicate(timeout=60)
        assert overtaken.returncode == 1
        assert is_told_well(overtaken.returncode, out, err), err
        assert observer.snapshot() == before
        site.ok("sync")
        assert observer.is_exact()


# A server that refuses writes ------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[URL]:
    """A server of the test's own, which it may set read-only."""
    temporary = tempfile.TemporaryDirectory(prefix="rs-pg-", dir=memory(), ignore_cleanup_errors=True)
    with temporary as folder, running_postgres(Path(folder)) as admin:
        yield admin


def refuse_writes(server: URL) -> None:
    """Let each transaction that begins from now on be read-only, as after a change to a standby."""
    with psycopg.connect(server.set(drivername="postgresql").render_as_string(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")


def test_a_sync_beside_a_daemon_whose_server_refuses_writes_ends_with_the_reason(server: URL, tmp_path: Path) -> None:
    with serve(tmp_path, server.render_as_string(), 12) as site, started(site) as start:
        site.configure(GUARDLESS)
        start("run")
        wait_until(lambda: site.has_database() and "succeeded" in site.run("status").stdout)
        may_answer = threading.Event()
        site.app.on_request = lambda _: may_answer.wait(20)
        caller = start("sync", "--full")
        wait_until(lambda: site.rows("SELECT 1 FROM run_request WHERE state = 'taken'"))
        refuse_writes(server)
        may_answer.set()
        for process in (caller, start("sync")):  # one whose run cannot be committed, and one that cannot ask for a run
            _, err = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "in a read-only transaction\nhint: the server may be a standby" in err
