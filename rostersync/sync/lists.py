"""Read lists that change while we read them, and find out whether a row may have been lost between two pages.

The API cuts a list into pages by position. If a row leaves the list, or moves back in it, the rows behind it move up.
Then the first row of the next page moves to a page that we have already read, and we miss it. The API promises no
order, and no page says what the others held. So the same rule applies to the roster and to both feeds:

* If a page has as many distinct records as its `total_count`, it is the whole list, and the list is clean.
* A reading fetches all pages once. It is steady if every page gave the same `total_count` and `per_page`, and the pages
  together had exactly `total_count` records and none of them twice. A page without `per_page` agrees with the
  others, because the proof below does not need it. If the first page names no `total_pages`, the number follows from
  its `total_count` and the number of its rows.
* A list is clean if the reading after a steady one finds all ids of the steady one again. That second reading need not
  be steady. The result is dated from the start of the steady reading, so the next run reads later changes again.
* If a page has the same ids and stamps as the page with the same number in the steady reading, it has the same rows.
  These rows are not staged again.

Why no student is lost: Suppose that X is in the list the whole time, and that a steady reading of T records misses X.
When the server made the last of these pages, the list had T records, and X was one of them. So one of the T records
that were read had left the list by then. Call this record Y. If Y has not come back, the next reading misses Y, so the
list is not clean. If Y of the roster has come back, Y was deleted and restored within two readings.

The proof needs no order, no other feed and no clock. It does need all pages to show one list that only moves forward in
time. So it can fail if read replicas lag by different times, or if a record comes back as Y does. A later full run
restores X.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from rostersync.records import Query, Student
from rostersync.sync.watermarks import filter_start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from rostersync.records import ListedRow, Moment, Page
    from rostersync.report import ProgressCallback
    from rostersync.store.stage import Stage, StagedList
    from rostersync.sync.api import Api


class ListResult(msgspec.Struct, frozen=True):
    """How a list was read.

    `moment` is the time of the result: when the first page of the reading was made. `total` is the number of records in
    the list. `ignored` means that the deleted feed ignores its filter, so only some rows of its first page were kept.
    `without_ids` means that some records have no readable id, so it is unknown which students they are about.
    """

    clean: bool
    moment: Moment
    total: int
    ignored: bool = False
    without_ids: bool = False

    @property
    def complete(self) -> bool:
        """Whether no record of the list can be missing."""
        return self.clean and not self.ignored and not self.without_ids

    @property
    def start(self) -> datetime | None:
        """The time that a feed's watermark may move to; None if the feed is incomplete or the time is unknown."""
        return self.moment.start if self.complete else None


class ListReader:
    """Reads the lists of one source into the stage."""

    def __init__(self, api: Api, stage: Stage, attempts: int, progress: ProgressCallback) -> None:
        """Prepare to read each list at most `attempts` + 1 times."""
        self._api = api
        self._stage = stage
        self._attempts = attempts
        self._progress = progress

    def students(self, query: Query, first: Page) -> ListResult:
        """Read the roster or the modified feed, as `query` asks. The caller has fetched its `first` page."""
        students = self._read(query, first, self._stage.students)
        return replace(students, without_ids=self._stage.received().without_id > 0)

    def deleted(self, since: datetime) -> ListResult:
        """Read the deleted feed.

        If the feed ignores its filter, it may list any student. Then only the rows of its first page that have a
        `deleted_at` are kept, and no other page is read. Full runs find the other students who have left.
        """
        query = Query(deleted_since=since)
        first = self._api.first_page(query)
        if first.total_count and self._api.ignores_deleted_since(first):
            self._stage.deletions.put(first.number, list(_marked(first)))
            return ListResult(True, first.moment, first.total_count, ignored=True)
        feed = self._read(query, first, self._stage.deletions)
        return replace(feed, without_ids=self._stage.deletions.lack_ids())

    def deletions_until(self, roster: ListResult, watermark: datetime | None, overlap: timedelta) -> ListResult:
        """Read the deleted feed from `watermark`, or from the start of `roster` if that is earlier.

        A roster does not show when or how a missing student left, but the deleted feed may.
        """
        begun = roster.moment.start or roster.moment.local
        return self.deleted(filter_start(min(begun, watermark or begun), overlap))

    def _read(self, query: Query, first: Page, into: StagedList) -> ListResult:
        """Read a list until it is clean: see the module docstring. If it never is, all its rows stay staged."""
        steady: _Reading | None = None  # the previous reading, if it was steady
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
        """Stage one reading of a list. Pages that equal those of the steady reading `before` are not staged again."""
        into.begin_reading()
        rows, alike, same = 0, True, []
        digests: dict[int, bytes | None] = {}
        for page in chain([first], () if first.whole else self._api.pages(query, first.others)):
            if page is None:  # the list has become shorter, and this page no longer exists
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
    """One reading of a list: its first page, and the digest of each page by the page's number."""

    first: Page
    digests: dict[int, bytes | None]
    steady: bool
    repeats: bool = False
    """Whether every page equals the page with the same number in the previous steady reading."""


def _marked(page: Page) -> Iterator[ListedRow]:
    """Yield the rows of students that have a `deleted_at`."""
    for listed in page.listed:
        row = listed.decode()
        if isinstance(row, Student) and row.deleted_at is not None:
            yield listed


def _name(query: Query) -> str:
    return "deletions" if query.deleted_since else "changes" if query.modified_since else "roster"
