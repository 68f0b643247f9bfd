"""Fetch single students by id after a command has changed them (a refresh). A refresh never removes a student.

If GET does not find a student, the stored student is left unchanged until the next full or incremental run, because a
refresh neither checks whether GET works nor limits the number of removals.
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
    """The students whom a refresh could not fetch.

    `unclear` is the number of students for whom the response to GET was unclear. `gone` is the number of students that
    GET did not find.
    """

    unclear: int
    gone: int


def fetch(api: Api, stage: Stage, ids: Sequence[int]) -> Fetched:
    """Fetch students and stage them. Students whom a list request does not return are fetched by GET."""
    fetch_again(api, stage, ids)
    ask(api, stage, stage.unproved_restores())
    fetched = Fetched(stage.unclear().total, sum(len(chunk) for chunk in stage.gone_ids()))
    stage.reject_absence_proofs(keep_plan=False)
    return fetched
