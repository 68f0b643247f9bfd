"""Learn which keys only GET serves, and fetch these details of students within a budget.

`rostersync.projections` has the rule that makes one record of a list row and an answer of GET. This module finds out
which keys lists and GET serve, and decides which students to ask GET for.

* Until it is known what GET serves, a run asks GET for one student and compares the answer with the list row. No run
  does so before the first clean roster, because until then it is unknown what lists serve.
* As long as GET is not known to serve more than lists, a run with a clean roster repeats this comparison once a week.
  The hour decides which student it asks for, because an earlier student may have lacked a key.
* If GET serves keys that lists do not, a run asks GET for every student who is new, or whose list row is newer than the
  stored detail. It asks for at most `budget` students, those who wait longest first. With the rest of the budget it
  reads details again that are older than a week, because a change of such a key may not change `updated_at`.

An answer other than a living student proves nothing here. The staged student does not change, and a later run asks
GET again.
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
"""After this many answers in a row that are not a living student, the run stops asking for details."""

_SAMPLE = 20  # how many students to choose from when one answer of GET is compared with a list row


class Details:
    """The details of one run. At its end `keys` holds what is known about the source's keys."""

    def __init__(self, api: Api, stage: Stage, keys: Keys, *, has_details: bool, budget: int, now: datetime) -> None:
        """Prepare the details.

        Args:
            api: The API of the source.
            stage: What the run has received so far.
            keys: What was known about the keys before the run.
            has_details: Whether the detail of any student is stored.
            budget: The most students to ask GET for; 0 or more.
            now: When the run began, in UTC.

        """
        self._api = api
        self._stage = stage
        self._has_details = has_details
        self._budget = budget
        self._now = now
        self.keys = keys
        self.renews_all = False
        """Whether to combine all students again who have a detail, because lists now serve a key that details hold."""

    def learn(self, *, clean_roster: bool) -> None:
        """Find out which keys lists and GET serve. Only a `clean_roster` shows what lists serve."""
        self.keys = self._stage.details.compare(self.keys)
        if self._probe_is_due(clean_roster=clean_roster):
            self._probe()
        if clean_roster:
            self._learn_listed()
        self.keys = self._stage.details.compare(self.keys)

    def _probe_is_due(self, *, clean_roster: bool) -> bool:
        """Return whether to ask GET for one student only to compare the answer with the list row.

        If GET is known to serve more than lists, the run asks for details anyway and compares those.
        """
        if self.keys.fetched is None:
            return clean_roster or (self.keys.listed is not None and bool(self._stage.students.keys))
        probed_at = self.keys.probed_at
        is_old = probed_at is None or not timedelta(0) <= self._now - probed_at < REREAD_AFTER
        return clean_roster and is_old and not self._needed

    def _probe(self) -> None:
        """Ask GET for one student, chosen by the hour: GET may fail for one student, or that student may lack a key."""
        sample = self._stage.details.not_asked(self._stage.controls(_SAMPLE))
        if sample and self._budget:
            self._read([sample[int(self._now.timestamp()) // 3600 % len(sample)]])
            self.keys = replace(self.keys, probed_at=self._now)

    def _learn_listed(self) -> None:
        """Add the keys of this roster's rows to the keys that lists serve.

        A key that details hold is added only if at least half of the students with the key in their detail also have it
        in their list row. Otherwise a single stray row would clear the key for all other students.
        """
        new = {key for key in self._stage.students.keys if self.keys.listed is None or not self.keys.lists_serve(key)}
        held = self._stage.details.support(new) if new else {}
        stray = {key for key, (holders, both) in held.items() if both * 2 < holders}
        self.keys = self.keys.with_listed(new - stray)
        self.renews_all = bool(held.keys() - stray)

    def ask(self) -> None:
        """Ask GET for the details that are due."""
        if self._needed or self._has_details:
            read_before = self._now - REREAD_AFTER
            self._read(self._stage.details.due(self._budget, needed=self._needed, read_before=read_before))
            self.keys = self._stage.details.compare(self.keys)

    def ask_for(self, ids: Sequence[int]) -> None:
        """Ask GET for the details of these students, if they have or need one, within the budget."""
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
