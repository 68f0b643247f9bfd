"""Statements are compiled once for all engines of a test process, which makes one for each database it fills.

SQLAlchemy keeps what it has compiled with the engine, by its dialect. A third of a small test went to the same SQL over
and over; in the program itself a process has one engine.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

from rostersync.store.database import engine


def empty() -> LRUCache[Any, Any]:
    """Return a place for what is compiled."""
    return LRUCache(2_000)


compiled = empty()


def _is_the_same(one: DefaultDialect, other: object) -> bool:
    version = getattr(one, "server_version_info", None)
    return type(one) is type(other) and version == getattr(other, "server_version_info", None)


def share() -> None:
    """Let the dialects of one kind count as one, and all engines keep what they compile in one place."""
    create = engine.create_engine

    def create_and_share(*arguments: Any, **options: Any) -> Any:
        made = create(*arguments, **options)
        made._compiled_cache = compiled  # there is no public way in for a whole engine
        return made

    DefaultDialect.__eq__ = _is_the_same  # type: ignore[method-assign] # until the tests end
    DefaultDialect.__hash__ = lambda dialect: hash(type(dialect))  # type: ignore[method-assign] # the same
    engine.create_engine = create_and_share
