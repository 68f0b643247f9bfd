"""For each student who seems to have left, decide whether to remove the student, hold the removal, or do nothing.

A removal must be proven by GET requests for that particular student. GET reports a student as gone if it returns a 404
or a record with a `deleted_at`. However, a permanent or temporary fault of the endpoint may cause the same response. So
a student counts as gone only if GET reports so twice, and returns a current student in between.
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
"""The maximum number of current students to request as a check that the endpoint for GET works."""

NAMED = (Reason.LISTED, Reason.MARKED, Reason.PROVED)
"""The reasons that make a student a candidate for removal in a run that is not a sweep.

Either the deleted feed lists the student, or the student's row has a `deleted_at`, or GET reports the student as gone.
"""

SWEPT = (Reason.LEFT, Reason.MARKED, Reason.PROVED, Reason.UNSEEN)
"""The reasons that make a student a candidate for removal in a sweep, which is a full run with a clean roster.

In a sweep, a student who is not on the roster is a candidate, too. If the deleted feed lists a student who is on the
roster, the student is a candidate only if GET also reports the student as gone.
"""

Plan = list[tuple[int, str, "datetime | None"]]
"""The removals that a run holds, each with the student's id, the `deletion_source`, and the deletion time or None."""


class RemovalOutcome(msgspec.Struct, frozen=True):
    """The numbers of candidates that are held and removed. `reason` says why candidates are held."""

    held: int = 0
    removed: int = 0
    guarded: int = 0
    """The number of students who are removed without being in an approved plan."""
    reason: str = ""
    unproved: tuple[int, ...] = ()
    """The ids in the approved plan of students who could not be proven gone in this run."""


class Removals:
    """The candidates for removal in one run. Each candidate is removed, held for approval, or left unchanged."""

    def __init__(self, api: Api, stage: Stage, held: Callable[[], list[int]], guard: Callable[[int], str]) -> None:
        """Prepare the candidates.

        Args:
            api: The API of the source.
            stage: The stage, which contains everything that the run has received so far.
            held: A function that returns the ids in open plans of incremental runs, except those that are already
                candidates.
            guard: A function that returns why the given number of removals must wait for approval, or "" if they need
                not wait.

        """
        self._api = api
        self._stage = stage
        self._held = held
        self._guard = guard

    def settle(self, kind: RunKind, *, sweep: bool, plan: Plan | None) -> RemovalOutcome:
        """Find out which candidates are gone, and which of those may be removed now.

        At the end, the stage contains the candidates to be removed and the candidates to be held.

        Args:
            kind: The kind of the run.
            sweep: Whether a student who is missing from the roster is a candidate.
            plan: The approved plan, or None if the run does not carry out an approved plan.

        Returns:
            The numbers of held and removed candidates, and the reason if some candidates are held.

        Raises:
            ApiError: A list request failed.

        """
        stage = self._stage
        # 1. The candidates are current students who seem to have left, judging by the deleted feed, a `deleted_at`, a
        #    response to GET or a sweep. The students in an approved plan are candidates, too.
        stage.collect_candidates(*(SWEPT if sweep else NAMED))
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, [self._held()])  # because the feed may no longer list them
        planned = self._add_plan(plan)
        if not (stage.count_candidates() or stage.absence_unconfirmed):
            return RemovalOutcome()  # nearly every run returns here, because no student left
        # 2. Send list requests with many ids, and drop the candidates who still exist.
        self._drop_the_living()
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, stage.stale())  # the list requests may have returned old rows
            stage.collect_candidates(Reason.PROVED)
        # 3. The guard counts the candidates who are not in the approved plan. If there are too many such candidates,
        #    these candidates are held, and are not requested by GET.
        reason = self._guard(stage.count_candidates(planned=False))
        # 4. Request by GET each candidate who is left. If the student is not gone, the stored student is left
        #    unchanged.
        self._prove(planned=True)
        if not reason:
            self._prove(planned=False)
        # 5. The control: since GET last reported a student as gone, it must have returned a current student. If it has
        #    not, this run removes none of the students whom GET reports as gone. There is one exception: if the school
        #    has no current students at all, the removals in an approved plan do not need this control.
        if not self._endpoint_works():
            reason = reason or "no living student could be fetched to confirm that the endpoint works"
            stage.reject_absence_proofs(keep_plan=plan is not None and not stage.controls(1))
        # 6. Request each student whom GET reports as gone once more. The last response counts.
        ask(self._api, stage, stage.gone_ids())
        stage.drop_disproved()
        return self._outcome(planned, reason)

    def _add_plan(self, plan: Plan | None) -> list[int]:
        """Add the students in an approved plan to the candidates. Return the ids of those that the replica still has.

        Deleted students are not in the result.
        """
        if not plan:
            return []
        self._stage.add_plan(plan)
        return [key for ids in self._stage.candidates(planned=True) for key in ids]

    def _drop_the_living(self) -> None:
        """Send list requests for the candidates, and drop the candidates who still exist."""
        for chunk in self._stage.candidates(proved=False):
            self._stage.drop_living_candidates(stage_living(self._api, self._stage, chunk))

    def _prove(self, *, planned: bool) -> None:
        """Request candidates by GET, and drop the candidates who are not gone.

        Args:
            planned: Whether to request the candidates in the approved plan. If false, request the candidates who are
                not in the plan.

        """
        ask(self._api, self._stage, self._stage.candidates(planned=planned, proved=False))
        self._stage.drop_disproved()

    def _endpoint_works(self) -> bool:
        """Return whether GET has returned a current student since it last reported a student as gone.

        If GET has not returned a current student since then, this method requests some current students.
        """
        if not self._stage.absence_unconfirmed:
            return True
        answers = (answer for _, answer in self._api.answers(self._stage.controls(CONTROLS)))
        # A record that cannot be decoded is no proof that the endpoint works.
        return any(isinstance(answer, Student) and answer.deleted_at is None for answer in answers)

    def _outcome(self, planned: list[int], reason: str) -> RemovalOutcome:
        stage = self._stage
        outside = stage.count_candidates(planned=False)
        held = outside if reason else 0
        left = {key for ids in stage.candidates(planned=True) for key in ids}
        unproved = tuple(key for key in planned if key not in left)
        return RemovalOutcome(held, stage.count_candidates() - held, outside - held, reason if held else "", unproved)
