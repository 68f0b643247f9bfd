"""Make several requests at once, and return the results in order."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from rostersync.pool import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

    from rostersync.cancel import CancelScope

T = TypeVar("T")
Item = TypeVar("Item")


class OrderedMap:
    """Like `map`, but with up to `width` calls at once. If `width` is 1, the caller's thread makes the calls."""

    def __init__(self, width: int, pool: Executor) -> None:
        """Use `pool` for the calls. Several maps may share a pool."""
        self._width = width
        self._pool = pool

    def each(self, work: Callable[[Item, CancelScope], T], items: Iterable[Item], scope: CancelScope) -> Iterator[T]:
        """Yield `work(item, calls)` for each item, in order. At most `width` calls are started ahead of the results.

        `calls` is a child of `scope`. It is cancelled if the caller stops iterating, so that the running calls end. If
        `work` raises an exception for an item, this raises it in place of that item's result.
        """
        if self._width == 1:
            yield from (work(item, scope) for item in items)
            return
        calls = scope.child()
        futures: deque[Future[T]] = deque()
        begun = (self._pool.submit(_call, work, item, calls) for item in items)
        try:
            futures.extend(islice(begun, self._width))
            while futures:
                future = futures.popleft()
                wait_for([future], scope)
                futures.extend(islice(begun, 1))
                yield future.result()
        except BaseException:  # the caller has stopped iterating, or a call has failed
            calls.cancel()
            raise


def _call(work: Callable[[Item, CancelScope], T], item: Item, scope: CancelScope) -> T:
    scope.check()
    return work(item, scope)
