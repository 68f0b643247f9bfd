"""A refresh: single students fetched by id, after they were written. It proves life, never absence.

Who is not found stays as stored until a run that reads lists: here are no control and no guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rostersync.sync.api import ask, fetch_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api


class Fetched(NamedTuple):
    """For how many students GET had no clear answer, and how many it did not find."""

    unclear: int
    gone: int

    @property
    def notices(self) -> tuple[str, ...]:
        """What is to be told of them."""
        text = "students who were not found, and stay as stored until the next run"
        return (f"{text}: {self.gone}",) if self.gone else ()


def fetch(api: Api, stage: Stage, ids: Sequence[int]) -> Fetched:
    """Stage students: by list requests, as far as these show them alive, and whom they do not show by GET."""
    fetch_again(api, stage, ids)
    ask(api, stage, stage.unproved_restores())
    fetched = Fetched(stage.unclear().total, sum(len(chunk) for chunk in stage.gone_ids()))
    stage.reject_absence_proofs(keep_plan=False)
    return fetched
