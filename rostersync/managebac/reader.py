"""Define `StudentReader`, which a sync uses to read pages of lists and single students."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from rostersync.errors import DECLINED, ApiError
from rostersync.records import Gone, Query, Unclear

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rostersync.cancel import CancelScope
    from rostersync.managebac.client import ManageBac
    from rostersync.records import Answer, Page, Row


_A_YEAR = timedelta(days=365)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class StudentReader:
    """Reads the students of one school during one run. Several threads may use a reader at once."""

    def __init__(self, api: ManageBac, per_page: int = 200) -> None:
        self._api = api
        self._endpoints = api.endpoints
        self._ordered_map = api.ordered_map
        self._scope = api.scope
        self._per_page = per_page
        self.assumes_utc = False
        """Whether any list row had an `updated_at` without an offset. We assume that this time is in UTC."""

    @property
    def requests(self) -> int:
        """The number of requests sent so far, including repeated requests."""
        return self._api.requests

    @property
    def retries(self) -> int:
        """The number of requests sent so far that repeated a failed request."""
        return self._api.retries

    def fingerprint(self, salt: bytes) -> bytes:
        """Return a digest of the client's address and token, as `ManageBac.fingerprint` explains."""
        return self._api.fingerprint(salt)

    def first_page(self, query: Query) -> Page:
        """Return the first page of a list.

        Raises `Stopped` and `ApiError`, which is `NotFound` if the response is a 404 or 410.
        """
        page = self.page(query, 1)
        assert page is not None, "page 1 exists, because an error would have been raised otherwise"
        return page

    def page(self, query: Query, number: int) -> Page | None:
        """Return a page of a list, or None if `number` is above 1 and the page is empty or does not exist (404 or 410).

        Raises `Stopped` and `ApiError`, which is `NotFound` if the response to a request for page 1 is a 404 or 410.
        """
        return self._page(query, number, self._scope)

    def _page(self, query: Query, number: int, scope: CancelScope) -> Page | None:
        page = self._endpoints.page(query, number, self._per_page, scope)
        if page is not None:
            self._per_page = min(self._per_page, page.asked)
            self.assumes_utc |= page.assumes_utc
        return page

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        """Yield the result of `page` for each of `numbers`, in the same order. Several requests are sent at once."""
        return self._ordered_map.each(partial(self._page, query), numbers, self._scope)

    def by_ids(self, keys: Sequence[int]) -> tuple[Row, ...] | None:
        """Return the students among `keys` who are on the first page of a list that is filtered by the ids in `keys`.

        This method only saves requests. A student who is missing from the result may still exist, so the caller must
        request this student by GET. Returns None if the server does not support the filter, which means that the server
        either declines the request or lists other students.
        """
        try:
            page = self.first_page(Query(ids=tuple(keys)))
        except DECLINED:
            return None
        return page.rows if {row.key for row in page.listed} <= set(keys) else None

    def ignores_deleted_since(self, feed: Page) -> bool:
        """Return whether the server ignores the filter `deleted_since`.

        `feed` is the first page of the list of deleted students, and has at least one row.

        We assume that a server returns all students if it does not know a filter. So we request the students who were
        deleted since a date in the future, and a server that knows the filter returns an empty list. If the server
        returns about as many students as `feed` counts, the server ignores the filter. The two numbers may differ by a
        tenth, because students may be created or deleted in the meantime. If the server declines a date in the future,
        we compare `feed` with the list of all students instead.

        Raises `ApiError` and `Stopped`.
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
        """Return the student with this id, or `Gone` if the API itself responds with 404 or 410.

        Raises `ApiError` and `Stopped`.
        """
        return self._endpoints.get(key, self._scope)

    def answers(self, keys: Iterable[int]) -> Iterator[tuple[int, Answer]]:
        """Yield each id with the answer for this id, in the order of `keys`. Several requests are sent at once.

        The answer is the return value of `get`, or `Unclear` if `get` raises an `ApiError`. Raises `Stopped`.
        """
        return self._ordered_map.each(self._answer, keys, self._scope)

    def _answer(self, key: int, scope: CancelScope) -> tuple[int, Answer]:
        try:
            return key, self._endpoints.get(key, scope)
        except ApiError as error:
            return key, Unclear(error.message)
