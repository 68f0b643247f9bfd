"""Looks at what a process that died has left behind, as readers and the next process see it."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from canary import SEARCH, TOKEN
from harness import GUARD_OFF, SOURCE, World

from rostersync.clock import SystemClock
from rostersync.managebac import ManageBac
from rostersync.managebac.reader import StudentReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from school_site import Site

    from rostersync.cancel import CancelScope

GUARDLESS = "[guard]\nmax_deletions = 100000\nmax_deletion_percent = 100.0\n"


class CrashObserver(World):
    """The replica of a site and the truth about its school, seen from outside the processes that die.

    `sync` is what comes after them: a run that nothing befalls, over real HTTP as well.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site.database_url, SystemClock(), size=0, policy=GUARD_OFF)
        self.school, self._api = site.school, site.base_url

    @contextmanager
    def connect(self, _source: str, scope: CancelScope) -> Iterator[StudentReader]:
        with ManageBac(self._api, TOKEN, scope=scope) as api:
            yield StudentReader(api)

    def is_exact(self) -> bool:
        return self.replica() == self.upstream()

    def tells_of_a_whole_run(self, before: dict[str, list[Any]]) -> bool:
        """Tell whether a run was applied since the snapshot `before`; fail where one was applied in part.

        The school must have rested since.
        """
        after = self.snapshot()
        if len(after["sync_run"]) == len(before["sync_run"]):
            assert after == before, "something changed, and no run is recorded"
            return False
        newest = self.rows("SELECT state, modified_watermark, deleted_watermark FROM sync_run ORDER BY run_id")[-1]
        state, *marks = newest.values()
        assert state == "succeeded"
        assert after["watermarks"] == [tuple(marks)], "the watermarks are not those of the recorded run"
        assert after["watermarks"] >= before["watermarks"]
        assert self.is_exact(), "a run is recorded, and its rows are not all there"
        return True

    def wait_for_the_lock(self) -> None:
        """Wait until the source is free: a server may take a moment to notice that its client is gone."""
        deadline = time.monotonic() + 20
        while self.store.is_held(SOURCE):
            assert time.monotonic() < deadline, "the dead process still holds the lock"
            time.sleep(0.01)

    def requests_of_the_dead(self) -> list[Any]:
        """Return the requests that somebody took and nobody has closed."""
        return self.rows("SELECT request_id FROM run_request WHERE state = 'taken'")


def is_told_well(status: int | None, out: str, err: str) -> bool:
    """Tell whether a process said what became of its run, and no more: its figures, or one clear line and a hint."""
    SEARCH.output(("sync",), out, err)
    lines = err.splitlines()
    if lines and "root_keeps_its_rights" in lines[0]:  # the tests run as root, without the service's user
        del lines[0]
    if status == -signal.SIGKILL:
        return not lines
    if status == 0:
        return not lines and "succeeded" in out
    what, hint = lines
    causes = ("cannot ", "main: cannot ", "source main: another process has taken over")
    return status == 1 and what.startswith(causes) and hint.startswith("hint: ")


@contextmanager
def noting(circumstances: str) -> Iterator[None]:
    """Add to a failure under which circumstances it happened."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(circumstances)
        raise
