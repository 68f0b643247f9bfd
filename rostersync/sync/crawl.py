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
* A feed that lists nearly all who were sighted, and nearly all of them alive, is taken to ignore its filter. Such a
  reading explains nothing: a crawl amid which somebody leaves is not clean. It puts nobody in doubt as long as all
  before it were such.
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
  trace beside them, or a feed that is taken to ignore its filter.
* A student deleted just before the crawl, where a page and every reading of the deleted feed come from a replica that
  lags behind, and T does not; or where only the first of these readings does, beside a removal without a trace.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rostersync.records import Query, Student, is_alive, row_key
from rostersync.sync.plan import earlier, fallen, greater, since

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from rostersync.records import Answer, Moment, Page, Row
    from rostersync.report import SourceState
    from rostersync.sync.plan import Policy

Watch = Callable[[str, int, int], None]
"""Is told how a crawl comes on: what is read, how many of its rows have been, and how many there are."""

SAMPLE = 20
"""How many of those whom the deleted feed lists are asked for, when it lists nearly all who are taken for living."""


class Api(Protocol):
    """What a crawl asks of the API. Each raises `ApiError` where the API does not answer."""

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
    def sighted_living(self) -> int: ...
    def listed_living(self, *, stored: bool) -> int: ...
    def some_listed(self, limit: int, *, stored: bool) -> list[int]: ...
    def drop_unmarked_departures(self, but: Iterable[int] = ()) -> None: ...
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
    left: frozenset[int] | None = None
    """Of a feed that lists the living, who of the sample that told so does not live; None of any other."""

    @property
    def ignored(self) -> bool:
        """Whether the server is taken to ignore the filter: the feed lists the living."""
        return self.left is not None

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


def _never(_what: str, _done: int, _total: int) -> None:
    """Watch nothing."""


class Crawler:
    """Reads the lists of one source into a stage."""

    def __init__(self, api: Api, stage: Stage, state: SourceState, policy: Policy, watch: Watch = _never) -> None:
        self._api = api
        self._stage = stage
        self._marks = state.watermarks
        self._newest = state.newest_updated_at
        self._policy = policy
        self._watch = watch

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
        amid = self._prove_departures(window, before)
        departed = self._stage.departures_after(before.reading)
        last = self._first_page(Query())
        self._stage.put(last.rows)
        after = self._prove_departures(window, before, amid)
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

    def _prove_departures(self, window: datetime, *before: DeletedFeed) -> DeletedFeed:
        """Read the deleted feed, and ask by GET for those of it that were sighted alive.

        Only where it ignored its filter in the readings `before`, too, it puts nobody in doubt.
        """
        feed = self._departures_amid(window)
        if feed.ignored and all(reading.ignored for reading in before):
            self._stage.drop_unmarked_departures()
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

    def deleted(self, start_from: datetime, *, stored: int | None = None) -> DeletedFeed:
        """Read the deleted feed until two consecutive readings agree, or until it is found to ignore its filter.

        Of one that does only rows that bear `deleted_at` are kept, and those of a sample who do not live: should it
        list others who left, the next full run finds them. It is judged by those whom the crawl has sighted, or, where
        no roster was read and so many are `stored` as living, by them and the list's present total.
        """
        feed = self._read_departures(start_from, stored)
        if feed.left is not None:
            self._stage.drop_unmarked_departures(but=feed.left)
        return feed

    def _read_departures(self, start_from: datetime, stored: int | None = None) -> DeletedFeed:
        query = Query(deleted_since=start_from)
        previous: _Reading | None = None
        for _ in range(self._policy.attempts + 1):
            number = self._stage.begin_departures()
            reading = self._read(query, self._stage_departures)
            left = self._left_of_the_living(stored)
            if left is not None:
                return self._feed(reading.first, number, clean=True, left=left)
            agreed = self._agree(previous, reading, self._stage.departures())
            if reading.atomic or agreed:
                started = previous if agreed and previous else reading
                return self._feed(started.first, number, clean=True)
            previous = reading
        return self._feed(reading.first, number, clean=False)

    def _feed(self, first: Page, reading: int, *, clean: bool, left: frozenset[int] | None = None) -> DeletedFeed:
        return DeletedFeed(clean, self._start(first), first.moment, reading, left)

    def _stage_departures(self, page: Page) -> None:
        self._stage.put_departures(_departures(page))

    def _left_of_the_living(self, stored: int | None) -> frozenset[int] | None:
        """Return who of a sample of the reading has left, when it lists nearly all the living; None when it does not.

        A few will have left. A feed that lists the departed, and for good those of them who came back, lists nearly all
        the living only where nearly everybody was away.
        """
        listed = self._stage.listed_living(stored=stored is not None)
        if not _nearly_all(listed, self._living_now(listed, stored)):
            return None
        sample = self._stage.some_listed(SAMPLE, stored=stored is not None)
        left = frozenset(sample) - self._living(sample)
        return left if _nearly_all(len(sample) - len(left), len(sample)) else None

    def _living_now(self, listed: int, stored: int | None) -> int:
        """Return how many live: of the stored many may have left, so the list tells, unless few of them are listed."""
        if stored is None:
            return self._stage.sighted_living()
        return self._first_page(Query()).total_count if listed * 4 > stored else stored

    def _living(self, ids: list[int]) -> set[int]:
        """Return those of `ids` that live, by `ids[]`, and by GET for whom that does not bring."""
        found = {row.id for row in self._api.by_ids(ids) or () if row.id is not None and is_alive(row)}
        answers = self._api.answers([key for key in ids if key not in found])
        return found | {key for key, answer in answers if is_alive(answer)}

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
        first = self._first_page(query)
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


def _nearly_all(some: int, of: int) -> bool:
    """Tell whether they are nine in ten at least."""
    return some * 10 >= of * 9 > 0


def _is_marked(row: Row) -> bool:
    return isinstance(row, Student) and row.deleted_at is not None


def _departures(page: Page) -> list[tuple[int, datetime | None]]:
    return [(row_key(row), row.deleted_at if isinstance(row, Student) else None) for row in page.rows]


def _digest(page: Page) -> int:
    return sum(_row_digest(row) for row in page.rows)


def _row_digest(row: Row) -> int:
    stamp = row.updated_at.timestamp() if isinstance(row, Student) and row.updated_at else math.nan
    return int.from_bytes(hashlib.blake2b(f"{row_key(row)} {stamp}".encode(), digest_size=16).digest(), "big")
