"""Reading lists that move while they are read, and knowing when nothing was lost.

Pages are cut out of a list by position. When a row leaves the list, or moves, the rows behind it move up, and the
first of the next page slips past the reader. No order is promised, so no order helps; what helps is counting.

The books
---------
The students sighted on the pages, and in the modified feed read behind them, less those whom the deleted feed lists
and GET proves gone, are compared with T: the list's own total, read last. Let U be the students who were there from
the start of the crawl to T and that nobody sighted: the loss that must not be.

* The sum is smaller than T by each of U; by each student created after the modified feed was read; and by each
  student deleted only after T was read, whom the last reading of the deleted feed shows.
* The sum is larger than T only by a student who was sighted and left unseen: one who was deleted, and restored just
  after T, or whom GET, asking a replica that lags behind, shows alive; or one whose deletion the feed does not show.
  Against the first two the deleted feed is read behind the first page, and on both sides of T: whoever was sighted and
  stands in any of these readings must be proved gone after the last, or is in doubt. Against the last every departure
  must be explained: the largest total that any page told, plus those sighted who came in since the first page (created,
  or restored and stored as tombstones), less T, is at least the number who left; and it must not be more than the
  departures that the deleted feed shows. But for what remains, below, each inequality in this errs towards unclean.
* A deleted feed that lists as many from a day that is still to come ignores its filter, and may list anybody: it
  explains nothing, so that a crawl amid which somebody leaves is not clean, and it puts nobody in doubt.
* Who came in is not told by stamps alone: app servers' clocks differ, and commits are late. So the modified feed is
  read once before the first page, too, from as far back as stamps may lie; and whoever is sighted with such a stamp,
  is not in that reading and not stored, came in. Those read there are no sightings: they may leave before page 1.

So where the sum equals T, nobody is in doubt and no departure lacks its explanation, nothing larger can hide anything
smaller, and U is empty; but for what remains.

Where the server's clock falls amid the crawl, the stamps behind the fall lie before the windows: that is not clean.

What remains can make up for a row that slipped in the same crawl, and the next full run brings that row back:

* A restore amid the crawl that leaves no sign: of a student who was deleted between the readings of the deleted feed on
  both sides of T, or whose removal no feed ever showed; in a first run, of any who was deleted long before it (nothing
  tells him from one who only logged in); in a later one, of a tombstone whose restore bumps no `updated_at`, or of one
  still stored as living, deleted before the crawl. Of these, the first run's and the last two need a removal without a
  trace beside them, or a feed that ignores its filter.
* A student deleted just before the crawl, where a page and every reading of the deleted feed come from a replica that
  lags behind, and T does not; or where only the first of these readings does, beside a removal without a trace.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rostersync.errors import DECLINED
from rostersync.records import Query, Student, row_key
from rostersync.report import ignore_progress
from rostersync.sync.plan import earlier, fallen, greater, since

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rostersync.records import Answer, Moment, Page, Row
    from rostersync.report import ProgressCallback, SourceState
    from rostersync.sync.plan import SyncPolicy

Departures = tuple[tuple[int, datetime | None], ...]
"""Ids that the deleted feed lists, with their `deleted_at` where it is given."""

TO_COME = timedelta(days=365)
"""So far ahead nobody has left yet, by any clock."""

END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class Api(Protocol):
    """What a run asks of the API. Each raises `ApiError` where the API does not answer."""

    def page(self, query: Query, number: int) -> Page | None:
        """Return a page, None for one beyond the end of the list."""
        ...

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        """Yield pages in the order of `numbers`; they may be asked for concurrently."""
        ...

    def by_ids(self, ids: Sequence[int]) -> tuple[Row, ...] | None:
        """Return those of `ids` that the list knows; None when the filter is ignored."""
        ...

    def answers(self, ids: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Yield what GET answers for each of `ids`."""
        ...


class Proofs(Protocol):
    """Where the answers of GET are kept."""

    def put_answer(self, key: int, answer: Answer, *, stale: bool = False) -> None: ...


def ask(api: Api, proofs: Proofs, questions: Iterable[list[int]], *, stale: bool = False) -> None:
    """Ask for students by id: the answer is their latest sighting, or proves them gone.

    With `stale` the students were sighted older than they are stored. Raises `ApiError` when the API does not answer.
    """
    for ids in questions:
        for key, answer in api.answers(ids):
            proofs.put_answer(key, answer, stale=stale)


class Stage(Proofs, Protocol):
    """Where a crawl keeps what it reads; see `store.stage`."""

    def begin_reading(self) -> None: ...
    def put(self, rows: Iterable[Row], *, paged: bool = False) -> None: ...
    def sightings(self) -> int: ...
    def put_early(self, rows: Iterable[Row]) -> None: ...
    def entered(self, window: datetime) -> int: ...
    def keep_current_reading(self) -> None: ...
    def begin_departures(self) -> int: ...
    def put_departures(self, rows: Iterable[tuple[int, datetime | None]]) -> None: ...
    def departures(self) -> int: ...
    def departures_after(self, reading: int) -> int: ...
    def departed_and_sighted(self) -> Iterator[list[int]]: ...
    def drop_proofs(self) -> None: ...
    def gone(self) -> int: ...
    def sighted_and_departed(self, reading: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Stream:
    """A crawl's outcome. `start`, by the earlier clock, dates a clean one's watermark; None: no clock can be believed.

    `moment` is when its first page was made.
    """

    clean: bool
    start: datetime | None
    moment: Moment


@dataclass(frozen=True, slots=True)
class DeletedFeed:
    """A deleted feed as read: `reading` is the number of its last reading in the stage."""

    clean: bool
    start: datetime | None
    moment: Moment
    reading: int
    ignored: bool = False
    """Whether the server ignores the filter, so that the feed may list anybody."""
    marked: Departures = ()
    """Of such a one, those of its first page that bear `deleted_at`."""

    @property
    def explains(self) -> bool:
        """Whether a departure may be explained by it."""
        return self.clean and not self.ignored


@dataclass(frozen=True, slots=True)
class Roster:
    """A crawled roster: `total` is the last total told.

    `start` and `moment` are as a stream's, `window` is from when on the feeds were asked for.
    """

    clean: bool
    start: datetime | None
    moment: Moment
    window: datetime
    total: int


@dataclass(frozen=True, slots=True)
class Books:
    """The figures of one balancing; see the module's text for what each can hide."""

    sighted: int
    gone: int
    in_doubt: int
    total: int
    largest: int
    entered: int
    departed: int

    @property
    def sum_is_right(self) -> bool:
        """Whether the students sighted, less the gone, are as many as the list says."""
        return self.in_doubt == 0 and self.sighted - self.gone == self.total

    @property
    def balance(self) -> bool:
        """Whether the sum is right and every departure is explained."""
        left = max(self.largest, self.total) + self.entered - self.total
        return self.sum_is_right and left <= self.departed


@dataclass(frozen=True, slots=True)
class _Reading:
    """One reading of a feed over its pages."""

    first: Page
    rows: int
    steady: bool
    """Whether all pages were there, of one size, and told one total."""
    digest: int
    """The sum of the rows' hashes: two readings of the same rows have the same, whatever their order."""

    @property
    def atomic(self) -> bool:
        """Whether one page held the whole list: nothing can have slipped between pages."""
        return self.first.whole


class Crawler:
    """Reads the lists of one source into a stage."""

    def __init__(
        self, api: Api, stage: Stage, state: SourceState, policy: SyncPolicy, watch: ProgressCallback = ignore_progress
    ) -> None:
        self._api = api
        self._stage = stage
        self._marks = state.watermarks
        self._newest = state.newest_updated_at
        self._policy = policy
        self._watch = watch
        self._deleted_since_ignored: bool | None = None

    # The roster ----------------------------------------------------------------------------------------------

    def roster(self) -> Roster:
        """Read the whole list until its books balance, in both directions, `policy.attempts` times at most."""
        for attempt in range(self._policy.attempts):
            found = self._roster_once(backwards=attempt % 2 == 1)
            if found.clean:
                self._stage.keep_current_reading()
                break
        return found

    def _roster_once(self, *, backwards: bool) -> Roster:
        self._stage.begin_reading()
        opening = self._first_page(Query())
        window = self._window(opening)
        found = partial(Roster, start=self._start(opening), moment=opening.moment, window=window)
        if opening.whole:
            self._stage.put(opening.rows, paged=True)
            return found(clean=True, total=opening.total_count)
        self._read(
            Query(modified_since=since(window, self._policy.overlap)), lambda page: self._stage.put_early(page.rows)
        )
        first = self._first_page(Query())
        self._stage.put(first.rows, paged=True)
        before = self._departures_amid(window)
        largest = self._other_pages(first, backwards=backwards)
        if largest is None:
            return found(clean=False, total=first.total_count)
        for _ in range(2):
            books, closing = self._balance(window, before, largest)
            # What happened behind a fall bears stamps from before the windows: no feed has told of it.
            fell = fallen(closing.server_ahead_s, opening.moment.server_ahead_s, self._policy.overlap)
            if books.balance and not fell:
                return found(clean=True, total=books.total)
            largest = max(largest, books.total)
        return found(clean=False, total=books.total)

    def _other_pages(self, first: Page, *, backwards: bool) -> int | None:
        """Stage the pages behind the first; return the largest total told, None when the pages changed their size."""
        numbers = range(2, first.total_pages + 1)
        read, largest = len(first.rows), first.total_count
        self._watch("roster", read, largest)
        for page in self._api.pages(Query(), numbers[::-1] if backwards else numbers):
            if page is None:
                continue  # it fell off the end of a shrinking list: the books tell whether anything is missing
            if page.per_page != first.per_page:
                return None
            self._stage.put(page.rows, paged=True)
            read, largest = read + len(page.rows), max(largest, page.total_count)
            self._watch("roster", read, page.total_count)
        return largest

    def _balance(self, window: datetime, before: DeletedFeed, largest: int) -> tuple[Books, Moment]:
        """Read what the books need, in the order that the proof rests on."""
        changed_since = since(earlier(window, self._marks.modified), self._policy.overlap)
        self._read(Query(modified_since=changed_since), self._stage_changes)  # once: the books judge the sum
        amid = self._prove_departures(window)
        departed = self._stage.departures_after(before.reading)
        last = self._first_page(Query())
        self._stage.put(last.rows)
        after = self._prove_departures(window)
        books = Books(
            sighted=self._stage.sightings(),
            gone=self._stage.gone(),
            in_doubt=self._stage.sighted_and_departed(before.reading) - self._stage.gone(),
            total=last.total_count,
            largest=largest,
            entered=self._stage.entered(since(window, self._policy.overlap)),
            departed=departed if before.explains and amid.explains and after.explains else 0,
        )
        return books, last.moment

    def departures(self, roster: Roster) -> DeletedFeed:
        """Read in the deleted feed who left until `roster`, since the watermark: absence tells neither when nor how."""
        window = earlier(roster.window, self._marks.deleted)
        return self.deleted(since(window, self._policy.overlap))

    def _departures_amid(self, window: datetime) -> DeletedFeed:
        """Read the deleted feed no further back than a crawl needs: it may list for good who was restored since.

        Without a `Date` the window reaches back to the newest change known, and such a feed may keep the crawls of a
        quiet school unclean until the next.
        """
        return self._read_departures(since(window, self._policy.overlap))

    def _prove_departures(self, window: datetime) -> DeletedFeed:
        """Read the deleted feed, and ask by GET for those of it that were sighted alive."""
        feed = self._departures_amid(window)
        self._stage.drop_proofs()
        ask(self._api, self._stage, self._stage.departed_and_sighted())
        return feed

    def _stage_changes(self, page: Page) -> None:
        """Stage who has changed, but for rows that bear `deleted_at`: these need not stand in the list."""
        self._stage.put(row for row in page.rows if not _is_marked(row))

    # The modified feed ---------------------------------------------------------------------------------------

    def modified(self, start_from: datetime) -> Stream:
        """Read the modified feed until one page holds it, or two consecutive readings agree; once more than attempts.

        Books as the roster's do not judge it: its total need not be newer than the changes that were read before,
        where a replica lags behind, and then makes up for a row that slipped.
        """
        query = Query(modified_since=start_from)
        previous: _Reading | None = None
        for _ in range(self._policy.attempts + 1):
            self._stage.begin_reading()
            reading = self._read(query, self._stage_feed_page)
            agreed = self._agree(previous, reading, self._stage.sightings())
            if reading.atomic or agreed:
                self._stage.keep_current_reading()
                started = previous if agreed and previous else reading
                return self._stream(started.first, clean=True)
            previous = reading
        assert previous is not None
        return self._stream(previous.first, clean=False)

    def _stream(self, first: Page, *, clean: bool) -> Stream:
        return Stream(clean, self._start(first), first.moment)

    def _stage_feed_page(self, page: Page) -> None:
        self._stage.put(page.rows)

    # The deleted feed ----------------------------------------------------------------------------------------

    def deleted(self, start_from: datetime) -> DeletedFeed:
        """Read the deleted feed until two consecutive readings agree.

        Of one that ignores its filter only rows of its first page that bear `deleted_at` are kept: who else has left is
        found by the next full run.
        """
        feed = self._read_departures(start_from)
        self._stage.put_departures(feed.marked)
        return feed

    def _read_departures(self, start_from: datetime) -> DeletedFeed:
        query = Query(deleted_since=start_from)
        previous: _Reading | None = None
        for _ in range(self._policy.attempts + 1):
            number = self._stage.begin_departures()
            first = self._first_page(query)
            if self._ignores_deleted_since(first):
                return self._ignored_feed(first, number)
            reading = self._read_from(first, query, self._stage_departures)
            agreed = self._agree(previous, reading, self._stage.departures())
            if reading.atomic or agreed:
                started = previous if agreed and previous else reading
                return self._feed(started.first, number, clean=True)
            previous = reading
        return self._feed(reading.first, number, clean=False)

    def _feed(self, first: Page, reading: int, *, clean: bool) -> DeletedFeed:
        return DeletedFeed(clean, self._start(first), first.moment, reading)

    def _ignored_feed(self, first: Page, reading: int) -> DeletedFeed:
        marked = tuple(row for row in _departures(first) if row[1] is not None)
        return DeletedFeed(True, self._start(first), first.moment, reading, ignored=True, marked=marked)

    def _stage_departures(self, page: Page) -> None:
        self._stage.put_departures(_departures(page))

    def _ignores_deleted_since(self, first: Page) -> bool:
        """Tell whether the filter of this first page is ignored: found out once, when the feed first lists anybody.

        It is when as many are listed from a day to come, give or take a tenth, for they come and go. Where far more
        are, it is only such a day that the server does not heed.
        """
        if first.total_count and self._deleted_since_ignored is None:
            few, many = sorted((first.total_count, self._count_to_come(first.moment)))
            self._deleted_since_ignored = few * 10 >= many * 9
        return bool(self._deleted_since_ignored)

    def _count_to_come(self, moment: Moment) -> int:
        """Return how many the deleted feed lists from a day to come, or, where the server does not take it, the list.

        Without its filter the feed is the list.
        """
        latest = max(moment.local, moment.server_start)
        day = latest + min(TO_COME, END_OF_TIME - latest)
        try:
            page = self._first_page(Query(deleted_since=since(day, self._policy.overlap)))
        except DECLINED:
            page = self._first_page(Query())
        return page.total_count

    # Pages ---------------------------------------------------------------------------------------------------

    def _start(self, page: Page) -> datetime | None:
        return page.moment.start(greater(self._newest, page.newest_updated_at))

    def _window(self, page: Page) -> datetime:
        """Return from when on the feeds tell what happened since this page."""
        return self._start(page) or page.moment.server_start

    def _first_page(self, query: Query) -> Page:
        page = self._api.page(query, 1)
        assert page is not None, "a list without its first page is an error of the API"
        return page

    def _read(self, query: Query, put: Callable[[Page], None]) -> _Reading:
        """Read a feed over all its pages, handing each to `put`."""
        return self._read_from(self._first_page(query), query, put)

    def _read_from(self, first: Page, query: Query, put: Callable[[Page], None]) -> _Reading:
        put(first)
        numbers = range(2, first.total_pages + 1)
        rows, steady, digest = len(first.rows), True, _digest(first)
        for page in self._api.pages(query, numbers):
            if page is None:
                steady = False
                continue
            put(page)
            rows, digest = rows + len(page.rows), digest + _digest(page)
            steady = steady and (page.total_count, page.per_page) == (first.total_count, first.per_page)
            self._watch("changes", rows, page.total_count)
        return _Reading(first, rows, steady, digest)

    def _agree(self, previous: _Reading | None, reading: _Reading, distinct: int) -> bool:
        """Tell whether two consecutive readings brought the same rows, none twice, as many as the list says."""
        return (
            previous is not None
            and previous.steady
            and reading.steady
            and previous.digest == reading.digest
            and previous.rows == reading.rows == reading.first.total_count == distinct
        )


def _is_marked(row: Row) -> bool:
    return isinstance(row, Student) and row.deleted_at is not None


def _departures(page: Page) -> Departures:
    return tuple((row_key(row), row.deleted_at if isinstance(row, Student) else None) for row in page.rows)


def _digest(page: Page) -> int:
    return sum(_row_digest(row) for row in page.rows)


def _row_digest(row: Row) -> int:
    stamp = row.updated_at.timestamp() if isinstance(row, Student) and row.updated_at else math.nan
    return int.from_bytes(hashlib.blake2b(f"{row_key(row)} {stamp}".encode(), digest_size=16).digest(), "big")
