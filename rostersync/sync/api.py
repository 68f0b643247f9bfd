"""The protocol for the API that a run uses, and functions that request single students from the API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from rostersync.records import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rostersync.cancel import CancelScope
    from rostersync.records import Answer, Page, Query, Row
    from rostersync.store.stage import Stage

BATCH = 50
"""The maximum number of ids in one list request.

With more ids, the response might not fit on one page, or the URL might become too long.
"""


class Api(Protocol):
    """The students of one source, as the API returns them during one run.

    The class `managebac.reader.StudentReader` implements this protocol.
    """

    @property
    def requests(self) -> int:
        """The number of requests so far, including retries."""
        ...

    @property
    def retries(self) -> int:
        """The number of requests so far that repeated an earlier request."""
        ...

    @property
    def assumes_utc(self) -> bool:
        """Whether any row had an `updated_at` without an offset, which is taken as UTC."""
        ...

    def fingerprint(self, salt: bytes) -> bytes:
        """Return a digest of the address and the token, which does not reveal them."""
        ...

    def first_page(self, query: Query) -> Page:
        """Return the first page of a list. Raises `ApiError`."""
        ...

    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]:
        """Yield further pages in order. None means that the page is empty or missing. Raises `ApiError`."""
        ...

    def ignores_deleted_since(self, feed: Page) -> bool:
        """Return whether the server ignores the filter `deleted_since`. Raises `ApiError`."""
        ...

    def by_ids(self, keys: Sequence[int]) -> tuple[Row, ...] | None:
        """Return the students among `keys` that a list request finds. None means that the filter does not work."""
        ...

    def answers(self, keys: Iterable[int]) -> Iterator[tuple[int, Answer]]:
        """Yield each id with the answer of GET. An `ApiError` is not raised here, but becomes an `Unclear`."""
        ...


Connect = Callable[[str, "CancelScope"], AbstractContextManager[Api]]
"""A function that is given the name of a source and opens the API of this source for one run.

If the scope is cancelled, no further request is sent. The function raises `ConfigError` if the source's token is not
available.
"""


def ask(api: Api, stage: Stage, questions: Iterable[Sequence[int]]) -> None:
    """Request each student by GET, and store the responses in the stage.

    Args:
        api: The API of the source.
        stage: The stage that receives the responses.
        questions: The ids of the students to request, in chunks.

    Raises:
        Stopped: The scope was cancelled.

    """
    for ids in questions:
        for key, answer in api.answers(ids):
            stage.put_answer(key, answer)


def fetch_again(api: Api, stage: Stage, ids: Sequence[int]) -> None:
    """Fetch students again: first by list requests with their ids, and then by GET if no list returned the student.

    Raises `ApiError` if a list request fails.
    """
    living = stage_living(api, stage, ids)
    ask(api, stage, [sorted(set(ids) - living)])


def fetch_stale(api: Api, stage: Stage) -> None:
    """Fetch a student again if the received row is older than the stored row.

    First send list requests with the ids of these students. If a row is still older than the stored row, fetch the
    student by GET, and use that response. Raises `ApiError` if a list request fails.
    """
    for ids in stage.stale():
        stage_living(api, stage, ids)
    ask(api, stage, stage.stale())


def stage_living(api: Api, stage: Stage, ids: Sequence[int]) -> set[int]:
    """Send list requests for `ids`, stage the rows of the students who still exist, and return their ids.

    A list request can prove that a student exists, but it cannot prove that a student is gone. If the server ignores
    the filter by ids, this function sends no further list requests. The caller must then use GET for the students who
    were not found. Raises `ApiError` if a request fails.
    """
    found: set[int] = set()
    for start in range(0, len(ids), BATCH):
        rows = api.by_ids(ids[start : start + BATCH])
        if rows is None:
            break
        living = [row for row in rows if is_alive(row)]
        stage.students.put_rows(living)
        found.update(row.id for row in living if row.id is not None)
    return found
