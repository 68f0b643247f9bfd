"""The bodies of the API's answers: pages of a list, single students, and what an error says.

No answer is decoded as a whole (see `parts`): rows stay text until they are asked for, one at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple, replace

from rostersync.errors import Malformed
from rostersync.managebac.parts import BYTE_ORDER_MARK, Elements, Members, UnusableError, value
from rostersync.managebac.records import KeyAndStamp, PlainHead, decode_record, is_plain, key_and_stamp
from rostersync.managebac.values import count
from rostersync.records import ListedRow, Page, Rejected, row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rostersync.records import Moment, Row

MOST_ROWS = 1_000
"""Rows of one page: v2p3 documents 200."""
MOST_PAGES = 10_000
"""Pages of one list: a million students, 100 on each."""

_META = ("current_page", "total_pages", "per_page")
_LONGEST_MESSAGE = 500  # characters of an error's text
_MOST_MESSAGES = 100  # fields that an error names, and texts about each

_PAGE = Members("meta", students=Elements(MOST_ROWS))
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
    """Return the page `number` that `body` holds, made at `moment`; records that cannot be decoded stand in it too.

    `check` is called first, and before each record that takes time to be looked at, or to be decoded, because it is not
    as documented: what it raises ends that. In a list `of_deleted` students a record may be the bare id.
    A page may have more rows than its total_count: that is what a student created between the server's count and its
    select looks like. It proves nothing, so what to make of it is left to `sync.lists`.

    The meta must have a total_count. If a first page's meta leaves out the other counts, they follow from the rows that
    are there. The `asked` number of rows says nothing: a server that silently puts fewer on a page would have the rest
    of the list skipped. So a total_pages that follows from `asked` counts as left out.

    Raises `Malformed` when this is no list of students with a usable meta, an empty first page that claims rows, or
    more than can be: `MOST_ROWS`, `MOST_PAGES`.
    """
    check()
    plain = None if of_deleted else _plain_page(body, check)
    heads, listed, meta = plain or _any_page(body, check, of_deleted=of_deleted)
    total_count, counts = _counts(meta)
    if not listed and number == 1 and total_count > 0:
        raise Malformed("the first page is empty, and yet its meta counts students")
    total_pages, per_page = counts["total_pages"], counts["per_page"]
    if number == 1:
        distinct = len({row.key for row in listed})
        per_page = distinct if per_page is None else per_page
        if total_pages is None or total_pages == -(-total_count // asked):
            total_pages = -(-total_count // max(distinct, 1))
    if total_pages is not None and total_pages > MOST_PAGES:
        message = f"its meta counts {total_pages:,} pages, and no list has more than {MOST_PAGES:,}"
        raise Malformed(message, "check base_url; where the school is as large as that, choose a larger sync.per_page")
    assumes_utc = any(assumed for _, _, assumed in heads)
    digest = None if of_deleted else page_digest(heads)
    return Page(number, listed, total_count, total_pages, per_page, moment, assumes_utc, asked, digest)


def page_digest(heads: Sequence[KeyAndStamp]) -> bytes | None:
    """Return a digest of a page's ids and stamps, in their order; None if an id or a stamp is missing."""
    if not all(key and stamp for key, stamp, _ in heads):
        return None
    return hashlib.blake2b(msgspec.json.encode(heads), digest_size=16).digest()


_PageParts = tuple[list[KeyAndStamp], Sequence[ListedRow], bytes]
"""The heads of a page's records, its rows, and its meta."""


def _any_page(body: bytes, check: Callable[[], None], *, of_deleted: bool) -> _PageParts:
    """Return the parts of a page with any kind of records. Raises `Malformed` if it holds no list."""
    page = _members(body, _PAGE)
    if "students" not in page:
        raise Malformed("the answer holds no list of students")
    rows = list(map(_as_record, page["students"])) if of_deleted else page["students"]
    heads = [key_and_stamp(text, check) for text in rows]
    return heads, tuple(_listed(rows, heads, check)), page.get("meta", b"null")


# One place more than allowed: the decoder skips all elements after the last place. A `null` is not a plain record.
_PLACES = [(f"place_{number}", PlainHead | msgspec.UnsetType, msgspec.UNSET) for number in range(MOST_ROWS + 1)]


class _PlainPage(msgspec.Struct):
    """A page whose records are all as documented."""

    students: msgspec.defstruct("_PlainHeads", _PLACES, array_like=True)  # type: ignore[valid-type] # made for this
    meta: msgspec.Raw = msgspec.Raw(b"null")


_PLAIN_PAGE = msgspec.json.Decoder(_PlainPage)


def _plain_page(body: bytes, check: Callable[[], None]) -> _PageParts | None:
    """Return the parts of a page if all of its records are as documented, else None.

    This takes a fraction of the time of `_any_page`. Raises `Malformed` if there are too many records.
    """
    try:
        page = _PLAIN_PAGE.decode(body)
    except (ValueError, RecursionError):
        return None
    found = [head for head in astuple(page.students) if head is not msgspec.UNSET]
    if len(found) > MOST_ROWS:
        raise Malformed(f"the answer cannot be read: a list of more than {MOST_ROWS:,} elements")
    heads: list[KeyAndStamp] = [(head.id, head.updated_at, False) for head in found]
    if not all(is_plain(stamp) for _, stamp, _ in heads):
        return None
    return heads, _PlainRows(body, heads, check), bytes(page.meta)


class _PlainRows(Sequence[ListedRow]):
    """The rows of a plain page. They are cut out of the page when they are iterated."""

    def __init__(self, page: bytes, heads: Sequence[KeyAndStamp], check: Callable[[], None]) -> None:
        self._page, self._heads, self._check = page, heads, check

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[ListedRow]:
        return _listed(_PAGE.of(self._page)["students"], self._heads, self._check)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self)[place]


def _as_record(element: bytes) -> bytes:
    """Return an element of a list of deleted students as a record."""
    return element if element[:1] == b"{" else b'{"id":%b}' % element


def _counts(part: bytes) -> tuple[int, dict[str, int | None]]:
    """Return the total_count of a meta, and its other counts, None for one that it leaves out."""
    try:
        meta = value(part)
    except UnusableError as error:
        raise Malformed(f"meta: {error}") from error
    if not isinstance(meta, dict):
        raise Malformed("the answer has no meta, so nothing says how many students there are")
    counts = {key: None if meta.get(key) is None else _count(key, meta[key]) for key in _META}
    return _count("total_count", meta.get("total_count")), counts


def _count(key: str, served: Any) -> int:
    try:
        return count(served)
    except ValueError as error:
        raise Malformed(f"meta.{key}: {error}") from error


def _listed(rows: Sequence[bytes], heads: Sequence[KeyAndStamp], check: Callable[[], None]) -> Iterator[ListedRow]:
    """Yield the rows of a page undecoded, but for records without a readable id.

    Of these, equal ones get different digests: a list counts each. `heads` are what `key_and_stamp` returns for them.
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
    """Return the record of an answer about one student. Raises `Malformed` when there is none in it.

    If it may be `unwrapped`, an answer that has an integer `id` and neither `student` nor an error is the record.
    """
    members = _members(body)
    record = members.get("student", b"")
    if unwrapped and members.keys() == {"id"} and members["id"].isdigit():
        record = body.removeprefix(BYTE_ORDER_MARK).strip()
    if record[:1] != b"{":
        raise Malformed("the answer holds no student")
    return decode_record(record)


def is_error(body: bytes) -> bool:
    """Say whether `body` is the API's own way to say no: a JSON object with `error` or `errors`."""
    try:
        return not {"error", "errors"}.isdisjoint(_members(body))
    except Malformed:
        return False


def says_done(body: bytes) -> bool:
    """Say whether `body` may be the API's answer to a write that returns no record: an object, no error, or nothing."""
    try:
        return not body.strip() or {"error", "errors"}.isdisjoint(_members(body))
    except Malformed:
        return False


def _members(body: bytes, members: Members = _ANSWER) -> dict[str, Any]:
    try:
        return members.of(body)
    except ValueError as error:
        raise Malformed(f"the answer cannot be read: {error}") from error


# Errors ----------------------------------------------------------------------------------------------------------


def field_messages(body: bytes) -> dict[str, tuple[str, ...]]:
    """Return what an error says of each field; under `base`, what is about none of them.

    The vendor documents `errors` with lists by field, and `error` with a text or, elsewhere, with such lists, beside
    `allowed_params` where a field is not permitted. Nothing for any other body.
    """
    try:
        answer = _members(body)
    except Malformed:
        return {}
    errors, error, allowed = (_messages(answer.get(name)) for name in ("errors", "error", "allowed_params"))
    messages = errors | error
    if "base" in allowed:
        messages["base"] = (*messages.get("base", ()), "allowed are: " + ", ".join(allowed["base"]))
    return messages


def _messages(part: bytes | None) -> dict[str, tuple[str, ...]]:
    try:
        told = value(part or b"null")
    except UnusableError:
        return {}
    by_field = told if isinstance(told, dict) else {"base": told}
    lists = {_printable(name): _texts(texts) for name, texts in islice(by_field.items(), _MOST_MESSAGES)}
    return {name: texts for name, texts in lists.items() if texts}


def _texts(told: Any) -> tuple[str, ...]:
    texts = told if isinstance(told, list) else [told]
    return tuple(_printable(text) for text in texts[:_MOST_MESSAGES] if text)


def _printable(told: Any) -> str:
    """Return a text of the server's for people to read: no control characters, and not without end."""
    try:
        text = str(told)[:_LONGEST_MESSAGE]
    except RecursionError:
        text = "..."
    return "".join(character if character.isprintable() else " " for character in text)
