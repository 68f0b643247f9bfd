"""Histories of days, each from one seed: in the end the replica equals upstream.

A failure names its seed; `./dev simulate --from SEED 1` plays it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from conftest import ManualClock
from histories import History

from rostersync.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

HISTORIES = 240
PARTS = 4
"""The histories of one database are dealt to so many tests, which may run side by side."""

MEMORY = Path("/dev/shm")  # a crash here is of the process, not of the disk: nothing need reach one


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def fast_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The database's url; a SQLite file in memory, where there is such a place."""
    if not (database_url.startswith("sqlite") and MEMORY.is_dir()):
        yield database_url
        return
    path = MEMORY / f"rostersync-{tmp_path.parent.name}-{tmp_path.name}.db"
    yield f"sqlite:///{path}"
    for leftover in MEMORY.glob(f"{path.name}*"):
        leftover.unlink()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_after_any_history_the_replica_equals_upstream(fast_url: str, part: int) -> None:
    store = Store(fast_url, ManualClock(), create=True)
    for seed in range(part, HISTORIES, PARTS):
        History(seed, fast_url, store).play()
