"""Decide for each student who seems to have left whether to remove the student, hold the removal, or do nothing.

A removal is proven by GET requests for that one student. A student is gone according to GET if the response is a 404,
or a record with `deleted_at`. But a lasting or temporary fault of the endpoint may cause the same response. So a
student counts as gone only if GET says so twice, and if GET returns another student in between.
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
"""The maximum number of current students to request in order to check that the endpoint for GET works."""

NAMED = (Reason.LISTED, Reason.MARKED, Reason.PROVED)
"""The reasons why a student is a candidate in a run that is not a sweep.

The deleted feed lists the student, the student's row has a `deleted_at`, or the student is gone according to GET.
"""

SWEPT = (Reason.LEFT, Reason.MARKED, Reason.PROVED, Reason.UNSEEN)
"""The reasons why a student is a candidate in a sweep, which is a full run with a clean roster.

A student who is missing from the roster is also a candidate. If the deleted feed lists a student whom the roster
contains, the student is a candidate only if the student is gone according to GET.
"""

Plan = list[tuple[int, str, "datetime | None"]]
"""The removals of a held run. Each has the student's id, the deletion source, and the time of the deletion or None."""


class RemovalOutcome(msgspec.Struct, frozen=True):
    """How many candidates are held or removed. `reason` says why some of them are held."""

    held: int = 0
    removed: int = 0
    guarded: int = 0
    """The number of students who are removed without an approval."""
    reason: str = ""
    unproved: tuple[int, ...] = ()
    """The ids in the approved plan of students who could not be proven gone again."""


class Removals:
    """The candidates for removal in one run. Each candidate is removed, held for approval, or left unchanged."""

    def __init__(self, api: Api, stage: Stage, held: Callable[[], list[int]], guard: Callable[[int], str]) -> None:
        """Prepare the candidates.

        Args:
            api: The API of the source.
            stage: The stage, which contains everything that the run has received so far.
            held: A function that returns the ids in open plans of incremental runs that are not candidates yet.
            guard: A function that returns why the given number of removals must wait for approval, or "" if they need
                not wait.

        """
        self._api = api
        self._stage = stage
        self._held = held
        self._guard = guard

    def settle(self, kind: RunKind, *, sweep: bool, plan: Plan | None) -> RemovalOutcome:
        """Find out which candidates are gone, and which of these may be removed now.

        At the end, the stage contains the candidates to remove and the candidates to hold.

        Args:
            kind: The kind of the run.
            sweep: Whether a student who is missing from the roster is a candidate.
            plan: The approved plan, or None if the run has no approval.

        Returns:
            The numbers of held and removed candidates, and the reason if some candidates are held.

        Raises:
            ApiError: A list request failed.

        """
        stage = self._stage
        # 1. The candidates are current students who seem to have left because of the deleted feed, a `deleted_at`, a
        #    response to GET or a sweep. The students in an approved plan are candidates, too.
        stage.collect_candidates(*(SWEPT if sweep else NAMED))
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, [self._held()])  # the feed may no longer list these students
        planned = self._add_plan(plan)
        if not (stage.count_candidates() or stage.absence_unconfirmed):
            return RemovalOutcome()  # nearly every run ends here: no student has left
        # 2. Send list requests with many ids, and drop the candidates who still exist.
        self._drop_the_living()
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, stage.stale())  # the list requests may have returned old rows
            stage.collect_candidates(Reason.PROVED)
        # 3. The guard counts the candidates who are not in the approved plan. If there are too many, they are held, and
        #    we do not request them by GET.
        reason = self._guard(stage.count_candidates(planned=False))
        # 4. Request each remaining candidate by GET. If the student is not gone, the stored student does not change.
        self._prove(planned=True)
        if not reason:
            self._prove(planned=False)
        # 5. The control: GET must have returned a student who exists after it last said that a student is gone.
        #    Otherwise this run removes no student who is gone according to GET. There is one exception: if the school
        #    has no current student at all, the removals in an approved plan need no control.
        if not self._endpoint_works():
            reason = reason or "no living student could be fetched to confirm that the endpoint works"
            stage.reject_absence_proofs(keep_plan=plan is not None and not stage.controls(1))
        # 6. Request each student who is gone according to GET once more. The last response counts.
        ask(self._api, stage, stage.gone_ids())
        stage.drop_disproved()
        return self._outcome(planned, reason)

    def _add_plan(self, plan: Plan | None) -> list[int]:
        """Add the students in an approved plan to the candidates. Return the ids of those who are still in the replica.

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
            planned: Whether to request the candidates in the approved plan. If false, request all other candidates.

        """
        ask(self._api, self._stage, self._stage.candidates(planned=planned, proved=False))
        self._stage.drop_disproved()

    def _endpoint_works(self) -> bool:
        """Return whether GET has returned a student who exists after it last said that a student is gone.

        If GET has not done so yet, request some current students now.
        """
        if not self._stage.absence_unconfirmed:
            return True
        answers = (answer for _, answer in self._api.answers(self._stage.controls(CONTROLS)))
        # A record that cannot be decoded does not count, because it does not show that the endpoint works.
        return any(isinstance(answer, Student) and answer.deleted_at is None for answer in answers)

    def _outcome(self, planned: list[int], reason: str) -> RemovalOutcome:
        stage = self._stage
        outside = stage.count_candidates(planned=False)
        held = outside if reason else 0
        left = {key for ids in stage.candidates(planned=True) for key in ids}
        unproved = tuple(key for key in planned if key not in left)
        return RemovalOutcome(held, stage.count_candidates() - held, outside - held, reason if held else "", unproved)
