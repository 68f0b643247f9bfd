"""The API that a run needs, as a protocol, and the functions that ask it about single students."""

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
"""How many ids one list request asks for. With more ids, the response may exceed a page, or the URL be too long."""


class Api(Protocol):
    """The students of one source, during one run. `managebac.reader.StudentReader` implements it."""

    @property
    def requests(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def assumes_utc(self) -> bool: ...
    def fingerprint(self, salt: bytes) -> bytes: ...
    def first_page(self, query: Query) -> Page: ...
    def pages(self, query: Query, numbers: Sequence[int]) -> Iterator[Page | None]: ...
    def ignores_deleted_since(self, feed: Page) -> bool: ...
    def by_ids(self, keys: Sequence[int]) -> tuple[Row, ...] | None: ...
    def answers(self, keys: Iterable[int]) -> Iterator[tuple[int, Answer]]: ...


Connect = Callable[[str, "CancelScope"], AbstractContextManager[Api]]
"""Opens the API of a source, by its name, for one run. The scope ends the requests.

Raises `ConfigError` if the source's token is not available."""


def ask(api: Api, stage: Stage, questions: Iterable[Sequence[int]]) -> None:
    """Ask GET about each id in the chunks of `questions`, and keep the answers in the stage. Raises `Stopped`."""
    for ids in questions:
        for key, answer in api.answers(ids):
            stage.put_answer(key, answer)


def fetch_again(api: Api, stage: Stage, ids: Sequence[int]) -> None:
    """Fetch students again by their ids: first by list requests, then by GET if a list did not return the student.

    Raises `ApiError` if a list request fails.
    """
    living = stage_living(api, stage, ids)
    ask(api, stage, [sorted(set(ids) - living)])


def fetch_stale(api: Api, stage: Stage) -> None:
    """Fetch a student again if the received row is older than the stored one.

    GET decides if the row of a list request is still older. Raises `ApiError` if a list request fails.
    """
    for ids in stage.stale():
        stage_living(api, stage, ids)
    ask(api, stage, stage.stale())


def stage_living(api: Api, stage: Stage, ids: Sequence[int]) -> set[int]:
    """Find out by list requests which of `ids` are alive, stage their rows, and return their ids.

    A list request can prove that a student is alive, but not that a student is gone. If the server does not honour the
    filter by ids, the rest of `ids` is not asked for, and the caller must ask GET about them. Raises `ApiError` if a
    request fails.
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
