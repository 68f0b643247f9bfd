"""A school that changes whenever it is asked, and a stage in memory: the crawl's world without HTTP and SQL."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rostersync.records import Gone, Moment, Page, Query, Student, row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rostersync.records import Answer, Row

EPOCH = datetime(2026, 3, 2, tzinfo=UTC)

ORDERS: dict[str, Callable[[Student], tuple[object, ...]]] = {
    "id": lambda s: (s.id,),
    "-id": lambda s: (-s.id,),
    "updated": lambda s: (s.updated_at, s.id),
    "-updated": lambda s: (-(s.updated_at or EPOCH).timestamp(), -s.id),
}


class ModelSchool:
    """Students whose lists are served by `sync.crawl.Api`; `happen` is called before every request."""

    def __init__(self, order: str = "id", per_page: int = 3, rng: random.Random | None = None) -> None:
        self.rng = rng or random.Random(0)
        self.order, self.per_page = order, per_page
        self.time = EPOCH
        self.living: dict[int, Student] = {}
        self.deleted: dict[int, datetime] = {}
        self.next_id = 1
        self.requests = self.retries = 0
        self.happen: Callable[[], None] = lambda: None
        self.asked: list[Query | int] = []

    def create(self) -> int:
        key, self.next_id = self.next_id, self.next_id + 1
        self.living[key] = Student(id=key, created_at=self.time, updated_at=self.time, status="enrolled")
        return key

    def update(self, key: int) -> None:
        was = self.living[key]
        self.living[key] = Student(id=key, created_at=was.created_at, updated_at=self.time, nickname=str(self.time))

    def delete(self, key: int, *, unseen: bool = False) -> Student:
        if not unseen:
            self.deleted[key] = self.time
        return self.living.pop(key)

    def restore(self, student: Student) -> None:
        self.deleted.pop(student.id, None)
        self.living[student.id] = Student(id=student.id, created_at=student.created_at, updated_at=self.time)

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    # What the crawl asks ---------------------------------------------------------------------------------

    def page(self, query: Query, number: int) -> Page | None:
        self._asked(query)
        rows = self._rows(query)
        cut = rows[(number - 1) * self.per_page : number * self.per_page]
        if number > 1 and not cut:
            return None
        pages = -(-len(rows) // self.per_page)
        moment = Moment(self.time, self.time)
        return Page(number, tuple(cut), len(rows), pages, self.per_page, moment)

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        return (self.page(query, number) for number in numbers)

    def answers(self, ids: Iterable[int]) -> Iterator[tuple[int, Answer]]:
        for key in ids:
            self._asked(key)
            yield key, self.living.get(key, Gone())

    def _asked(self, what: Query | int) -> None:
        self.happen()
        self.requests += 1
        self.asked.append(what)

    def _rows(self, query: Query) -> list[Student]:
        if query.deleted_since is not None:
            return [Student(id=key) for key, at in sorted(self.deleted.items()) if at >= query.deleted_since]
        rows = list(self.living.values())
        if query.modified_since is not None:
            rows = [row for row in rows if row.updated_at and row.updated_at >= query.modified_since]
        if self.order == "shuffled":
            self.rng.shuffle(rows)
        else:
            rows.sort(key=ORDERS[self.order])
        return rows


class MemoryStage:
    """What `store.stage.Stage` does for a crawl, in dictionaries."""

    def __init__(self, stored: Iterable[int] = ()) -> None:
        self.stored = set(stored)
        self.rows: dict[int, tuple[Row, int, bool]] = {}  # the row, the reading, whether a page showed it
        self.feed: dict[int, tuple[int, int]] = {}  # the last and the first reading that listed the id
        self.proofs: dict[int, str] = {}
        self.reading = self.feed_reading = 0

    def begin_reading(self) -> None:
        self.reading += 1
        self.early: set[int] = set()
        self.proofs = {}

    def put(self, rows: Iterable[Row], *, paged: bool = False) -> None:
        for row in rows:
            key = row_key(row)
            was = self.rows.get(key)
            self.rows[key] = row, self.reading, paged or (was is not None and was[1] == self.reading and was[2])

    def current(self) -> dict[int, tuple[Row, bool]]:
        return {key: (row, paged) for key, (row, reading, paged) in self.rows.items() if reading == self.reading}

    def sightings(self) -> int:
        return len(self.current())

    def put_early(self, rows: Iterable[Row]) -> None:
        self.early |= {row_key(row) for row in rows}

    def entered(self, window: datetime) -> int:
        came = 0
        for key, (row, _) in self.current().items():
            fresh = isinstance(row, Student) and min(row.created_at or EPOCH, row.updated_at or EPOCH) >= window
            came += key not in self.stored and key not in self.early and fresh
        return came

    def keep_current_reading(self) -> None:
        self.rows = {key: value for key, value in self.rows.items() if value[1] == self.reading}

    def begin_departures(self) -> int:
        self.feed_reading += 1
        return self.feed_reading

    def put_departures(self, rows: Iterable[tuple[int, datetime | None]]) -> None:
        for key, _ in rows:
            first = self.feed.get(key, (0, self.feed_reading))[1]
            self.feed[key] = self.feed_reading, first

    def departures(self) -> int:
        return len(self.listed())

    def listed(self) -> set[int]:
        return {key for key, (last, _) in self.feed.items() if last == self.feed_reading}

    def departures_after(self, reading: int) -> int:
        current = self.current()
        late = {key for key in self.listed() if self.feed[key][1] > reading}
        gone = {key for key in late if key in current and self.proofs.get(key) == "gone"}
        return len(gone | {key for key in late if key not in current and key in self.stored})

    def departed_and_sighted(self) -> Iterator[list[int]]:
        yield sorted(self.listed() & set(self.current()))

    def put_answer(self, key: int, answer: Answer, *, stale: bool = False) -> None:
        self.proofs[key] = "gone" if isinstance(answer, Gone) else "alive"
        if isinstance(answer, Student):
            self.put([answer])

    def sighted_and_departed(self, reading: int) -> int:
        return sum(self.feed[key][0] >= reading for key in self.feed.keys() & self.current().keys())

    def drop_proofs(self) -> None:
        self.proofs = {}

    def gone(self) -> int:
        return sum(self.proofs[key] == "gone" for key in self.proofs.keys() & self.current().keys())
