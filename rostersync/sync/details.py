"""Find out which keys only GET serves, and fetch these keys (the details) for a limited number of students.

`rostersync.projections` has the rule that combines a list row and a response to GET into one record. This module finds
out which keys lists serve and which keys GET serves. It also decides which students to request by GET.

* Until we know which keys GET serves, a run requests one student by GET and compares the response with the student's
  list row. No run makes this comparison before the first clean roster, because until then we do not know which keys
  lists serve.
* As long as we do not know any key that only GET serves, a run with a clean roster repeats the comparison once a week.
  Each time, the current hour decides which student is requested, because the student in an earlier comparison may have
  lacked a key.
* If GET serves keys that lists do not serve, a run requests every new student by GET. It also requests a student if
  the list row and the stored detail have a different `updated_at`. It requests at most `budget` students, and those who
  have waited longest come first. With the rest of the budget, the run reads details again that are older than a week,
  because a change of such a key may not change `updated_at`.

If a response to GET does not contain a student who exists, this module draws no conclusion from the response. The
staged student does not change, and a later run sends the request again.
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
"""A run requests no more details after this many consecutive responses that do not contain a current student."""

_SAMPLE = 20  # we choose one of this many students, to compare the response to GET with the list row


class Details:
    """The details of one run. When the run ends, `keys` contains what we know about the keys of the source."""

    def __init__(self, api: Api, stage: Stage, keys: Keys, *, has_details: bool, budget: int, now: datetime) -> None:
        """Prepare to find out keys and to fetch details.

        Args:
            api: The API of the source.
            stage: The stage, which contains everything that the run has received so far.
            keys: What we knew about the keys of the source before the run.
            has_details: Whether the replica contains the detail of at least one student.
            budget: The maximum number of students to request by GET, which is 0 or more.
            now: The time in UTC when the run began.

        """
        self._api = api
        self._stage = stage
        self._has_details = has_details
        self._budget = budget
        self._now = now
        self.keys = keys
        self.renews_all = False
        """Whether to combine all students with a detail again, because lists now serve a key that details have."""

    def learn(self, *, clean_roster: bool) -> None:
        """Find out which keys GET serves. If the run has read a clean roster, also find out which keys lists serve."""
        self.keys = self._stage.details.compare(self.keys)
        if self._probe_is_due(clean_roster=clean_roster):
            self._probe()
        if clean_roster:
            self._learn_listed()
        self.keys = self._stage.details.compare(self.keys)

    def _probe_is_due(self, *, clean_roster: bool) -> bool:
        """Return whether to request one student by GET only to compare the response with the student's list row.

        If we already know a key that only GET serves, the run requests details anyway, and compares those responses.
        """
        if self.keys.fetched is None:
            return clean_roster or (self.keys.listed is not None and bool(self._stage.students.keys))
        probed_at = self.keys.probed_at
        is_old = probed_at is None or not timedelta(0) <= self._now - probed_at < REREAD_AFTER
        return clean_roster and is_old and not self._needed

    def _probe(self) -> None:
        """Request one student by GET, and remember the time of this request.

        The current hour decides which student is requested. We do not always request the same student, because GET may
        fail for that student, or the student may lack a key.
        """
        sample = self._stage.details.not_asked(self._stage.controls(_SAMPLE))
        if sample and self._budget:
            self._read([sample[int(self._now.timestamp()) // 3600 % len(sample)]])
            self.keys = replace(self.keys, probed_at=self._now)

    def _learn_listed(self) -> None:
        """Add the keys in the rows of this roster to the keys that lists serve.

        If details also have a key, a condition must be met: of the students with this key in their detail, at least
        half must also have the key in their list row. Otherwise a single stray row would clear the key for all other
        students.
        """
        new = {key for key in self._stage.students.keys if self.keys.listed is None or not self.keys.lists_serve(key)}
        held = self._stage.details.support(new) if new else {}
        stray = {key for key, (holders, both) in held.items() if both * 2 < holders}
        self.keys = self.keys.with_listed(new - stray)
        self.renews_all = bool(held.keys() - stray)

    def ask(self) -> None:
        """Request students by GET if their details are due."""
        if self._needed or self._has_details:
            read_before = self._now - REREAD_AFTER
            self._read(self._stage.details.due(self._budget, needed=self._needed, read_before=read_before))
            self.keys = self._stage.details.compare(self.keys)

    def ask_for(self, ids: Sequence[int]) -> None:
        """Request these students by GET if they have a detail or need one, but not more students than the budget."""
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
