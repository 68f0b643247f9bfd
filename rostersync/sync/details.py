"""What GET serves and lists do not: learning it, and asking for it within a budget.

The rule by which a list row and an answer of GET become one record is `rostersync.projections`. Here a run finds out
which keys are served where, and whom to ask.

* As long as it is unknown what GET serves, a run that received a student asks for one, and compares the answer with the
  list row. Once a week this is repeated with another student, because the first one may have lacked a key.
* If GET serves keys that lists do not, it is asked for every student who is new, or whose list row is newer than their
  detail: up to `budget` of them in a run, those who wait longest first. Within this budget details are read again after
  a week, because a change of such a key may leave `updated_at` as it is.

An answer that is not a student proves nothing here. The student stays as listed, and waits.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rostersync.projections import Keys
    from rostersync.store.stage import Stage
    from rostersync.sync.api import Api

REREAD_AFTER = timedelta(days=7)
"""The age at which a detail is read again, even if the list row has not changed."""

MOST_FAILURES = 3
"""After so many answers in a row that are not a student no more details are asked for in a run."""

_SAMPLE = 20  # students among whom the one is chosen whose answer is compared


class Details:
    """The details of one run. In the end `keys` says what is known of the source's keys."""

    def __init__(self, api: Api, stage: Stage, keys: Keys, *, has_details: bool, budget: int, now: datetime) -> None:
        """Prepare them.

        Args:
            api: The API of the source.
            stage: What the run has received so far.
            keys: What was known of the keys before.
            has_details: Whether the detail of any student is stored.
            budget: The most students to ask for, from 0.
            now: When the run began, in UTC.

        """
        self._api = api
        self._stage = stage
        self._has_details = has_details
        self._budget = budget
        self._now = now
        self.keys = keys
        self.renews_all = False
        """Whether everybody with a detail is to be judged again, because lists serve another of its keys."""

    def learn(self, *, clean_roster: bool) -> None:
        """Find out which keys lists and GET serve. Only a `clean_roster` says what lists serve."""
        self.keys = self._stage.details.compare(self.keys)
        if self._probe_is_due(clean_roster=clean_roster):
            self._probe()
        if clean_roster:
            self._learn_listed()
        self.keys = self._stage.details.compare(self.keys)

    def _probe_is_due(self, *, clean_roster: bool) -> bool:
        """Return whether an answer of GET should be compared with a list row, because nothing else will show it."""
        if self.keys.fetched is None:
            return clean_roster or (self.keys.listed is not None and bool(self._stage.students.keys))
        probed_at = self.keys.probed_at
        is_old = probed_at is None or not timedelta(0) <= self._now - probed_at < REREAD_AFTER
        return clean_roster and is_old and not self._needed

    def _probe(self) -> None:
        """Ask for one student: by the hour another one, because GET may fail for one, or lack a key of theirs."""
        sample = self._stage.details.not_asked(self._stage.controls(_SAMPLE))
        if sample and self._budget:
            self._read([sample[int(self._now.timestamp()) // 3600 % len(sample)]])
            self.keys = replace(self.keys, probed_at=self._now)

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
        """Ask for the details that are due."""
        if self._needed or self._has_details:
            read_before = self._now - REREAD_AFTER
            self._read(self._stage.details.due(self._budget, needed=self._needed, read_before=read_before))
            self.keys = self._stage.details.compare(self.keys)

    def ask_for(self, ids: Sequence[int]) -> None:
        """Ask for the details of some students, as far as these have or need one."""
        if self._needed or self._has_details:
            self._read(self._stage.details.of(ids, needed=self._needed)[: self._budget])
        self.keys = self._stage.details.compare(self.keys)

    @property
    def _needed(self) -> bool:
        return bool(self.keys.detail)

    def _read(self, ids: Sequence[int]) -> None:
        failures = 0
        for key, answer in self._api.answers(ids):
            failures = 0 if self._stage.put_detail(key, answer) else failures + 1
            self._budget -= 1
            if failures == MOST_FAILURES:
                break
