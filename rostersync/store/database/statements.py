"""Execute statements about one source, each in its own transaction. `Stage` and `Comparison` are based on this."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ARRAY, BigInteger, Boolean, ColumnElement, Text, TypeDecorator, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Dialect, Select, Table
    from sqlalchemy.types import TypeEngine

CHUNK = 500
"""The most rows to fetch at a time. It limits memory, and allows requests to the API between two chunks."""

SOURCE = bindparam("run_source", type_=Text)
"""The name of the source. `Statements` sets this parameter."""

LAST = bindparam("last", type_=BigInteger)
"""The last id of the previous chunk."""


class _Ids(TypeDecorator[list[int]]):
    """A list of ids as one parameter: JSON for SQLite, an array for PostgreSQL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(BigInteger) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: list[int] | None, dialect: Dialect) -> Any:
        return value if dialect.name == "postgresql" else msgspec.json.encode(value).decode()


class _Among(ColumnElement[bool]):
    """The condition that an id is in the list of the parameter `ids`."""

    inherit_cache = True
    type = Boolean()
    _traverse_internals = [  # noqa: RUF012 - SQLAlchemy reads it from the class
        ("column", InternalTraversal.dp_clauseelement),
        ("ids", InternalTraversal.dp_clauseelement),
    ]

    def __init__(self, column: ColumnElement[int]) -> None:
        self.column = column
        self.ids = bindparam("ids", type_=_Ids())

    def self_group(self, against: Any = None) -> ColumnElement[bool]:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the condition unchanged. By default SQLAlchemy would compare it with 1 on SQLite."""
        return self


@compiles(_Among)
def _compile_among(element: _Among, compiler: Any, **options: Any) -> str:
    column, ids = (compiler.process(part, **options) for part in (element.column, element.ids))
    if compiler.dialect.name == "postgresql":
        return f"{column} = ANY ({ids})"  # the planner knows an array's length, but not a subquery's rows
    return f"{column} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 - our own column, and a parameter


def among_ids(key: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that an id is in the list of the parameter `ids`, which is one parameter for all ids."""
    return _Among(key)


def chunk(ids: Select[Any]) -> Select[Any]:
    """Return the query for the next `CHUNK` rows of `ids` after the id `LAST`. Its first column must be the id."""
    key = ids.selected_columns[0]
    return ids.where(key > LAST).order_by(key).limit(CHUNK)


def upsert(dialect: str, table: Table) -> Any:
    """Return the INSERT of a dialect, which supports ON CONFLICT. The other dialect is not imported, to save time."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert  # noqa: PLC0415
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment] # noqa: PLC0415
    return insert(table)


def filled(connection: Connection) -> set[Table]:
    """Return the set of the stage's tables into which rows were inserted since the stage was last emptied."""
    tables: set[Table] = connection.info.setdefault("filled", set())
    return tables


class Statements:
    """Executes statements on the stage, each in its own transaction.

    Most runs fill only a few of the stage's tables. We track which, and skip statements that depend on an empty one.
    """

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection = connection
        self._source = source
        self._dialect = connection.dialect.name
        self._filled = filled(connection)

    def _is_empty(self, table: Table | None) -> bool:
        """Return whether `table` is a table of the stage into which no row was inserted. False for None."""
        return table is not None and table not in self._filled

    @contextmanager
    def _filling(self, *tables: Table) -> Iterator[None]:
        """Open a transaction in which the caller inserts rows into `tables`.

        On PostgreSQL, analyse the tables that were empty. Without statistics, PostgreSQL assumes that a small temporary
        table is large, and reads whole tables to join a few rows.
        """
        new = set(tables) - self._filled
        self._filled |= new
        with self._connection.begin():
            yield
            if self._dialect == "postgresql":
                for table in new:
                    self._connection.exec_driver_sql(f"ANALYZE pg_temp.{table.name} (id)")

    def _do(self, statement: Any, of: Table | None = None, **parameters: Any) -> int:
        """Execute a statement, and return the number of affected rows. Skip it if the stage's table `of` is empty."""
        if self._is_empty(of):
            return 0
        with self._connection.begin():
            return self._connection.execute(statement, {"run_source": self._source, **parameters}).rowcount

    def _put_all(self, statement: Any, values: list[dict[str, Any]]) -> None:
        """Execute an insert into a stage table once for each of `values`."""
        if values:
            with self._filling(statement.table):
                self._connection.execute(statement, values)

    def _rows(self, query: Any, of: Table | None = None, **parameters: Any) -> list[Any]:
        """Return the rows of a query. Skip it and return no rows if the stage's table `of` is empty."""
        if self._is_empty(of):
            return []
        with self._connection.begin():
            return list(self._connection.execute(query, {"run_source": self._source, **parameters}))

    def _count(self, query: Select[Any], of: Table, **parameters: Any) -> int:
        rows = self._rows(query, of, **parameters)
        return int(rows[0][0]) if rows else 0

    def _chunks(self, query: Select[Any], of: Table, **parameters: Any) -> Iterator[list[Any]]:
        """Yield the rows of a query by `chunk`, up to `CHUNK` at a time."""
        last, more = -(2**63), True
        while more and (rows := self._rows(query, of, last=last, **parameters)):
            yield rows
            last, more = rows[-1][0], len(rows) == CHUNK

    def _ids(self, query: Select[Any], of: Table) -> Iterator[list[int]]:
        return ([row[0] for row in rows] for rows in self._chunks(query, of))
