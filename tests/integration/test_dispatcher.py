"""The daemon's dispatcher, beside the threads of its runs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from canary import TOKEN
from daemons import wait_until
from school_site import serve

from rostersync.clock import SystemClock, WatchedClock
from rostersync.config import load
from rostersync.daemon.condition import Condition
from rostersync.daemon.dispatcher import Dispatcher
from rostersync.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


class RunsEndMeanwhile(WatchedClock):
    """Calls `meanwhile` before it answers whether a run is silent."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.meanwhile: Callable[[], object] = bool

    def silent_for(self, thread: int) -> float:
        self.meanwhile()
        return super().silent_for(thread)


def test_runs_may_end_while_the_daemon_looks_for_those_that_hang(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTERSYNC_TOKEN", TOKEN)
    may_answer, clock = threading.Event(), RunsEndMeanwhile()
    with serve(tmp_path, sqlite_url, size=2) as site:
        site.configure(sources=("main", "annex"))
        site.app.on_request = lambda _: may_answer.wait(20)
        config = load(site.path)
        store = open_store(config, clock, create=True)
        dispatcher = Dispatcher(config, clock, store, Condition(clock, None))
        wait_until(lambda: dispatcher.tick() or len(dispatcher._busy) == 2)

        def end_all_runs() -> None:
            may_answer.set()
            wait_until(lambda: not dispatcher._busy)

        clock.meanwhile = end_all_runs
        assert dispatcher.hung(60) == []
        dispatcher.stop()
        store.close()


def test_fifty_reloads_leave_as_many_threads_as_the_first(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTERSYNC_TOKEN", TOKEN)
    others, clock = set(threading.enumerate()), WatchedClock(SystemClock())
    with serve(tmp_path, sqlite_url, size=3) as site:
        site.configure("[sync]\nper_page = 1\nconcurrency = 2\n")
        site.app.on_request = lambda _: time.sleep(0.003)  # so that two are in flight whenever two may be
        config = load(site.path)
        store = open_store(config, clock, create=True)
        dispatcher = Dispatcher(config, clock, store, Condition(clock, None))

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
