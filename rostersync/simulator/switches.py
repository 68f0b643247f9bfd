"""What the documentation leaves open, one switch for each question. The defaults are the likeliest answers."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_type_hints

import msgspec

VERSIONS = ("v2", "v2p0", "v2p1", "v2p2", "v2p3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """How this ManageBac behaves. Seconds may be fractions, and negative where they are a skew."""

    # The list
    versions: tuple[str, ...] = VERSIONS  # other versions are 404
    order: Literal["id", "-id", "updated_at", "-updated_at", "random"] = "id"  # random: anew for each request
    since: Literal["inclusive", "exclusive"] = "inclusive"
    default_per_page: int = 100
    per_page_cap: int = 200
    per_page_over_cap: Literal["cut", "400", "422"] = "cut"  # cut: to the cap, without a word
    past_the_end: Literal["empty", "404", "repeat"] = "empty"  # repeat: the last page once more
    pages_of_nothing: Literal[0, 1] = 1  # total_pages where nothing matches
    ids_filter: Literal["honoured", "ignored"] = "honoured"
    ids_cap: int | None = None  # only the first so many ids of a request count
    bad_timestamp: Literal["400", "ignored"] = "400"
    meta_without: tuple[str, ...] = ()  # keys of meta that are left out
    meta_asked: tuple[str, ...] = ()  # per_page, total_pages: they follow from what was asked for, not from the cap
    meta_extra: bool = False  # next_page, prev_page and the since filters in meta

    # Deletions
    deleted_feed: Literal["full", "full_deleted_at", "stub", "ids", "ignored", "empty"] = "full"
    deleted_get: Literal["404", "record"] = "404"  # record: 200, and the record bears deleted_at
    deleted_listed: bool = False  # deleted students stay in the lists, with deleted_at

    # What bumps updated_at
    delete_bumps: bool = False
    restore_bumps: bool = True
    archive_bumps: bool = True
    avatar_bumps: bool = True
    login_bumps: bool = False

    # Writes
    write_denied: Literal[401, 403] = 403  # the status that a token without the admin role gets
    unarchive_clears_dates: bool = True  # False: withdrawn_on and graduated_on stay, and mean nothing any more
    partial_write_answers: bool = False  # POST and PATCH answer five fields of the record
    ignored_fields: tuple[str, ...] = ()  # PATCH accepts them, and leaves them as they are
    legacy_year_groups: tuple[int, ...] = ()  # POST and PATCH answer 404 to a move into one of them

    # Records
    grain_ms: Literal[1, 1000] = 1000  # of stored stamps
    offset: Literal["Z", "+00:00", "-08:00"] = "Z"  # spelling of created_at, updated_at, deleted_at
    nulls: bool = False  # fields without a value are rendered as null
    status_key: bool = False  # the record has the key status, except if archived for a reason unknown
    ids_as_text: bool = False
    custom_fields: bool = True  # students bear school-defined keys from birth
    lists_omit: tuple[str, ...] = ()  # keys that only GET serves
    get_omits: tuple[str, ...] = ()  # keys that only lists serve
    without_keys: tuple[str, ...] = ()  # keys that no record bears, for instance created_at

    # Time
    clock_skew: float = 0.0  # the server's clock, hence stamps and Date, less the school's clock
    date_skew: float = 0.0  # on top of that, for the header alone
    date_header: bool = True
    stamp_skews: tuple[float, ...] = (0.0,)  # each write is stamped by an app server that is off by one of these
    late_commit_seconds: float = 0.0  # from a write's stamp to its appearance
    late_commit_share: float = 1.0  # of the writes
    lag_seconds: float = 0.0  # how far a lagging read replica is behind
    lag_share: float = 0.0  # of the requests, answered by that replica

    # HTTP
    gzip: bool = False  # compress for clients that accept it

    @property
    def timeless(self) -> bool:
        """Whether a write is seen at once by everybody."""
        return not (self.late_commit_seconds or (self.lag_seconds and self.lag_share))


_TYPES = get_type_hints(Switches)
NAMES = tuple(_TYPES)


def read_switch(name: str, text: str) -> Any:
    """Return the value that `text` is for the switch `name`; a list has commas between its elements.

    Raises `ValueError` if there is no such switch, or if it cannot have this value.
    """
    if name not in _TYPES:
        close = get_close_matches(name, NAMES, n=1)
        meant = f"did you mean {close[0]}?" if close else f"known: {', '.join(NAMES)}"
        raise ValueError(f"{name!r} is not a switch; {meant}")
    is_list = isinstance(getattr(Switches(), name), tuple)
    try:
        return msgspec.convert(text.split(",") if is_list else text, _TYPES[name], strict=False)
    except msgspec.ValidationError as error:
        expected = Switches.__dataclass_fields__[name].type
        raise ValueError(f"{name} cannot be {text!r}; it is {expected}") from error
