"""Statements about one source, each in a transaction of its own: what the stage and what is asked of it are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Text, bindparam
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import BindParameter, Connection, CursorResult, Select

CHUNK = 500
"""How many rows are taken at a time, so that requests can be made between them, and memory stays small."""

SOURCE = bindparam("run_source", type_=Text)
"""Bound by `Statements` to its source."""

LAST = bindparam("last", type_=BigInteger)
"""Bound to the id behind which a chunk begins."""

IDS: BindParameter[Any] = bindparam("ids", expanding=True)


def chunk(ids: Select[Any]) -> Select[Any]:
    """Return a query for the next chunk of what `ids` asks for."""
    key = ids.selected_columns[0]
    return ids.where(key > LAST).order_by(key).limit(CHUNK)


class Statements:
    """Executes statements on the stage, each in a transaction of its own."""

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection = connection
        self._source = source
        self._dialect = connection.dialect.name
        self._insert = sqlite.insert if self._dialect == "sqlite" else postgresql.insert

    def _do(self, statement: Any, **parameters: Any) -> CursorResult[Any]:
        with self._connection.begin():
            return self._connection.execute(statement, {"run_source": self._source, **parameters})

    def _put_all(self, statement: Any, values: list[dict[str, Any]]) -> None:
        """Execute one statement for each of `values`."""
        if values:
            with self._connection.begin():
                self._connection.execute(statement, values)

    def _rows(self, query: Any, **parameters: Any) -> list[Any]:
        return list(self._do(query, **parameters))

    def _count(self, query: Select[Any], **parameters: Any) -> int:
        return int(self._rows(query, **parameters)[0][0])

    def _chunks(self, query: Select[Any]) -> Iterator[list[Any]]:
        """Run a query whose rows begin with an id in chunks, so that requests can be made between them."""
        last, more = -(2**63), True
        while more and (rows := self._rows(query, last=last)):
            yield rows
            last, more = rows[-1][0], len(rows) == CHUNK

    def _ids(self, query: Select[Any]) -> Iterator[list[int]]:
        return ([row[0] for row in rows] for rows in self._chunks(query))
