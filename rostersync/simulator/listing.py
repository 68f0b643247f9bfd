"""Choose the students for the response to `GET /students`. Filter them, sort them, and cut them into pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from rostersync.clock import to_epoch_ms
from rostersync.simulator.messages import json_response
from rostersync.simulator.refusals import Refusal
from rostersync.simulator.versions import Version, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rostersync.simulator.messages import Request
    from rostersync.simulator.switches import Switches

    Check = Callable[[Version], bool]

_SEARCHED = ("first_name", "last_name", "middle_name", "nickname", "other_name", "email", "student_id")
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}


class BadTimestamp(ValueError):
    """The value of a since filter is not a time. The exception's message is the error message that the API sends."""


class Filters(msgspec.Struct, frozen=True):
    """The filters of a query.

    A filter is None if the parameter is missing, or if the server does not understand its value.
    """

    ids: tuple[int, ...] | None = None
    archived: bool | None = None
    status: str | None = None
    modified_since: int | None = None
    deleted_since: int | None = None
    year_groups: frozenset[int] | None = None
    advisors: frozenset[int] | None = None
    q: str | None = None


def read_filters(request: Request, version: str, switches: Switches) -> Filters:
    """Return the filters of a request. Parameters that this version of the API does not document are ignored.

    Raises `BadTimestamp` if the value of a since filter is not a time, and the switches make that an error.
    """
    return Filters(
        ids=_ids(request, version, switches),
        archived=_BOOLEANS.get((request.first("archived") or "").lower()),
        status=request.first("status") or None,
        modified_since=_since(request, "modified_since", switches),
        deleted_since=_since(request, "deleted_since", switches),
        year_groups=_numbers(request, "year_group_ids"),
        advisors=_numbers(request, "homeroom_advisor_ids"),
        q=(request.first("q") or "").casefold() or None,
    )


def select(versions: Iterable[Version], filters: Filters, switches: Switches) -> list[Version]:
    """Return the students who match every filter, in the order from the switches.

    The caller shuffles the students if the order is random.
    """
    checks = [_scope(filters, switches), *_checks(filters, switches)]
    if checks[0] is _living and len(checks) == 1:
        rows = [version for version in versions if version.deleted is None and not version.traceless]
    else:
        rows = [version for version in versions if all(check(version) for check in checks)]
    match switches.order:
        case "id" | "-id":
            rows.sort(key=lambda version: version.id, reverse=switches.order == "-id")
        case "updated_at" | "-updated_at":
            rows.sort(key=lambda version: (version.updated, version.id), reverse=switches.order == "-updated_at")
        case "random":
            pass  # `Reading` shuffles the rows for each request
    return rows


class Cut(msgspec.Struct, frozen=True):
    """A page of a list, with its rows and with the numbers for its `meta`.

    `asked` is the per_page in the request, and `per_page` is the value that the server used. `missing` means that the
    page is past the end of the list and that the response must be a 404.
    """

    rows: list[Version]
    number: int
    asked: int
    per_page: int
    total_pages: int
    total_count: int
    missing: bool = False


def cut(rows: list[Version], request: Request, switches: Switches) -> Cut:
    """Return the requested page.

    Raises `Refusal` if the client requests too many rows, and the switches make that an error.
    """
    number = max(1, _number(request.first("page")) or 1)
    asked = _number(request.first("per_page")) or 0
    asked = asked if asked > 0 else switches.default_per_page
    if asked > switches.per_page_cap and switches.per_page_over_cap != "cut":
        raise Refusal(json_response(int(switches.per_page_over_cap), {"error": "Invalid per_page parameter."}))
    size = min(asked, switches.per_page_cap)
    pages = -(-len(rows) // size) or switches.pages_of_nothing
    past = number > max(pages, 1)
    if past and switches.past_the_end == "repeat":
        number = max(pages, 1)
    missing = past and switches.past_the_end == "404"
    return Cut(rows[(number - 1) * size : number * size], number, asked, size, pages, len(rows), missing)


def shows_deleted(filters: Filters, switches: Switches) -> bool:
    """Return whether the query is for the deleted feed, and the server supports that feed."""
    return filters.deleted_since is not None and switches.deleted_feed != "ignored"


def _scope(filters: Filters, switches: Switches) -> Check:
    """Return the check that selects current or deleted students, depending on the query and the switches."""
    if not shows_deleted(filters, switches):
        return _traced if switches.deleted_listed else _living
    if switches.deleted_feed == "empty":
        return lambda _: False
    floor = _floor(filters.deleted_since, switches)
    return lambda version: version.deleted is not None and version.deleted >= floor and not version.traceless


def _living(version: Version) -> bool:
    return version.deleted is None and not version.traceless


def _traced(version: Version) -> bool:
    return not version.traceless


def _checks(filters: Filters, switches: Switches) -> list[Check]:
    checks: list[Check] = []
    if filters.ids is not None:
        ids = frozenset(filters.ids)
        checks.append(lambda version: version.id in ids)
    if filters.modified_since is not None:
        floor = _floor(filters.modified_since, switches)
        checks.append(lambda version: version.updated >= floor)
    if filters.archived is not None:
        checks.append(lambda version: bool(version.fields.get("archived")) is filters.archived)
    if filters.status is not None:
        checks.append(lambda version: status_of(version.fields) == filters.status)
    for name, wanted in (("year_group_id", filters.year_groups), ("homeroom_advisor_id", filters.advisors)):
        if wanted is not None:
            checks.append(_is_among(name, wanted))
    if filters.q is not None:
        checks.append(_mentions(filters.q))
    return checks


def _is_among(name: str, wanted: frozenset[int]) -> Check:
    return lambda version: version.fields.get(name) in wanted


def _mentions(text: str) -> Check:
    return lambda version: any(text in str(version.fields.get(name, "")).casefold() for name in _SEARCHED)


def _floor(since: int | None, switches: Switches) -> int:
    """Return the earliest timestamp, in milliseconds, that a since filter accepts."""
    assert since is not None
    return since if switches.since == "inclusive" else since + 1


def _ids(request: Request, version: str, switches: Switches) -> tuple[int, ...] | None:
    # Version v2p3 added the parameter `ids`. Older versions ignore it.
    names = {"ids[]", "ids"} if version == "v2p3" else {"ids[]"}
    if switches.ids_filter == "ignored" or not any(name in names for name, _ in request.query):
        return None
    texts = [text for name, value in request.query if name in names for text in value.split(",")]
    numbers = [number for text in texts if (number := _number(text)) is not None]
    return tuple(numbers[: switches.ids_cap])


def _numbers(request: Request, name: str) -> frozenset[int] | None:
    """Return the numbers from a filter in the form `name=1,2` or `name[]=1&name[]=2`."""
    texts = [text for key, value in request.query if key in {name, f"{name}[]"} for text in value.split(",")]
    numbers = frozenset(number for text in texts if (number := _number(text)) is not None)
    return numbers if any(texts) else None


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _since(request: Request, name: str, switches: Switches) -> int | None:
    if (text := request.first(name)) is None:
        return None
    try:
        moment = datetime.fromisoformat(text)  # a date without a time means midnight
        return to_epoch_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except ValueError as error:
        if switches.bad_timestamp == "ignored":
            return None
        raise BadTimestamp(f"Invalid {name} parameter: '{text}' is not a valid time.") from error
