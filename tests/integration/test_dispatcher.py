"""The daemon's dispatcher, beside the threads of its runs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from canary import TOKEN
from conftest import ManualClock
from daemons import wait_until
from school_site import serve

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.config import load
from rostersync.daemon.condition import Condition
from rostersync.daemon.dispatcher import Dispatcher
from rostersync.errors import RostersyncError
from rostersync.report import RunKind
from rostersync.simulator import faults
from rostersync.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from school_site import Site

    from rostersync.simulator.faults import Fault


def test_runs_may_end_while_the_daemon_looks_for_those_that_hang(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTERSYNC_TOKEN", TOKEN)
    may_answer, clock, silent_for = threading.Event(), SystemClock(), CancelScope.silent_for
    with serve(tmp_path, sqlite_url, size=2) as site:
        site.configure(sources=("main", "annex"))
        site.app.on_request = lambda _: may_answer.wait(20)
        config = load(site.path)
        store = open_store(config, clock, create=True)
        dispatcher = Dispatcher(config, CancelScope(clock), store, Condition(clock, None))
        wait_until(lambda: dispatcher.tick() or len(dispatcher._busy) == 2)

        def after_all_runs_have_ended(scope: CancelScope) -> float:
            may_answer.set()
            wait_until(lambda: not dispatcher._busy)
            return silent_for(scope)

        monkeypatch.setattr(CancelScope, "silent_for", after_all_runs_have_ended)
        assert dispatcher.hung(60) == []
        dispatcher.stop()
        store.close()


def test_fifty_reloads_leave_as_many_threads_as_the_first(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTERSYNC_TOKEN", TOKEN)
    others, clock = set(threading.enumerate()), SystemClock()
    with serve(tmp_path, sqlite_url, size=3) as site:
        site.configure("[sync]\nper_page = 1\nconcurrency = 2\n")
        site.app.on_request = lambda _: time.sleep(0.003)  # so that two are in flight whenever two may be
        config = load(site.path)
        store = open_store(config, clock, create=True)
        dispatcher = Dispatcher(config, CancelScope(clock), store, Condition(clock, None))

        def threads() -> Counter[str]:
            names = Counter(thread.name.split("-")[0] for thread in set(threading.enumerate()) - others)
            return Counter({name: names[name] for name in ("run", "page", "exchange", "APScheduler")})

        def reload_and_sync() -> None:
            dispatcher.configure(load(site.path))
            for key in site.school.truth():
                site.school.update(int(key), nickname=f"Quell{len(site.app.log)}")
            asked = len(site.app.log)
            dispatcher.sync_now()
            wait_until(lambda: dispatcher.tick() or (len(site.app.log) > asked and not dispatcher._busy))

        counts = []
        for _ in range(50):
            reload_and_sync()
            wait_until(lambda: threads()["run"] == 1)
            counts.append(threads())
        assert counts[-1] == counts[0] == {"run": 1, "page": 2, "exchange": 2, "APScheduler": 1}
        dispatcher.stop()
        store.close()


# After a failure -------------------------------------------------------------------------------------------------


class OneSource:
    """A dispatcher with the source `main` at a site, and the clock that drives it."""

    def __init__(self, site: Site, clock: ManualClock) -> None:
        self.site, self.clock = site, clock
        config = load(site.path)
        self.store = open_store(config, clock, create=True)
        self.dispatcher = Dispatcher(config, CancelScope(clock), self.store, Condition(clock, None))

    def begin(self) -> list[str]:
        """Do the first run, which is due at once, and return how it has ended."""
        wait_until(lambda: self.dispatcher.tick() or self.site.rows("SELECT 1 FROM run_request"))
        return self.states_after(minutes=0)

    def states_after(self, minutes: float) -> list[str]:
        """Let time pass, do what is due, and return how all runs so far have ended."""
        self.clock.advance(60 * minutes)
        self.dispatcher.tick()
        wait_until(lambda: not self.dispatcher._busy)
        return [row.state for row in self.site.rows("SELECT state FROM sync_run ORDER BY run_id")]


@pytest.fixture
def one_source(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], OneSource]]:
    monkeypatch.setenv("ROSTERSYNC_TOKEN", TOKEN)
    with serve(tmp_path, sqlite_url, size=2) as site, _ends() as made:

        def make(*wrong: tuple[Fault, int | None]) -> OneSource:
            for fault, times in wrong:
                site.faults.add(fault, times=times)
            made.append(OneSource(site, ManualClock(datetime.now(UTC))))
            return made[-1]

        yield make


@contextmanager
def _ends() -> Iterator[list[OneSource]]:
    made: list[OneSource] = []
    yield made
    for one in made:
        one.dispatcher.stop()
        one.store.close()


def test_a_run_that_failed_is_tried_again_after_1_and_then_5_minutes(one_source: Callable[..., OneSource]) -> None:
    source = one_source((faults.http_status(503), 2))
    assert source.begin() == ["failed"]
    assert source.states_after(minutes=0.9) == ["failed"]
    assert source.states_after(minutes=0.2) == ["failed"] * 2
    due = source.dispatcher.watches()["main"].next_runs[RunKind.FULL]
    assert (due - source.clock.now()).total_seconds() == pytest.approx(300, abs=1)
    assert source.states_after(minutes=4.9) == ["failed"] * 2
    assert source.states_after(minutes=0.2) == ["failed", "failed", "succeeded"]
    assert source.states_after(minutes=35) == ["failed", "failed", "succeeded"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_run_that_the_api_denied_access_waits_for_its_slot(one_source: Callable[..., OneSource], status: int) -> None:
    source = one_source((faults.http_status(status), None))
    assert source.begin() == ["failed"]
    for minutes in (2, 6, 16, 31):
        assert source.states_after(minutes) == ["failed"]


def test_a_failure_that_left_no_run_is_tried_again_too(
    one_source: Callable[..., OneSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = one_source()
    executor = source.dispatcher._executor
    with monkeypatch.context() as broken:
        broken.setattr(executor, "_connect", _fail)
        assert source.begin() == []
    assert source.states_after(minutes=1.1) == ["succeeded"]


def _fail(*_: object) -> None:
    raise RostersyncError("the disk is full")
