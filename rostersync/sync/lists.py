"""Read lists that change while we read them, and find out whether we may have missed a row that moved between pages.

The API divides a list into pages by the position of each row. When a row leaves the list or moves further down, all
rows that came after it move up by one. In that case, the first row of the next page moves to a page that we have
already read, so we miss this row. The API does not document the order of a list, and a page does not say which rows are
on the other pages. Therefore, these rules apply to the roster and to both feeds:

* If the number of distinct records on a page equals its `total_count`, the page is the whole list, and the list is
  clean.
* A reading is one pass through all pages. A reading is steady if all pages reported the same `total_count` and
  `per_page`, and together contained exactly `total_count` records without duplicates. If a page reports no `per_page`,
  the reading can still be steady, because the proof below does not need `per_page`. If the first page has no
  `total_pages`, we compute the number of pages from its `total_count` and the number of its rows.
* A list is clean if the reading right after a steady reading contains all ids of the steady reading. The second reading
  need not be steady. The result describes the list as it was when the steady reading started. The next run reads all
  changes after that time.
* If a page has the same ids and `updated_at` times as the same-numbered page of the steady reading, the rows of both
  pages are the same, and are not staged again.

Why no student is missed: suppose that student X is in the list the whole time, but a steady reading of T records misses
X. When the server created the last page of that reading, the list had T records, and X was one of them. So by then, at
least one of the T records that we read (call it Y) had left the list. If Y has not come back, the next reading does not
contain Y, so the list is not clean. If Y has come back to the roster, student Y was deleted and restored during the two
readings.

The proof does not depend on the order of the list, on another feed or on a clock. The proof assumes that no page shows
an older state of the list than an earlier page did. So student X can only be missed if two of the server's read
replicas lag by different amounts of time, or if record Y leaves the list and comes back. A later full run then adds
student X again.
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
    """The result of reading a list.

    `moment` is the time when the server created the first page of the reading. `total` is the number of records in the
    list. `ignored` is true if the server ignores the filter of the deleted feed, in which case only some rows of the
    first page were kept. `without_ids` is true if the list has records without a readable id, which cannot be assigned
    to a student.
    """

    clean: bool
    moment: Moment
    total: int
    ignored: bool = False
    without_ids: bool = False

    @property
    def complete(self) -> bool:
        """Whether it is certain that no record of the list was missed."""
        return self.clean and not self.ignored and not self.without_ids

    @property
    def start(self) -> datetime | None:
        """The new time for the watermark of the feed. It is None if the feed is incomplete or the time is unknown."""
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
        """Read the roster or the modified feed, depending on `query`.

        Args:
            query: The filter of the list.
            first: The first page of the list, which the caller has already fetched.

        """
        students = self._read(query, first, self._stage.students)
        return replace(students, without_ids=self._stage.received().without_id > 0)

    def deleted(self, since: datetime) -> ListResult:
        """Read the deleted feed.

        If the server ignores the filter of the feed, the response may contain any student. We then read only the first
        page, and keep only its rows with a `deleted_at`. Students who left and are not in these rows are found by full
        runs.
        """
        query = Query(deleted_since=since)
        first = self._api.first_page(query)
        if first.total_count and self._api.ignores_deleted_since(first):
            self._stage.deletions.put(first.number, list(_marked(first)))
            return ListResult(True, first.moment, first.total_count, ignored=True)
        feed = self._read(query, first, self._stage.deletions)
        return replace(feed, without_ids=self._stage.deletions.lack_ids())

    def deletions_until(self, roster: ListResult, watermark: datetime | None, overlap: timedelta) -> ListResult:
        """Read the deleted feed from `watermark`, or from the time when the roster was read if that is earlier.

        A roster shows neither when nor how a missing student left, but the deleted feed may show both.
        """
        begun = roster.moment.start or roster.moment.local
        return self.deleted(filter_start(min(begun, watermark or begun), overlap))

    def _read(self, query: Query, first: Page, into: StagedList) -> ListResult:
        """Read a list several times until it is clean (see the module docstring).

        If the list is still not clean after the last attempt, the rows from every reading stay in the stage.
        """
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
        """Read all pages of a list once, and stage their rows.

        A page that equals the same-numbered page of the steady reading `before` is not staged again.
        """
        into.begin_reading()
        rows, alike, same = 0, True, []
        digests: dict[int, bytes | None] = {}
        for page in chain([first], () if first.whole else self._api.pages(query, first.others)):
            if page is None:  # the list has become shorter, so this page no longer exists
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
    """One reading of a list. `digests` maps the number of each page to the page's digest."""

    first: Page
    digests: dict[int, bytes | None]
    steady: bool
    repeats: bool = False
    """Whether every page equals the same-numbered page of the previous reading, and the previous reading was steady."""


def _marked(page: Page) -> Iterator[ListedRow]:
    """Yield the rows on a page that have a `deleted_at`."""
    for listed in page.listed:
        row = listed.decode()
        if isinstance(row, Student) and row.deleted_at is not None:
            yield listed


def _name(query: Query) -> str:
    return "deletions" if query.deleted_since else "changes" if query.modified_since else "roster"
