"""The students of one school, as the API has them: pages of a list, and one student by id."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rostersync.clock import to_text
from rostersync.errors import DECLINED, ApiError, Malformed, NotFound
from rostersync.managebac.limits import server_time
from rostersync.managebac.ordered_map import OrderedMap
from rostersync.managebac.records import decode_page, decode_single, is_error
from rostersync.managebac.transport import Deadline, RetryPolicy, Transport
from rostersync.managebac.wire import ABSENT, Call, RequestsWire
from rostersync.records import Gone, Moment, Query, Unclear

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from rostersync.clock import Clock
    from rostersync.managebac.limits import HostLimiter
    from rostersync.managebac.wire import Reply, Wire
    from rostersync.records import Answer, Page, Row
    from rostersync.secret import Secret


_A_YEAR = timedelta(days=365)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class Students:
    """The student endpoints of one source, for the time of one run. May be used by several threads at once."""

    def __init__(
        self,
        wire: Wire,
        base_url: str,
        api_version: str,
        *,
        ordered_map: OrderedMap,
        limiter: HostLimiter,
        deadline: Deadline,
        per_page: int = 100,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
        rng: random.Random | None = None,
        token: Secret | None = None,
    ) -> None:
        host = urlsplit(base_url).netloc
        self._identity = f"{base_url} {token.reveal() if token else ''}".encode()
        self._path = f"/{api_version}/students"
        self._per_page = per_page
        self._ordered_map = ordered_map
        self._transport = Transport(wire, host, limiter, deadline, policy=policy, rng=rng)
        self._owned: RequestsWire | None = None

    @classmethod
    def connect(
        cls,
        base_url: str,
        api_version: str,
        token: Secret,
        *,
        clock: Clock,
        limiter: HostLimiter,
        concurrency: int = 4,
        per_page: int = 100,
        timeout: float = 30.0,
        retries: int = 5,
        run_seconds: float = float("inf"),
    ) -> Students:
        """Return the students at `base_url`, reached over the network; nothing is sent yet.

        `timeout` (seconds) is for one request, `run_seconds` for all from now on. `limiter` is the host's, shared by
        all sources: `HostLimiters.of(host)`. Raises `ConfigError` for a token that cannot be sent.
        """
        ordered_map = OrderedMap(concurrency, clock)
        wire = RequestsWire(base_url, token, ordered_map.clock)
        students = cls(
            wire,
            base_url,
            api_version,
            ordered_map=ordered_map,
            limiter=limiter,
            deadline=Deadline(ordered_map.clock, run_seconds),
            per_page=per_page,
            policy=RetryPolicy(timeout, retries),
            token=token,
        )
        students._owned = wire
        return students

    @property
    def requests(self) -> int:
        """The requests sent so far, repeated ones included."""
        return self._transport.counter.requests

    @property
    def retries(self) -> int:
        """Those of them that repeated another."""
        return self._transport.counter.retries

    def fingerprint(self, salt: bytes) -> bytes:
        """Return 16 bytes that differ between two schools, that is two addresses or tokens, and reveal neither."""
        return hashlib.blake2b(self._identity, digest_size=16, key=salt).digest()

    def first_page(self, query: Query) -> Page:
        """Return the first page of a list. Raises `ApiError` (`NotFound` for a 404) where there is none, `Stopped`."""
        page = self.page(query, 1)
        assert page is not None, "a first page is there, or an error"
        return page

    def page(self, query: Query, number: int) -> Page | None:
        """Return one page (from 1) of a list, or None for one beyond its end: a 404 or 410, or no rows.

        Raises `ApiError` where there is no such answer (`NotFound` for a 404 of page 1), `Stopped`.
        """
        call = Call(self._path, _parameters(query, number, self._per_page))
        return self._transport.get(call, partial(_read_page, number=number), absent_ok=number > 1)

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
        return self._transport.get(Call(f"{self._path}/{key}"), partial(_read_student, key=key), absent_ok=True)

    def answer(self, key: int) -> Answer:
        """Return what `get` does, or `Unclear` where it raises an `ApiError`. Raises `Stopped`."""
        try:
            return self.get(key)
        except ApiError as error:
            return Unclear(error.message)

    def answers(self, keys: Iterable[int]) -> Iterator[tuple[int, Answer]]:
        """Yield each id with its answer, in the order given, several requests being in flight."""
        return self._ordered_map.each(lambda key: (key, self.answer(key)), keys)

    def close(self) -> None:
        """Close what `connect` opened."""
        self._ordered_map.close()
        if self._owned is not None:
            self._owned.close()


def _parameters(query: Query, number: int, per_page: int) -> tuple[tuple[str, str], ...]:
    """Return the query's pairs as the API names them (its Students page; the styles of lists are those of v2p3)."""
    pairs: list[tuple[str, str | None]] = [
        *(("ids[]", str(key)) for key in query.ids),
        ("archived", None if query.archived is None else str(int(query.archived))),
        ("status", query.status),
        ("modified_since", _time(query.modified_since)),
        ("deleted_since", _time(query.deleted_since)),
        ("year_group_ids", ",".join(map(str, query.year_group_ids)) or None),
        ("homeroom_advisor_ids", ",".join(map(str, query.homeroom_advisor_ids)) or None),
        ("q", query.q),
        ("page", str(number)),
        ("per_page", str(per_page)),
    ]
    return tuple((name, value) for name, value in pairs if value is not None)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


def _read_page(reply: Reply, number: int) -> Page | None:
    if reply.status in ABSENT:
        return None
    page = decode_page(reply.body, number, moment_of(reply))
    return page if page.rows or number == 1 else None


def _read_student(reply: Reply, key: int) -> Row | Gone:
    if reply.status in ABSENT:
        if is_error(reply.body):
            return Gone()
        raise NotFound(f"a {reply.status} that is not the API's own, so it does not prove that the student is gone")
    row = decode_single(reply.body)
    if row.id != key:
        raise Malformed("the answer for one student is about another")
    return row


def moment_of(reply: Reply) -> Moment:
    """Return when the reply was made: before anything in it was read, by our clock and by the server's."""
    stamped = server_time(reply)
    try:
        server = stamped and stamped - timedelta(seconds=reply.duration + 1)
    except OverflowError:
        server = None
    return Moment(reply.sent_at, server)
