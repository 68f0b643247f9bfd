"""Questions to the database by the mapped classes, as a user's report asks them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from rostersync.store.database.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Select


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """Lend a session on the database at `url`, for the classes of views and of tables."""
    with Session(open_engine(url)) as session:
        yield session


def ask(url: str, query: Select[Any]) -> list[Any]:
    """Return the first column of each row: objects, if the query is for a mapped class."""
    with reading(url) as session:
        return list(session.scalars(query))
