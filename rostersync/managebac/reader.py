"""What a sync reads: pages of a list, and what the API answers about single ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from rostersync.errors import DECLINED, ApiError
from rostersync.records import Gone, Query, Unclear

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rostersync.managebac.client import ManageBac
    from rostersync.records import Answer, Page, Row


_A_YEAR = timedelta(days=365)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class StudentReader:
    """The reading of one school's students, for the time of one run. May be used by several threads at once."""

    def __init__(self, api: ManageBac, per_page: int = 200) -> None:
        self._api = api
        self._endpoints = api.endpoints
        self._ordered_map = api.ordered_map
        self._per_page = per_page
        self.assumes_utc = False
        """Whether a list has shown an `updated_at` without an offset from UTC."""

    @property
    def requests(self) -> int:
        """The requests sent so far, repeated ones included."""
        return self._api.requests

    @property
    def retries(self) -> int:
        """Those of them that repeated another."""
        return self._api.retries

    def fingerprint(self, salt: bytes) -> bytes:
        """Return 16 bytes that differ between two schools, that is two addresses or tokens, and reveal neither."""
        return self._api.fingerprint(salt)

    def first_page(self, query: Query) -> Page:
        """Return the first page of a list. Raises `ApiError` (`NotFound` for a 404) where there is none, `Stopped`."""
        page = self.page(query, 1)
        assert page is not None, "a first page is there, or an error"
        return page

    def page(self, query: Query, number: int) -> Page | None:
        """Return one page (from 1) of a list, or None for one beyond its end: a 404 or 410, or no rows.

        Raises `ApiError` where there is no such answer (`NotFound` for a 404 of page 1), `Stopped`.
        """
        page = self._endpoints.page(query, number, self._per_page)
        if page is not None:
            self._per_page = min(self._per_page, page.asked)
            self.assumes_utc |= page.assumes_utc
        return page

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        """Yield what `page` returns for each of `numbers`, in their order, several requests being in flight."""
        return self._ordered_map.each(partial(self.page, query), numbers)

    def by_ids(self, keys: Sequence[int]) -> tuple[Row, ...] | None:
        """Return those of `keys` that the list knows, as far as one page holds them: who is missing may yet live.

        None when the server does not honour the filter: it answers with others, or with an error of its own. It is
        only a shortcut, and GET answers the same question.
        """
        try:
            page = self.first_page(Query(ids=tuple(keys)))
        except DECLINED:
            return None
        return page.rows if {row.key for row in page.listed} <= set(keys) else None

    def ignores_deleted_since(self, feed: Page) -> bool:
        """Tell whether the server ignores `deleted_since`, given the first page of a deleted feed that lists somebody.

        The vendor documents that a mistyped filter returns everything, and not what v2p1 does with this one. So the
        server is asked from a day to come, when nobody has left yet: a feed that lists as many then as before, within
        a tenth (for they come and go), ignores the filter. A server that does not take such a day is asked for the
        plain list instead, for without its filter the feed is that. Raises `ApiError`, `Stopped`.
        """
        latest = max(feed.moment.local, feed.moment.server or feed.moment.local)
        day_to_come = latest + min(_A_YEAR, _END_OF_TIME - latest)
        try:
            other = self.first_page(Query(deleted_since=day_to_come))
        except DECLINED:
            other = self.first_page(Query())
        few, many = sorted((feed.total_count, other.total_count))
        return few * 10 >= many * 9

    def get(self, key: int) -> Row | Gone:
        """Return the student with this id, `Gone` for the API's own 404 or 410. Raises `ApiError` without either."""
        return self._endpoints.get(key)

    def answer(self, key: int) -> Answer:
        """Return what `get` does, or `Unclear` where it raises an `ApiError`. Raises `Stopped`."""
        try:
            return self.get(key)
        except ApiError as error:
            return Unclear(error.message)

    def answers(self, keys: Iterable[int]) -> Iterator[tuple[int, Answer]]:
        """Yield each id with its answer, in the order given, several requests being in flight."""
        return self._ordered_map.each(lambda key: (key, self.answer(key)), keys)
