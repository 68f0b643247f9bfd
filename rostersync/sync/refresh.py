"""Fetch single students by id after they were written (a refresh). A refresh proves that students live, never absence.

If GET does not find a student, the stored student does not change until a run reads lists, because a refresh does not
check whether GET works, and does not limit removals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.sync.api import ask, fetch_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api


class Fetched(msgspec.Struct, frozen=True):
    """The number of students about whom GET gave no clear answer (`unclear`), or whom it did not find (`gone`)."""

    unclear: int
    gone: int


def fetch(api: Api, stage: Stage, ids: Sequence[int]) -> Fetched:
    """Stage students: from list requests if these return them as living, and otherwise from GET."""
    fetch_again(api, stage, ids)
    ask(api, stage, stage.unproved_restores())
    fetched = Fetched(stage.unclear().total, sum(len(chunk) for chunk in stage.gone_ids()))
    stage.reject_absence_proofs(keep_plan=False)
    return fetched
