"""Find out which keys are returned only by GET, and fetch these keys (the details) for a limited number of students.

The rule for combining a list row and a response to GET into one record is in `rostersync.projections`. This module
finds out which keys lists contain and which keys GET returns, and decides which students to request by GET.

* Until we know which keys GET returns, a run requests one student by GET and compares the response with the student's
  list row. This comparison is not made before the first clean roster, because until then we do not know which keys
  lists contain.
* As long as we know of no key that only GET returns, a run with a clean roster repeats the comparison once a week. The
  current hour decides which student is requested. So the student varies, because the student in an earlier comparison
  may have lacked a key.
* If GET returns keys that lists do not contain, a run requests every new student by GET. A student is also requested if
  the `updated_at` of the list row differs from that of the stored detail. At most `budget` students are requested,
  beginning with those who have waited longest. The rest of the budget is used to fetch details again that are older
  than a week, because a change to a key that only GET returns may leave `updated_at` unchanged.

If a response to GET does not contain a current student, this module draws no conclusion from the response. The staged
student is left unchanged, and a later run sends the request again.
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
"""The age at which a detail is fetched again even if the list row has not changed."""

MOST_FAILURES = 3
"""A run stops requesting details after this many consecutive responses without a current student."""

_SAMPLE = 20  # the number of students from whom one is chosen for the comparison


class Details:
    """The details of one run. After the run, `keys` contains what is known about the source's keys."""

    def __init__(self, api: Api, stage: Stage, keys: Keys, *, has_details: bool, budget: int, now: datetime) -> None:
        """Prepare to find out which keys exist and to fetch details.

        Args:
            api: The API of the source.
            stage: The stage, which contains everything that the run has received so far.
            keys: What was known about the source's keys before the run.
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
        """Whether to combine every student who has a detail again, because lists now contain a key of the details."""

    def learn(self, *, clean_roster: bool) -> None:
        """Find out which keys GET returns and, if the run has read a clean roster, which keys lists contain."""
        self.keys = self._stage.details.compare(self.keys)
        if self._probe_is_due(clean_roster=clean_roster):
            self._probe()
        if clean_roster:
            self._learn_listed()
        self.keys = self._stage.details.compare(self.keys)

    def _probe_is_due(self, *, clean_roster: bool) -> bool:
        """Return whether to request one student by GET just to compare the response with the student's list row.

        If a key is known that only GET returns, the run requests details anyway, and compares the responses.
        """
        if self.keys.fetched is None:
            return clean_roster or (self.keys.listed is not None and bool(self._stage.students.keys))
        probed_at = self.keys.probed_at
        is_old = probed_at is None or not timedelta(0) <= self._now - probed_at < REREAD_AFTER
        return clean_roster and is_old and not self._needed

    def _probe(self) -> None:
        """Request one student by GET, and record the time of the request.

        The current hour decides which student is requested. The student varies, because GET may fail for a particular
        student, or that student may lack a key.
        """
        sample = self._stage.details.not_asked(self._stage.controls(_SAMPLE))
        if sample and self._budget:
            self._read([sample[int(self._now.timestamp()) // 3600 % len(sample)]])
            self.keys = replace(self.keys, probed_at=self._now)

    def _learn_listed(self) -> None:
        """Record that lists contain the keys that the rows of this roster have.

        If details also have a key, one more condition applies: at least half of the students whose detail has the key
        must also have it in their list row. Otherwise, a single unusual row would erase the key's values for all other
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
        """Request by GET the students among `ids` who have a detail or need one, up to the budget."""
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
