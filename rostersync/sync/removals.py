"""Removing: whoever seems to have left is proved gone, one by one, or stays.

A candidate passes four gates. A list request by ids spares whom it still shows. The guard holds more than a school
plausibly loses in a day. GET must answer that he is gone, and, after a living student was fetched to show that the
endpoint works, answer so again: one 404 may be a fault of a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rostersync.records import Student, is_alive
from rostersync.report import RunKind
from rostersync.sync.lists import Proofs, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from rostersync.records import Answer, Row
    from rostersync.sync.lists import Api

BATCH = 50
"""How many ids one list request asks for: a plausible cap of its answer, and of the address's length."""

CONTROLS = 3
"""How many living students are tried as a control of the endpoint that proves removals."""

Plan = list[tuple[int, str, "datetime | None"]]
"""The removals of a held run: id, deletion source, and when it happened where that is known."""


class Stage(Proofs, Protocol):
    """Where the candidates are kept, beside what was read; see `store.stage`."""

    def put(self, rows: Iterable[Row]) -> None: ...
    def stale(self) -> Iterator[list[int]]: ...
    def collect_removals(self, *, sweep: bool) -> None: ...
    def collect_proved(self) -> None: ...
    def plan_removals(self, plan: Plan) -> None: ...
    def removals(self, *, planned: bool | None = None, proved: bool | None = None) -> Iterator[list[int]]: ...
    def count_removals(self, *, planned: bool | None = None) -> int: ...
    def drop_unproved(self) -> None: ...
    def spare(self, ids: Iterable[int]) -> None: ...
    def controls(self, limit: int) -> list[int]: ...
    def gone_ids(self) -> Iterator[list[int]]: ...
    def any_gone(self) -> bool: ...
    def reject_absence_proofs(self, *, keep_plan: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class RemovalOutcome:
    """What became of the candidates for removal. `reason` tells why some are held."""

    held: int = 0
    removed: int = 0
    guarded: int = 0
    reason: str = ""
    unproved: tuple[int, ...] = ()
    """Planned removals that were not proved again."""


class Removals:
    """The candidates of one run, on their way to be removed, held, or left as they are."""

    def __init__(self, api: Api, stage: Stage, *, held: Callable[[], list[int]], guard: Callable[[int], str]) -> None:
        """Prepare them. `held` returns whom open plans hold, the candidates aside.

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
        stage.collect_removals(sweep=sweep)
        if kind is RunKind.INCREMENTAL:  # an empty deleted feed, which names none of them, ends no hold
            ask(self._api, stage, [self._held()])
        planned = self._plan(plan)
        self._spare_the_living()
        if kind is RunKind.INCREMENTAL:
            ask(self._api, stage, stage.stale(), stale=True)  # of those whom the list by ids has just brought
            stage.collect_proved()  # whom plans hold, and who was spared by a list that lagged behind
        outside = stage.count_removals(planned=False)
        reason = self._guard(outside)
        self._prove(planned=True)
        if not reason:
            self._prove(planned=False)
        if not self._endpoint_works():
            reason = "no living student could be fetched to confirm that the endpoint works"
            # Where there is no such student at all, an approval stands in for him, for what was approved.
            stage.reject_absence_proofs(keep_plan=plan is not None and not stage.controls(1))
        self._prove_again()
        return self._settled(planned, reason)

    def _plan(self, plan: Plan | None) -> list[int]:
        """Add an approved plan to the candidates; return the ids of all whom it still concerns."""
        if not plan:
            return []
        self._stage.plan_removals(plan)
        return [key for ids in self._stage.removals(planned=True) for key in ids]

    def _spare_the_living(self) -> None:
        """Take out of the candidates whom a list request by ids still shows: that proves life, and only life."""
        for chunk in self._stage.removals(proved=False):
            for start in range(0, len(chunk), BATCH):
                rows = self._api.by_ids(chunk[start : start + BATCH])
                if rows is None:
                    return  # the filter is ignored: GET will tell
                living = [row for row in rows if is_alive(row)]
                self._stage.put(living)
                self._stage.spare(row.id for row in living if row.id is not None)

    def _prove(self, *, planned: bool) -> None:
        """Ask for each candidate by GET; only the proved ones stay candidates."""
        ask(self._api, self._stage, self._stage.removals(planned=planned, proved=False))
        self._stage.drop_unproved()

    def _endpoint_works(self) -> bool:
        """Tell whether a 404 of this run can be believed: a living student who is not in question answers 200."""
        if not self._stage.any_gone():
            return True
        return any(_lives(answer) for _, answer in self._api.answers(self._stage.controls(CONTROLS)))

    def _prove_again(self) -> None:
        """Ask once more for everybody who was proved gone, candidate or not: the last answer counts."""
        ask(self._api, self._stage, self._stage.gone_ids())
        self._stage.drop_unproved()

    def _settled(self, planned: list[int], reason: str) -> RemovalOutcome:
        stage = self._stage
        outside = stage.count_removals(planned=False)
        held = outside if reason else 0
        left = {key for ids in stage.removals(planned=True) for key in ids}
        unproved = tuple(key for key in planned if key not in left)
        return RemovalOutcome(held, stage.count_removals() - held, outside - held, reason if held else "", unproved)


def _lives(answer: Answer) -> bool:
    """Tell whether a control answers with a student: a record that cannot be decoded may come from anything."""
    return isinstance(answer, Student) and answer.deleted_at is None
