"""Decode the bodies of the API's responses: pages of a list, single students, and errors.

To save memory, we never decode a response as a whole, as `parts` explains. The rows of a page are kept as JSON text,
and each row is decoded only when it is used.
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
"""The maximum number of rows that we accept on a page. The documented maximum of v2p3 is 200."""
MOST_PAGES = 10_000
"""The maximum number of pages that we accept in a list. With 100 students on each page, the maximum is a million
students."""

_META = ("current_page", "total_pages", "per_page")
_LONGEST_MESSAGE = 500  # the maximum number of characters that we keep of one error message
_MOST_MESSAGES = 100  # the maximum number of fields in an error response, and of messages for each field

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

    The page's meta must contain `total_count`. If the meta of page 1 lacks other counts, we compute them from the
    number of rows on the page. We do not compute them from `asked`, because a server may silently put fewer rows on a
    page, and we would then miss the rest of the list. For the same reason, we replace a `total_pages` that the server
    may have computed from `asked`.

    A page may have more rows than its `total_count` if a student was created after the server had counted the students.
    The module `sync.lists` handles this case.

    Args:
        body: The body of the response.
        number: The number of the page, counted from 1.
        moment: The time at which the server created the response.
        check: A function that is called at the start, and before slow work on a record that does not have the
            documented format. The function may raise an exception to end the work. Default: a function that does
            nothing.
        asked: The number of rows that was requested. Default: `MOST_ROWS`.
        of_deleted: Whether this is a list of deleted students, in which a record may consist of an id only. Default:
            False.

    Returns:
        The page. Each row of the page is decoded when it is used.

    Raises:
        Malformed: The body is not a list of students, its meta is not usable, it has more than `MOST_ROWS` rows, or its
            meta says that the list has more than `MOST_PAGES` pages. This is also raised if page 1 has no rows,
            although its `total_count` is not 0.

    """
    check()
    plain = None if of_deleted else _plain_page(body, check)
    heads, listed, meta = plain or _any_page(body, check, of_deleted=of_deleted)
    total_count, counts = _counts(meta)
    if not listed and number == 1 and total_count > 0:
        raise Malformed("the first page is empty, although its total_count is not 0")
    total_pages, per_page = counts["total_pages"], counts["per_page"]
    if number == 1:
        total_pages, per_page = _first_counts(total_pages, per_page, total_count, asked, listed)
    if total_pages is not None and total_pages > MOST_PAGES:
        message = f"the list has {total_pages:,} pages, but rostersync accepts at most {MOST_PAGES:,} pages"
        raise Malformed(message, "check base_url; if the school is really that large, choose a larger sync.per_page")
    assumes_utc = any(assumed for _, _, assumed in heads)
    digest = None if of_deleted else page_digest(heads)
    return Page(number, listed, total_count, total_pages, per_page, moment, assumes_utc, asked, digest)


def _first_counts(
    total_pages: int | None, per_page: int | None, total_count: int, asked: int, listed: Sequence[ListedRow]
) -> tuple[int, int]:
    """Return the `total_pages` and `per_page` of a list, as its first page shows them.

    For example, 250 students and 200 requested rows give 2 pages. If the server in fact returns 100 rows, there are 3.
    """
    distinct = len({row.key for row in listed})
    if total_pages is None or total_pages == -(-total_count // asked):
        total_pages = -(-total_count // max(distinct, 1))
    return total_pages, distinct if per_page is None else per_page


def page_digest(heads: Sequence[KeyAndStamp]) -> bytes | None:
    """Return a digest of a page's ids and timestamps, in order, or None if any id or timestamp is missing."""
    if not all(key and stamp for key, stamp, _ in heads):
        return None
    return hashlib.blake2b(msgspec.json.encode(heads), digest_size=16).digest()


_PageParts = tuple[list[KeyAndStamp], Sequence[ListedRow], bytes]
"""The ids and timestamps of a page's records, the rows of the page, and the JSON text of the page's meta."""


def _any_page(body: bytes, check: Callable[[], None], *, of_deleted: bool) -> _PageParts:
    """Return the parts of a page. This function works for all kinds of records, but it is slow.

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
    """A page on which all records have the documented format.

    msgspec compares the length of `students` with the maximum only after it has decoded the whole list. In the worst
    case, a response of 2 MB contains 220,000 records, which take 14 MB of memory for 25 ms.
    """

    students: Annotated[list[PlainHead], msgspec.Meta(max_length=MOST_ROWS)]
    meta: msgspec.Raw = msgspec.Raw(b"null")


class _PlainPageText(msgspec.Struct):
    """The same page as `_PlainPage`, but with the records as JSON text."""

    students: list[msgspec.Raw]


_PLAIN_PAGE = msgspec.json.Decoder(_PlainPage)
_PLAIN_PAGE_TEXT = msgspec.json.Decoder(_PlainPageText)


def _plain_page(body: bytes, check: Callable[[], None]) -> _PageParts | None:
    """Return the parts of a page if its records have the documented format and are not too many, or None otherwise.

    This function takes only a fraction of the time that `_any_page` takes.
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
    """The rows of a page on which all records have the documented format.

    An iteration over the rows cuts them out of the text of the page.
    """

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
    """Return an element of a list of deleted students as a record.

    If the element is only an id, the record is an object with this id.
    """
    return element if element[:1] == b"{" else b'{"id":%b}' % element


def _counts(part: bytes) -> tuple[int, dict[str, int | None]]:
    """Return the `total_count` from a page's meta, and the other counts by name.

    Raises `Malformed` if `total_count` is missing. The other counts are None if they are missing.
    """
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
    """Yield the rows of a page. Only records without a readable id are decoded immediately.

    If several records without a readable id are equal, each gets a different digest, so that each counts as a separate
    row. `heads` contains the result of `key_and_stamp` for each row.
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
    """Return the record in a response about one student. Raises `Malformed` if the response contains no record.

    If `unwrapped` is True, the response itself may be the record. A response is a record if it has an integer `id`, but
    neither a `student` nor an error. Here the `id` must be a JSON number, because a response that we do not know should
    not be taken for a record.
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
    """Return whether `body` reports that a write succeeded.

    The body of a successful response without a record is empty, or is a JSON object without an error.
    """
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
    """Return the messages in an error response, by the name of the field.

    Messages that do not concern a single field have the key `base`. According to the vendor, `errors` contains lists of
    messages by field, and `error` contains either one message or lists of messages by field. If a request contains a
    field that is not permitted, `allowed_params` lists the permitted fields. For any other body, the result is empty.
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
    """Return a message from the server that can be shown to people.

    Characters that are not printable become spaces, and a long message is cut.
    """
    try:
        text = str(served)[:_LONGEST_MESSAGE]
    except RecursionError:
        text = "..."
    return "".join(character if character.isprintable() else " " for character in text)
