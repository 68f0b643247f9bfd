"""What the sync asks of the API, and how it asks about single students."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from rostersync.records import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rostersync.records import Answer, Page, Query, Row
    from rostersync.store.stage import Stage

BATCH = 50
"""How many ids one list request asks for: a plausible cap of its answer, and of the address's length."""


class Api(Protocol):
    """The students of one source, for the time of one run: `managebac.reader.StudentReader` is the real one."""

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


Connect = Callable[[str], AbstractContextManager[Api]]
"""Opens the API of a source for one run; raises `ConfigError` when its token cannot be had."""


def ask(api: Api, stage: Stage, questions: Iterable[Sequence[int]]) -> None:
    """Have GET answer for each id in the chunks of `questions`, and keep the answers in the stage. Raises `Stopped`."""
    for ids in questions:
        for key, answer in api.answers(ids):
            stage.put_answer(key, answer)


def fetch_again(api: Api, stage: Stage, ids: Sequence[int]) -> None:
    """Fetch single students again: by list requests, which serve whole rows, and by GET whom these do not show."""
    living = stage_living(api, stage, ids)
    ask(api, stage, [sorted(set(ids) - living)])


def fetch_stale(api: Api, stage: Stage) -> None:
    """Fetch again who was received older than stored. GET decides about a row that is still older."""
    for ids in stage.stale():
        stage_living(api, stage, ids)
    ask(api, stage, stage.stale())


def stage_living(api: Api, stage: Stage, ids: Sequence[int]) -> set[int]:
    """Have list requests show which of `ids` live, and stage them: they prove life, and only life.

    Return the ids that they show: of a server that does not honour the filter, none, so that GET has to answer.
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
