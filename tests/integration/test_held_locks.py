"""The locks that a daemon holds for its life, and what it tells of itself in the database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from rostersync.errors import DatabaseUnreachable, LockHeld, StoreError
from rostersync.report import RunKind
from rostersync.store.queue import daemons, lock
from rostersync.store.queue.daemons import Watch
from rostersync.store.queue.lock import lock_path
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock

    from rostersync.store.queue.lock import HeldLocks


@pytest.fixture
def store(migrated_url: str, clock: ManualClock) -> Store:
    return Store(migrated_url, clock)


@pytest.fixture
def locks(store: Store) -> Iterator[HeldLocks]:
    locks = store.held_locks("rostersync run")
    yield locks
    locks.drop()


def test_a_held_source_is_nobody_elses_and_its_holder_is_told(store: Store, locks: HeldLocks) -> None:
    locks.take("main")
    locks.take("annex")
    with pytest.raises(LockHeld, match="rostersync run"), store.lease("main", "rostersync sync"):
        pass
    with store.lease("main", "rostersync run", held=True):
        pass
    assert store.is_held("main")  # a run's end gives nothing up
    with pytest.raises(LockHeld, match="rostersync run"):
        store.held_locks("rostersync run").take("main")
    locks.require()
    assert locks.sources() == ["main", "annex"]


def test_a_source_that_is_released_is_free_and_the_others_are_not(store: Store, locks: HeldLocks) -> None:
    locks.take("main")
    locks.take("annex")
    locks.release("main")
    assert (store.is_held("main"), store.is_held("annex")) == (False, True)
    with store.lease("main", "rostersync sync"):
        pass


def test_a_source_that_could_not_be_taken_in_the_end_is_not_kept(
    store: Store, locks: HeldLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise StoreError("refused")

    with monkeypatch.context() as broken:
        broken.setattr(lock, "_raise_fence", refuse)
        with pytest.raises(StoreError, match="refused"):
            locks.take("main")
    assert locks.sources() == []
    assert not store.is_held("main")


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_all_locks_are_in_one_session_and_go_with_it(store: Store, locks: HeldLocks) -> None:
    for number in range(41):
        locks.take(f"school-{number}")
    sessions = "SELECT count(DISTINCT pid), count(*) FROM pg_locks WHERE locktype = 'advisory'"
    with store.reading() as connection, connection.begin():
        assert connection.exec_driver_sql(sessions).one() == (1, 41)
        connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    with pytest.raises(DatabaseUnreachable):
        locks.require()
    assert locks.sources() == []
    locks.take("school-1")
    assert store.is_held("school-1")


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_lock_whose_file_was_exchanged_is_lost(store: Store, locks: HeldLocks) -> None:
    locks.take("main")
    assert store.path is not None
    lock_path(store.path, "main").unlink()
    with store.lease("main", "rostersync sync"):
        locks.require()
    assert locks.sources() == []


def test_a_daemon_tells_of_its_sources_until_it_is_gone(store: Store, clock: ManualClock) -> None:
    due = clock.now() + timedelta(hours=1)
    watches = {"main": Watch(next_runs={RunKind.INCREMENTAL: due}), "annex": Watch(standby=True)}
    for _ in range(2):
        with store.writing() as connection:
            daemons.tell(connection, "rostersync run (pid 1 on here)", watches, clock.now())
    with store.reading() as connection:
        (told,) = daemons.alive(connection, clock.now())
        assert (told.name, told.sources) == ("rostersync run (pid 1 on here)", watches)
        clock.advance(61)
        assert daemons.alive(connection, clock.now()) == []
        clock.advance(-130)  # it was seen in a future that a wrong clock has dated
        assert daemons.alive(connection, clock.now()) == []
    with store.writing() as connection:
        daemons.tell(connection, "another", {}, clock.now())
    assert len(store_rows(store)) == 1
    with store.writing() as connection:
        daemons.forget(connection, "another")
    assert store_rows(store) == []


def store_rows(store: Store) -> list[object]:
    with store.reading() as connection, connection.begin():
        return list(connection.exec_driver_sql("SELECT name FROM daemon"))
