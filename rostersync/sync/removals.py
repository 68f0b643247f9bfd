"""Decide about each student who seems to have left: remove, hold for approval, or keep.

GET proves a removal, one id at a time. It says that a student is gone by a 404, or by a record with `deleted_at`.
Either may be a fault of the endpoint, or a passing one. So it counts only if GET says it twice, and if GET returned a
living student in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.records import Student
from rostersync.report import RunKind
from rostersync.store.stage import Reason
from rostersync.sync.api import ask, stage_living

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api

CONTROLS = 3
"""The most living students to try as a control of the endpoint that proves removals."""

NAMED = (Reason.LISTED, Reason.MARKED, Reason.PROVED)
"""Why a student is a candidate: the deleted feed lists them, their row has `deleted_at`, or GET says they are gone."""

SWEPT = (Reason.LEFT, Reason.MARKED, Reason.PROVED, Reason.UNSEEN)
"""The reasons after a clean roster. A student who is missing from the roster is a candidate, too.

If the deleted feed lists a student, the student is a candidate only if the roster does not contain the student, or if
GET says that the student is gone.
"""

Plan = list[tuple[int, str, "datetime | None"]]
"""The removals of a held run: id, deletion source, and the time of the deletion if it is known."""


class RemovalOutcome(msgspec.Struct, frozen=True):
    """What became of the candidates for removal. `reason` says why some are held."""

    held: int = 0
    removed: int = 0
    guarded: int = 0
    """The number of removals that no approval covers."""
    reason: str = ""
    unproved: tuple[int, ...] = ()
    """The ids of the approved plan that were not proved gone again."""


class Removals:
    """The candidates for removal of one run. Each is removed, held, or left as stored."""

    def __init__(self, api: Api, stage: Stage, held: Callable[[], list[int]], guard: Callable[[int], str]) -> None:
        """Prepare the candidates.

        Args:
            api: The API of the source.
            stage: What the run has received so far.
            held: Returns the ids in open plans of incremental runs that are not candidates yet.
            guard: Returns why this number of removals must wait for approval, or "" if it need not.

        """
        self._api = api
        self._stage = stage
        self._held = held
        self._guard = guard

    def settle(self, kind: RunKind, *, sweep: bool, plan: Plan | None) -> RemovalOutcome:
        """Find out which candidates are gone and may be removed. The stage keeps these, and the candidates to hold.

        `sweep` says whether a student who is absent from the roster becomes a candidate. `plan` is the approved plan,
        None without an approval. Raises `ApiError` if a list request fails.
        """
        stage = self._stage
        # 1. Candidates are students stored as living who have left according to the deleted feed, a `deleted_at`, GET
        #    or a sweep. The students of an approved plan are candidates, too.
        stage.collect_candidates(*(SWEPT if sweep else NAMED))
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, [self._held()])  # the feed may no longer name them, but step 2 must find them
        planned = self._add_plan(plan)
        if not (stage.count_candidates() or stage.absence_unconfirmed):
            return RemovalOutcome()  # nearly every run ends here: no student has left
        # 2. Find out by list requests with many ids which candidates are alive after all.
        self._drop_the_living()
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, stage.stale())  # the list request may have returned old rows
            stage.collect_candidates(Reason.PROVED)
        # 3. The guard counts the removals that are not in the plan. If there are too many, they are held without proof.
        reason = self._guard(stage.count_candidates(planned=False))
        # 4. GET must confirm that each remaining candidate is gone. Otherwise the stored student does not change.
        self._prove(planned=True)
        if not reason:
            self._prove(planned=False)
        # 5. The control: GET must have returned a living student since it last reported one as gone. If the school
        #    has no living student at all, an approval replaces the control for the removals that it covers. Otherwise
        #    this run does not trust GET about any student who is gone according to GET.
        if not self._endpoint_works():
            reason = reason or "no living student could be fetched to confirm that the endpoint works"
            stage.reject_absence_proofs(keep_plan=plan is not None and not stage.controls(1))
        # 6. Ask GET again for each student that it reported as gone. The last answer counts.
        ask(self._api, stage, stage.gone_ids())
        stage.drop_disproved()
        return self._outcome(planned, reason)

    def _add_plan(self, plan: Plan | None) -> list[int]:
        """Add an approved plan to the candidates, and return its ids that are still stored as living."""
        if not plan:
            return []
        self._stage.add_plan(plan)
        return [key for ids in self._stage.candidates(planned=True) for key in ids]

    def _drop_the_living(self) -> None:
        """Drop the candidates that a list request by ids returns as living."""
        for chunk in self._stage.candidates(proved=False):
            self._stage.drop_living_candidates(stage_living(self._api, self._stage, chunk))

    def _prove(self, *, planned: bool) -> None:
        """Ask GET for the candidates of the approved plan, or for the others, and drop the ones who are not gone."""
        ask(self._api, self._stage, self._stage.candidates(planned=planned, proved=False))
        self._stage.drop_disproved()

    def _endpoint_works(self) -> bool:
        """Return whether GET returned a living student after it last reported one as gone. If not, ask for some now."""
        if not self._stage.absence_unconfirmed:
            return True
        answers = (answer for _, answer in self._api.answers(self._stage.controls(CONTROLS)))
        # A record that cannot be decoded does not count: it does not show that the endpoint works.
        return any(isinstance(answer, Student) and answer.deleted_at is None for answer in answers)

    def _outcome(self, planned: list[int], reason: str) -> RemovalOutcome:
        stage = self._stage
        outside = stage.count_candidates(planned=False)
        held = outside if reason else 0
        left = {key for ids in stage.candidates(planned=True) for key in ids}
        unproved = tuple(key for key in planned if key not in left)
        return RemovalOutcome(held, stage.count_candidates() - held, outside - held, reason if held else "", unproved)
