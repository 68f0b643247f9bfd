"""Decode the bodies of the API's responses: pages of a list, single students, and errors.

To save memory, no response is decoded as a whole (see `parts`). The rows of a page stay JSON text. Each is decoded only
when it is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec.structs import replace

from rostersync.errors import Malformed
from rostersync.managebac.decoding.parts import BYTE_ORDER_MARK, Members, UnusableError, elements, value
from rostersync.managebac.decoding.records import KeyAndStamp, PlainHead, decode_record, is_plain, key_and_stamp
from rostersync.managebac.decoding.values import count
from rostersync.records import ListedRow, Page, Rejected, row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rostersync.records import Moment, Row

MOST_ROWS = 1_000
"""The most rows that we accept on a page. v2p3 documents at most 200."""
MOST_PAGES = 10_000
"""The most pages that we accept for a list. With 100 students on each, this is a million students."""

_META = ("current_page", "total_pages", "per_page")
_LONGEST_MESSAGE = 500  # characters of one error message
_MOST_MESSAGES = 100  # fields in an error response, and messages about each

_PAGE = Members("meta", "students")
_ANSWER = Members("student", "id", "error", "errors", "allowed_params")


def decode_page(
    body: bytes,
    number: int,
    moment: Moment,
    check: Callable[[], None] = lambda: None,
    *,
    asked: int = MOST_ROWS,
    of_deleted: bool = False,
) -> Page:
    """Return a page of a list, including the records that cannot be decoded.

    The meta must have a `total_count`. If the meta of a first page lacks the other counts, we compute them from the
    number of rows. We do not compute them from `asked`, because a server may silently put fewer rows on a page, and we
    would then miss the rest of the list. For the same reason, we replace a `total_pages` that the server may have
    computed from `asked`.

    A page may have more rows than its `total_count`, if a student was created after the server counted. `sync.lists`
    decides what that means.

    Args:
        body: The body of the response.
        number: The number of the page, from 1.
        moment: When the response was made.
        check: A function to call at the start, and before slow work on a record that is not as documented. It may raise
            an exception to end the work. Default: a function that does nothing.
        asked: The number of rows that the request asked for. Default: `MOST_ROWS`.
        of_deleted: Whether this is a list of deleted students, in which a record may be only the id. Default: False.

    Returns:
        The page. Its rows are decoded when they are used.

    Raises:
        Malformed: The body is not a list of students with a usable meta, or it has more than `MOST_ROWS` rows or counts
            more than `MOST_PAGES` pages, or it is a first page without rows although its meta counts students.

    """
    check()
    plain = None if of_deleted else _plain_page(body, check)
    heads, listed, meta = plain or _any_page(body, check, of_deleted=of_deleted)
    total_count, counts = _counts(meta)
    if not listed and number == 1 and total_count > 0:
        raise Malformed("the first page is empty, but its meta counts students")
    total_pages, per_page = counts["total_pages"], counts["per_page"]
    if number == 1:
        distinct = len({row.key for row in listed})
        per_page = distinct if per_page is None else per_page
        if total_pages is None or total_pages == -(-total_count // asked):
            total_pages = -(-total_count // max(distinct, 1))
    if total_pages is not None and total_pages > MOST_PAGES:
        message = f"its meta counts {total_pages:,} pages, but at most {MOST_PAGES:,} are accepted"
        raise Malformed(message, "check base_url; if the school is really that large, choose a larger sync.per_page")
    assumes_utc = any(assumed for _, _, assumed in heads)
    digest = None if of_deleted else page_digest(heads)
    return Page(number, listed, total_count, total_pages, per_page, moment, assumes_utc, asked, digest)


def page_digest(heads: Sequence[KeyAndStamp]) -> bytes | None:
    """Return a digest of a page's ids and timestamps, in order. None if any id or timestamp is missing."""
    if not all(key and stamp for key, stamp, _ in heads):
        return None
    return hashlib.blake2b(msgspec.json.encode(heads), digest_size=16).digest()


_PageParts = tuple[list[KeyAndStamp], Sequence[ListedRow], bytes]
"""The ids and timestamps of a page's records, its rows, and the JSON text of its meta."""


def _any_page(body: bytes, check: Callable[[], None], *, of_deleted: bool) -> _PageParts:
    """Return the parts of a page. This is the general way, for all kinds of records.

    Raises `Malformed` if the body has no list of students.
    """
    page = _members(body, _PAGE)
    if "students" not in page:
        raise Malformed("the answer contains no list of students")
    try:
        rows = elements(page["students"], MOST_ROWS)
    except ValueError as error:
        raise _unreadable(error) from error
    if of_deleted:
        rows = list(map(_as_record, rows))
    heads = [key_and_stamp(text, check) for text in rows]
    return heads, tuple(_listed(rows, heads, check)), page.get("meta", b"null")


class _PlainPage(msgspec.Struct):
    """A page on which all records are as documented.

    msgspec compares the length of `students` with the maximum only after it has decoded the whole list. A response of
    2 MB can have 220,000 such records. They take 14 MB for 25 ms.
    """

    students: Annotated[list[PlainHead], msgspec.Meta(max_length=MOST_ROWS)]
    meta: msgspec.Raw = msgspec.Raw(b"null")


class _PlainPageText(msgspec.Struct):
    """The same page with its records as text."""

    students: list[msgspec.Raw]


_PLAIN_PAGE = msgspec.json.Decoder(_PlainPage)
_PLAIN_PAGE_TEXT = msgspec.json.Decoder(_PlainPageText)


def _plain_page(body: bytes, check: Callable[[], None]) -> _PageParts | None:
    """Return the parts of a page if all of its records are as documented and not too many; otherwise None.

    This takes a fraction of the time of `_any_page`.
    """
    try:
        page = _PLAIN_PAGE.decode(body)
    except (ValueError, RecursionError):
        return None
    if not all(is_plain(head.updated_at) for head in page.students):
        return None
    heads: list[KeyAndStamp] = [(head.id, head.updated_at, False) for head in page.students]
    return heads, _PlainRows(body, heads, check), bytes(page.meta)


class _PlainRows(Sequence[ListedRow]):
    """The rows of a page whose records are all as documented. Iterating cuts them out of the page's text."""

    def __init__(self, page: bytes, heads: Sequence[KeyAndStamp], check: Callable[[], None]) -> None:
        self._page, self._heads, self._check = page, heads, check

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[ListedRow]:
        rows = list(map(bytes, _PLAIN_PAGE_TEXT.decode(self._page).students))
        return _listed(rows, self._heads, self._check)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self)[place]


def _as_record(element: bytes) -> bytes:
    """Return an element of a list of deleted students as a record. A bare id becomes an object with this id."""
    return element if element[:1] == b"{" else b'{"id":%b}' % element


def _counts(part: bytes) -> tuple[int, dict[str, int | None]]:
    """Return the `total_count` of a meta, and its other counts by name. A missing other count is None."""
    try:
        meta = value(part)
    except UnusableError as error:
        raise Malformed(f"meta: {error}") from error
    if not isinstance(meta, dict):
        raise Malformed("the answer has no meta, so the number of students is unknown")
    counts = {key: None if meta.get(key) is None else _count(key, meta[key]) for key in _META}
    return _count("total_count", meta.get("total_count")), counts


def _count(key: str, served: Any) -> int:
    try:
        return count(served)
    except ValueError as error:
        raise Malformed(f"meta.{key}: {error}") from error


def _listed(rows: Sequence[bytes], heads: Sequence[KeyAndStamp], check: Callable[[], None]) -> Iterator[ListedRow]:
    """Yield the rows of a page. Only records without a readable id are decoded now.

    If several of them are equal, they get different digests, so that each counts as a row. `heads` has what
    `key_and_stamp` returned for each row.
    """
    copies: Counter[bytes] = Counter()
    for text, (key, updated_at, _) in zip(rows, heads, strict=True):
        if key is not None:
            yield ListedRow(key, updated_at, partial(decode_record, text, check))
            continue
        row = decode_record(text)
        if isinstance(row, Rejected):
            digest = hashlib.blake2b(row.digest + b"%d" % copies[row.digest], digest_size=16).digest()
            copies[row.digest] += 1
            row = replace(row, digest=digest)
        yield ListedRow(row_key(row), None, partial(_same, row))


def _same(row: Row) -> Row:
    return row


def decode_single(body: bytes, *, unwrapped: bool = False) -> Row:
    """Return the record in a response about one student. Raises `Malformed` if it has none.

    With `unwrapped`, the response itself may be the record: it has an integer `id`, but no `student` and no error.
    """
    members = _members(body)
    record = members.get("student", b"")
    if unwrapped and members.keys() == {"id"} and members["id"].isdigit():
        record = body.removeprefix(BYTE_ORDER_MARK).strip()
    if record[:1] != b"{":
        raise Malformed("the answer contains no student")
    return decode_record(record)


def is_error(body: bytes) -> bool:
    """Return whether `body` is an error in the API's own format: a JSON object with `error` or `errors`."""
    try:
        return not {"error", "errors"}.isdisjoint(_members(body))
    except Malformed:
        return False


def says_done(body: bytes) -> bool:
    """Return whether `body` is a successful response to a write without a record: empty, or an object without error."""
    try:
        return not body.strip() or {"error", "errors"}.isdisjoint(_members(body))
    except Malformed:
        return False


def _members(body: bytes, members: Members = _ANSWER) -> dict[str, bytes]:
    try:
        return members.of(body)
    except ValueError as error:
        raise _unreadable(error) from error


def _unreadable(error: ValueError) -> Malformed:
    return Malformed(f"the answer cannot be read: {error}")


# Errors ----------------------------------------------------------------------------------------------------------


def field_messages(body: bytes) -> dict[str, tuple[str, ...]]:
    """Return the messages of an error response by field. The key `base` has the messages about no single field.

    The vendor documents `errors` with lists of messages by field. It documents `error` with a message or with such
    lists. If a field is not permitted, `allowed_params` lists the others. The result is empty for any other body.
    """
    try:
        answer = _members(body)
    except Malformed:
        return {}
    errors, error, allowed = (_messages(answer.get(name)) for name in ("errors", "error", "allowed_params"))
    messages = errors | error
    if "base" in allowed:
        messages["base"] = (*messages.get("base", ()), "allowed fields: " + ", ".join(allowed["base"]))
    return messages


def _messages(part: bytes | None) -> dict[str, tuple[str, ...]]:
    try:
        served = value(part or b"null")
    except UnusableError:
        return {}
    by_field = served if isinstance(served, dict) else {"base": served}
    lists = {_printable(name): _texts(texts) for name, texts in islice(by_field.items(), _MOST_MESSAGES)}
    return {name: texts for name, texts in lists.items() if texts}


def _texts(served: Any) -> tuple[str, ...]:
    texts = served if isinstance(served, list) else [served]
    return tuple(_printable(text) for text in texts[:_MOST_MESSAGES] if text)


def _printable(served: Any) -> str:
    """Return a message of the server for people to read: without control characters, and not too long."""
    try:
        text = str(served)[:_LONGEST_MESSAGE]
    except RecursionError:
        text = "..."
    return "".join(character if character.isprintable() else " " for character in text)
