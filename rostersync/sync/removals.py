"""From somebody who seems to have left to a removal that is proved, held, or dropped.

Relies on GET for the proof, id by id. A 404 may be a fault of the endpoint or of a moment, so it counts only when it
comes twice, and when in between a living student was fetched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.records import Student
from rostersync.report import RunKind
from rostersync.sync.api import ask, stage_living

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api

CONTROLS = 3
"""How many living students are tried as a control of the endpoint that proves removals."""

NAMED = ("listed", "marked", "proved")
"""Who is a candidate: whom the deleted feed lists, who bears `deleted_at`, or who GET says is gone."""

SWEPT = ("left", "marked", "proved", "unseen")
"""The same after a clean roster: everybody who is not in the roster, and nobody only because the feed lists them."""

Plan = list[tuple[int, str, "datetime | None"]]
"""The removals of a held run: id, deletion source, and when it happened where that is known."""


class RemovalOutcome(msgspec.Struct, frozen=True):
    """What became of the candidates for removal; `reason` says why some are held."""

    held: int = 0
    removed: int = 0
    guarded: int = 0
    """Those removed whom no approval covers."""
    reason: str = ""
    unproved: tuple[int, ...] = ()
    """Planned removals that were not proved again."""


class Removals:
    """The candidates of one run, on their way to be removed, held, or left as they are."""

    def __init__(self, api: Api, stage: Stage, held: Callable[[], list[int]], guard: Callable[[int], str]) -> None:
        """Prepare them. `held` returns whom open plans hold and who are no candidates yet.

        `guard` returns why so many removals must wait for approval, nothing when they need not.
        """
        self._api = api
        self._stage = stage
        self._held = held
        self._guard = guard

    def settle(self, kind: RunKind, *, sweep: bool, plan: Plan | None) -> RemovalOutcome:
        """Find out which candidates are gone and may be removed; the stage keeps these, and those to be held.

        With `sweep` absence from the roster makes a candidate. `plan` is what is being approved, None without an
        approval. Raises `ApiError` when the API does not answer.
        """
        stage = self._stage
        # 1. Candidates: students stored as living who have left by the deleted feed, a `deleted_at`, GET or a sweep,
        #    and those of the plan that is being approved.
        stage.collect_removals(*(SWEPT if sweep else NAMED))
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, [self._held()])  # a feed that no longer names them ends no hold: see 2
        planned = self._add_plan(plan)
        if not (stage.count_removals() or stage.absence_unconfirmed):
            return RemovalOutcome()  # nearly every run: nobody has left, and no 404 is to be believed
        # 2. A list request by ids shows who lives after all, many at once.
        self._drop_the_living()
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, stage.stale())  # that list may lag behind
            stage.collect_removals("proved")
        # 3. The guard: more removals than it allows, those of the plan aside, are held and need no proof yet.
        reason = self._guard(stage.count_removals(planned=False))
        # 4. GET says of each who is left that they are gone. Who lives, or whose answer is unclear, stays as stored.
        self._prove(planned=True)
        if not reason:
            self._prove(planned=False)
        # 5. The control: a living student was fetched after the last 404. Where there is none at all, an approval
        #    stands in for it, for what it covers; else no 404 of this run is believed.
        if not self._endpoint_works():
            reason = reason or "no living student could be fetched to confirm that the endpoint works"
            stage.reject_absence_proofs(keep_plan=plan is not None and not stage.controls(1))
        # 6. GET once more for everybody who is said to be gone: the last answer counts.
        ask(self._api, stage, stage.gone_ids())
        stage.drop_disproved()
        return self._outcome(planned, reason)

    def _add_plan(self, plan: Plan | None) -> list[int]:
        """Add an approved plan to the candidates; return the ids of all whom it still concerns."""
        if not plan:
            return []
        self._stage.plan_removals(plan)
        return [key for ids in self._stage.removals(planned=True) for key in ids]

    def _drop_the_living(self) -> None:
        """Let go of the candidates whom a list request by ids still shows."""
        for chunk in self._stage.removals(proved=False):
            self._stage.drop_living_candidates(stage_living(self._api, self._stage, chunk))

    def _prove(self, *, planned: bool) -> None:
        """Ask for each candidate by GET; only those who are gone stay candidates."""
        ask(self._api, self._stage, self._stage.removals(planned=planned, proved=False))
        self._stage.drop_disproved()

    def _endpoint_works(self) -> bool:
        """Tell whether GET has shown a living student since it last said that somebody is gone; else try some."""
        if not self._stage.absence_unconfirmed:
            return True
        answers = (answer for _, answer in self._api.answers(self._stage.controls(CONTROLS)))
        # A record that cannot be decoded may come from anything.
        return any(isinstance(answer, Student) and answer.deleted_at is None for answer in answers)

    def _outcome(self, planned: list[int], reason: str) -> RemovalOutcome:
        stage = self._stage
        outside = stage.count_removals(planned=False)
        held = outside if reason else 0
        left = {key for ids in stage.removals(planned=True) for key in ids}
        unproved = tuple(key for key in planned if key not in left)
        return RemovalOutcome(held, stage.count_removals() - held, outside - held, reason if held else "", unproved)
