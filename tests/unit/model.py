"""A school that changes whenever it is asked: the world of `sync.lists` without HTTP."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rostersync.managebac.decoding.answers import page_digest
from rostersync.records import ListedRow, Moment, Page, Query, Rejected, Student, row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rostersync.records import Row

EPOCH = datetime(2026, 3, 2, tzinfo=UTC)

ORDERS: dict[str, Callable[[Student], tuple[object, ...]]] = {
    "id": lambda s: (s.id,),
    "-id": lambda s: (-s.id,),
    "updated": lambda s: (s.updated_at, s.id),
    "-updated": lambda s: (-(s.updated_at or EPOCH).timestamp(), -s.id),
}


def listed(row: Row) -> ListedRow:
    stamp = row.updated_at if isinstance(row, Student) and row.deleted_at is None else None
    return ListedRow(row_key(row), stamp, lambda: row)


class ModelSchool:
    """Students whose lists are served by `sync.api.Api`; `happen` is called before every request."""

    def __init__(self, size: int = 0, order: str = "id", per_page: int = 3, rng: random.Random | None = None) -> None:
        self.rng = rng or random.Random(0)
        self.order, self.per_page = order, per_page
        self.time = EPOCH
        self.living: dict[int, Student] = {}
        self.deleted: dict[int, datetime] = {}
        self.undecodable: list[Rejected] = []
        self.next_id = 1
        self.happen: Callable[[], object] = lambda: None
        self.asked: list[tuple[Query, int]] = []
        self.honours_deleted_since = True
        self.tells_digests = True
        for _ in range(size):
            self.create()
        self.pass_time(3600)

    def create(self) -> int:
        key, self.next_id = self.next_id, self.next_id + 1
        self.living[key] = Student(id=key, created_at=self.time, updated_at=self.time, status="enrolled")
        return key

    def update(self, key: int) -> None:
        was = self.living[key]
        self.living[key] = Student(id=key, created_at=was.created_at, updated_at=self.time, nickname=str(self.time))

    def delete(self, key: int) -> Student:
        self.deleted[key] = self.time
        return self.living.pop(key)

    def restore(self, student: Student) -> None:
        self.deleted.pop(student.id, None)
        self.living[student.id] = student

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    # What a reader asks ------------------------------------------------------------------------------------------

    def first_page(self, query: Query) -> Page:
        page = self.page(query, 1)
        assert page is not None
        return page

    def page(self, query: Query, number: int) -> Page | None:
        self.happen()
        self.asked.append((query, number))
        rows = self.rows(query)
        cut = rows[(number - 1) * self.per_page : number * self.per_page]
        if number > 1 and not cut:
            return None
        pages = -(-len(rows) // self.per_page)
        found, moment = tuple(map(listed, cut)), Moment(self.time, self.time)
        heads = [(row.key, row.updated_at, False) for row in found]
        digest = page_digest(heads) if self.tells_digests and not query.deleted_since else None
        return Page(number, found, len(rows), pages, self.per_page, moment, digest=digest)

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        return (self.page(query, number) for number in numbers)

    def ignores_deleted_since(self, _feed: Page) -> bool:
        return not self.honours_deleted_since

    def rows(self, query: Query) -> list[Row]:
        if query.deleted_since is not None:
            return [Student(id=key) for key, at in sorted(self.deleted.items()) if at >= query.deleted_since]
        rows = list(self.living.values())
        if query.modified_since is not None:
            rows = [row for row in rows if row.updated_at and row.updated_at >= query.modified_since]
        if self.order == "shuffled":
            self.rng.shuffle(rows)
        else:
            rows.sort(key=ORDERS[self.order])
        return [*rows, *self.undecodable]
