"""Reading lists that move while they are read, and knowing when nothing has slipped between their pages.

Pages are cut out of a list by position. When a row leaves the list, or moves back in it, the rows behind it move up,
and the first of the next page slips past the reader. No order is promised, and no page says what the others held. So
there is one rule for every list, the roster and both feeds:

* A page that brings as many distinct records as its total_count is the whole list, and clean.
* A reading is all pages. It is steady when every page gave the same total_count and per_page, and together they
  brought exactly so many records, none twice. A page that gives no per_page agrees with the others: the proof below
  does not need it. The pages then follow from the total_count and the rows of the first page.
* A list is clean when the reading after a steady one, steady itself or not, brings all of its ids again. It is as of
  the start of the steady one: what changes after that is read again by the next run. A page that has the same ids and
  stamps as the page of this number in the steady reading brings the same rows again, so they are not looked at.

Why nobody is lost. Let X be in the list all the while, and let a steady reading of T records miss X. When the page that
was made last was made, the list had T records, X among them; so one of the T that were read, Y, had left it by then.
So the next reading does not bring Y, and the list is not clean; unless Y has left the list and come back. For the
roster that means deleted and restored within two readings.

The proof relies on no order, no other feed and no clock. It does rely on all pages showing one list that moves forward
in time: read replicas that lag differently can defeat it, as such a Y can. A later full run brings X back.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from rostersync.records import Query, Student
from rostersync.sync.plan import filter_start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from rostersync.records import ListedRow, Moment, Page
    from rostersync.report import ProgressCallback
    from rostersync.store.stage import Stage, StagedList
    from rostersync.sync.api import Api


class ListResult(msgspec.Struct, frozen=True):
    """How a list was read.

    `moment` is when the first page of the reading was made that the result is as of; `total` is how many records the
    list has. Of a deleted feed that ignores its filter (`ignored`) only some rows of the first page were kept; in one
    that is `without_ids` are records that lack a readable id, so that it is unknown whom they mean.
    """

    clean: bool
    moment: Moment
    total: int
    ignored: bool = False
    without_ids: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing of the list can be missing."""
        return self.clean and not self.ignored and not self.without_ids

    @property
    def start(self) -> datetime | None:
        """What may date the list's watermark; None: nothing may."""
        return self.moment.start if self.complete else None


class ListReader:
    """Reads the lists of one source into the stage."""

    def __init__(self, api: Api, stage: Stage, attempts: int, progress: ProgressCallback) -> None:
        """Prepare to read; of each list `attempts` + 1 readings are made at most."""
        self._api = api
        self._stage = stage
        self._attempts = attempts
        self._progress = progress

    def students(self, query: Query, first: Page) -> ListResult:
        """Read the roster or the modified feed, as `query` asks. `first` is its first page, which is there already."""
        return self._read(query, first, self._stage.students)

    def deleted(self, since: datetime) -> ListResult:
        """Read the deleted feed.

        One that ignores its filter may list anybody: of its first page the rows that bear `deleted_at` are kept, and
        nothing else is read. Full runs find who else has left.
        """
        query = Query(deleted_since=since)
        first = self._api.first_page(query)
        if first.total_count and self._api.ignores_deleted_since(first):
            self._stage.deletions.put(first.number, list(_marked(first)))
            return ListResult(True, first.moment, first.total_count, ignored=True)
        feed = self._read(query, first, self._stage.deletions)
        return replace(feed, without_ids=self._stage.deletions.lack_ids())

    def deletions_until(self, roster: ListResult, watermark: datetime | None, overlap: timedelta) -> ListResult:
        """Read the deleted feed from `watermark` to `roster`: absence from a roster tells neither when nor how."""
        begun = roster.moment.start or roster.moment.local
        return self.deleted(filter_start(min(begun, watermark or begun), overlap))

    def _read(self, query: Query, first: Page, into: StagedList) -> ListResult:
        """Read a list until it is clean: see the module's text. All that was read of an unclean one stays staged."""
        steady: _Reading | None = None  # the reading before, if it was steady
        for attempt in range(self._attempts + 1):
            if attempt:
                first = self._api.first_page(query)
            reading = self._read_once(query, first, into, steady)
            if first.whole or reading.repeats or (steady and into.missed() == 0):
                into.keep_this_reading()
                as_of = first if first.whole or steady is None else steady.first
                return ListResult(True, as_of.moment, first.total_count)
            steady = reading if reading.steady else None
        return ListResult(False, first.moment, first.total_count)

    def _read_once(self, query: Query, first: Page, into: StagedList, before: _Reading | None) -> _Reading:
        """Stage one reading of a list. A page that is as it was in the steady reading `before` is not staged again."""
        into.begin_reading()
        rows, alike, same = 0, True, []
        digests: dict[int, bytes | None] = {}
        for page in chain([first], () if first.whole else self._api.pages(query, first.others)):
            if page is None:  # it fell off the end of a list that has become shorter
                alike = False
                continue
            rows += len(page.listed)
            alike = alike and not page.contradicts(first)
            digests[page.number] = page.digest
            if before and page.digest and page.digest == before.digests.get(page.number):
                same.append(page.number)
            else:
                into.put(page.number, page.listed)
            self._progress(_name(query), rows, page.total_count)
        if before and len(same) == len(digests) == len(before.digests):
            into.drop_reading()
            return _Reading(first, before.digests, steady=True, repeats=True)
        into.keep_pages(same)
        steady = first.whole or (alike and rows == into.seen() == first.total_count)
        return _Reading(first, digests, steady=steady)


class _Reading(msgspec.Struct, frozen=True):
    """One reading of a list: its first page, and the digests of its pages by their numbers."""

    first: Page
    digests: dict[int, bytes | None]
    steady: bool
    repeats: bool = False
    """Whether every page is as it was in the steady reading before."""


def _marked(page: Page) -> Iterator[ListedRow]:
    """Yield the rows that say of themselves that they are deleted."""
    for listed in page.listed:
        row = listed.decode()
        if isinstance(row, Student) and row.deleted_at is not None:
            yield listed


def _name(query: Query) -> str:
    return "deletions" if query.deleted_since else "changes" if query.modified_since else "roster"
