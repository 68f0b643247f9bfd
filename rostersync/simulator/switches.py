"""Switches for behaviour that ManageBac's documentation leaves open. The defaults are the most likely behaviour."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal, get_type_hints

import msgspec

VERSIONS = ("v2", "v2p0", "v2p1", "v2p2", "v2p3")


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """The behaviour of the stand-in. Times are in seconds and may be fractions. Skews may be negative."""

    # The list
    versions: tuple[str, ...] = VERSIONS  # the response for any other version is a 404
    order: Literal["id", "-id", "updated_at", "-updated_at", "random"] = "id"  # random: a new order for each request
    since: Literal["inclusive", "exclusive"] = "inclusive"
    default_per_page: int = 100
    per_page_cap: int = 200
    per_page_over_cap: Literal["cut", "400", "422"] = "cut"  # cut: silently reduce per_page to the cap
    past_the_end: Literal["empty", "404", "repeat"] = "empty"  # repeat: return the last page again
    pages_of_nothing: Literal[0, 1] = 1  # the value of total_pages if no student matches
    ids_filter: Literal["honoured", "ignored"] = "honoured"
    ids_cap: int | None = None  # further ids in a request are ignored
    bad_timestamp: Literal["400", "ignored"] = "400"
    meta_without: tuple[str, ...] = ()  # keys that are missing from meta
    meta_asked: tuple[str, ...] = ()  # per_page or total_pages, if meta ignores the cap in them
    meta_extra: bool = False  # meta has next_page, prev_page and the since filters

    # Deletions
    deleted_feed: Literal["full", "full_deleted_at", "stub", "ids", "ignored", "empty"] = "full"
    deleted_get: Literal["404", "record"] = "404"  # record: status 200, and a record with deleted_at
    deleted_listed: bool = False  # lists still contain deleted students, with deleted_at

    # Which changes set updated_at
    delete_bumps: bool = False
    restore_bumps: bool = True
    archive_bumps: bool = True
    avatar_bumps: bool = True
    login_bumps: bool = False

    # Writes
    write_denied: Literal[401, 403] = 403  # the status for a token without the admin role
    unarchive_clears_dates: bool = True  # False: withdrawn_on and graduated_on keep their values
    partial_write_answers: bool = False  # POST and PATCH return only five fields of the record
    ignored_fields: tuple[str, ...] = ()  # PATCH accepts these fields, but does not change them
    legacy_year_groups: tuple[int, ...] = ()  # POST and PATCH respond with 404 if the year group is one of these

    # Records
    grain_ms: Literal[1, 1000] = 1000  # stored timestamps are rounded down to a multiple of this many milliseconds
    offset: Literal["Z", "+00:00", "-08:00"] = "Z"  # the offset from UTC in created_at, updated_at and deleted_at
    nulls: bool = False  # fields without a value are null instead of missing
    status_key: bool = False  # the record has the key status, unless the student was archived without a date
    ids_as_text: bool = False
    custom_fields: bool = True  # students have keys that the school defines
    lists_omit: tuple[str, ...] = ()  # keys that only GET serves
    get_omits: tuple[str, ...] = ()  # keys that only lists serve
    without_keys: tuple[str, ...] = ()  # keys that all records lack, for example created_at

    # Time
    clock_skew: float = 0.0  # how far the server's clock is ahead of the school's clock
    date_skew: float = 0.0  # a further skew for the header Date only
    date_header: bool = True
    stamp_skews: tuple[float, ...] = (0.0,)  # each write's timestamp is off by one of these
    late_commit_seconds: float = 0.0  # the time from a write's timestamp until the write is visible
    late_commit_share: float = 1.0  # the share of writes that become visible late
    lag_seconds: float = 0.0  # how many seconds a lagging read replica is behind
    lag_share: float = 0.0  # the share of requests that this replica answers

    # HTTP
    gzip: bool = False  # compress responses for clients that accept gzip

    @property
    def timeless(self) -> bool:
        """Whether every request sees a write at once."""
        return not (self.late_commit_seconds or (self.lag_seconds and self.lag_share))


_TYPES = get_type_hints(Switches)
NAMES = tuple(_TYPES)


def read_switch(name: str, text: str) -> Any:
    """Convert `text` to a value of the switch `name`. Commas separate the elements of a list.

    Raises `ValueError` if the switch does not exist, or if it cannot have this value.
    """
    if name not in _TYPES:
        close = get_close_matches(name, NAMES, n=1)
        meant = f"did you mean {close[0]}?" if close else f"known: {', '.join(NAMES)}"
        raise ValueError(f"{name!r} is not a switch; {meant}")
    is_list = isinstance(getattr(Switches(), name), tuple)
    try:
        return msgspec.convert(text.split(",") if is_list else text, _TYPES[name], strict=False)
    except msgspec.ValidationError as error:
        expected = Switches.__annotations__[name]
        raise ValueError(f"{name} cannot be {text!r}; it is {expected}") from error
