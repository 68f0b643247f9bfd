"""What GET serves and lists do not: learning it, and asking for it within a budget.

The rule by which a list row and an answer of GET become one record is `rostersync.projections`. Here a run finds out
which keys are served where, and whom to ask.

* As long as it is unknown what GET serves, one student is asked for, and the answer is compared with the list row.
* If GET serves keys that lists do not, it is asked for every student who is new, or whose list row is newer than their
  detail: up to `budget` of them in a run, those who wait longest first. Within this budget details are read again after
  a week, because a change of such a key may leave `updated_at` as it is.

An answer that is not a student proves nothing here. The student stays as listed, and waits.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rostersync.records import Unclear

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rostersync.projections import Keys
    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api

REREAD_AFTER = timedelta(days=7)
"""The age at which a detail is read again, even if the list row has not changed."""

MOST_FAILURES = 3
"""After so many requests without a clear answer no more details are asked for in a run."""


class Details:
    """The details of one run. In the end `keys` says what is known of the source's keys."""

    def __init__(self, api: Api, stage: Stage, keys: Keys, *, budget: int, now: datetime) -> None:
        """Prepare them.

        Args:
            api: The API of the source.
            stage: What the run has received so far.
            keys: What was known of the keys before.
            budget: The most students to ask for, from 0.
            now: The time (UTC) by which details are a week old.

        """
        self._api = api
        self._stage = stage
        self._budget = budget
        self._now = now
        self.keys = keys
        self.renews_all = False
        """Whether everybody with a detail is to be judged again, because lists serve another of its keys."""

    def learn(self, *, clean_roster: bool) -> None:
        """Find out which keys lists and GET serve. Only a `clean_roster` says what lists serve."""
        self.keys = self._stage.details.compare(self.keys)
        if self.keys.fetched is None and (clean_roster or self.keys.listed is not None):
            self._read(self._stage.controls(1)[: self._budget])
        if clean_roster:
            self._learn_listed()
        self.keys = self._stage.details.compare(self.keys)

    def _learn_listed(self) -> None:
        """Add to the keys that lists serve those of this roster.

        A key that details hold is added only if at least half of the students who hold it there have it in their list
        row as well: one stray row must not clear a key of everybody else.
        """
        new = {key for key in self._stage.students.keys if self.keys.listed is None or not self.keys.lists_serve(key)}
        held = self._stage.details.support(new) if new else {}
        stray = {key for key, (holders, both) in held.items() if both * 2 < holders}
        self.keys = self.keys.with_listed(new - stray)
        self.renews_all = bool(held.keys() - stray)

    def ask(self) -> None:
        """Ask for the details that are due; once more if an answer shows that everybody needs one."""
        for _ in range(2):
            needed = self._needed
            read_before = self._now - REREAD_AFTER
            self._read(self._stage.details.due(self._budget, needed=needed, read_before=read_before))
            self.keys = self._stage.details.compare(self.keys)
            if self._needed is needed:
                break

    def ask_for(self, ids: Sequence[int]) -> None:
        """Ask for the details of some students, as far as these have or need one."""
        self._read(self._stage.details.of(ids, needed=self._needed)[: self._budget])
        self.keys = self._stage.details.compare(self.keys)

    @property
    def _needed(self) -> bool:
        return bool(self.keys.detail)

    def _read(self, ids: Sequence[int]) -> None:
        failures = 0
        for key, answer in self._api.answers(ids):
            self._stage.put_detail(key, answer)
            self._budget -= 1
            failures += isinstance(answer, Unclear)
            if failures == MOST_FAILURES:
                break
