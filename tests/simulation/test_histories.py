"""Histories of days, each from one seed: in the end the replica equals upstream.

A failure names its seed; `./dev simulate --from SEED 1` plays it again.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from conftest import ManualClock
from histories import History

from rostersync.store.store import Store

HISTORIES = 2000
PARTS = 20
"""The histories of each database are divided among this many tests, which can run in parallel."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, PARTS))])
def test_after_any_history_the_replica_equals_upstream(migrated_url: str, part: int) -> None:
    store = Store(migrated_url, ManualClock(), keep_sessions=True)
    with closing(store):
        for seed in range(part, HISTORIES, PARTS):
            History(seed, migrated_url, store).play()


@pytest.mark.parametrize("seed", [2566, 13413, 34586])
def test_a_history_that_once_diverged_does_not(migrated_url: str, seed: int) -> None:
    """A hold that could not end; students whom a replica behind showed alive, beside one who had slipped."""
    History(seed, migrated_url, Store(migrated_url, ManualClock()), maximum=False).play()
