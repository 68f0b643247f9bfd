"""Make several requests at once, and return their results in order."""

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
    """Works like `map`, but makes up to `width` calls at once.

    If `width` is 1, the caller's thread makes the calls.
    """

    def __init__(self, width: int, pool: Executor) -> None:
        """Create a map that makes its calls in the executor `pool`. Several maps may share an executor."""
        self._width = width
        self._pool = pool

    def each(self, work: Callable[[Item, CancelScope], T], items: Iterable[Item], scope: CancelScope) -> Iterator[T]:
        """Yield the result of `work(item, calls)` for each item, in order. Up to `width` calls are started in advance.

        `calls` is a child of `scope`. If the caller stops iterating, `calls` is cancelled, so that the running calls
        end. If `work` raises an exception for an item, this method raises the exception when the result of this item is
        due.
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
