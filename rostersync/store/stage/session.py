"""Execute statements on the stage, and on the stored students of one source."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rostersync.store.database.statements import CHUNK

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection, Select, Table


class StageSession:
    """The database connection of one run, which also gives access to the run's stage.

    Each method opens its own transactions. Most runs fill only a few of the stage's tables, so the session records
    which tables have rows. If a statement would have no effect while a table is empty, the caller passes the table as
    `unless_empty`. The session skips the statement if this table is empty. A run without changes skips 17 of 40
    statements on SQLite and 18 of 37 on PostgreSQL. Skipping these statements shortens a run from 6.5 ms to 5.2 ms on
    SQLite, and from 29 ms to 19 ms on PostgreSQL.
    """

    def __init__(self, connection: Connection, source: str, filled: set[Table]) -> None:
        """Use the stage that was created on `connection`.

        `filled` is the set of the stage's tables that have rows. The session adds a table to `filled` when it inserts
        rows into the table.
        """
        self.connection = connection
        self.source = source
        self.dialect = connection.dialect.name
        self.filled = filled

    def is_empty(self, table: Table) -> bool:
        """Return whether a table of the stage is empty because this run has inserted no rows into it."""
        return table not in self.filled

    @contextmanager
    def filling(self, *tables: Table) -> Iterator[None]:
        """Open a transaction in which the caller inserts rows into `tables`.

        On PostgreSQL, tables that were empty before the insert are analysed afterwards. Without statistics, PostgreSQL
        assumes that even a small temporary table is large, and reads whole tables to join a few rows.
        """
        with self.connection.begin():
            yield
            self._note_filled(tables)

    def note_filled(self, table: Table) -> None:
        """Do for a table what `filling` does after an insert, if an earlier transaction has inserted the rows."""
        with self.connection.begin():
            self._note_filled((table,))

    def _note_filled(self, tables: Collection[Table]) -> None:
        new = set(tables) - self.filled
        self.filled |= new
        if self.dialect == "postgresql":
            for table in new:
                self.connection.exec_driver_sql(f"ANALYZE pg_temp.{table.name} (id)")

    def insert(self, statement: Any, values: list[dict[str, Any]]) -> None:
        """Execute an INSERT into a table of the stage once for each dictionary in `values`."""
        if values:
            with self.filling(statement.table):
                self.connection.execute(statement, values)

    def execute(self, statement: Any, *, unless_empty: Table | None = None, **parameters: Any) -> int:
        """Execute a statement and return the number of affected rows, or 0 if the table `unless_empty` is empty."""
        if unless_empty is not None and self.is_empty(unless_empty):
            return 0
        with self.connection.begin():
            return self.connection.execute(statement, {"run_source": self.source, **parameters}).rowcount

    def rows(self, query: Any, *, unless_empty: Table | None = None, **parameters: Any) -> list[Any]:
        """Return the rows of a query, or an empty list if the table `unless_empty` is empty."""
        if unless_empty is not None and self.is_empty(unless_empty):
            return []
        with self.connection.begin():
            return list(self.connection.execute(query, {"run_source": self.source, **parameters}))

    def count(self, query: Select[Any], *, unless_empty: Table, **parameters: Any) -> int:
        """Execute a query that counts rows, and return the number, or 0 if the table `unless_empty` is empty."""
        rows = self.rows(query, unless_empty=unless_empty, **parameters)
        return int(rows[0][0]) if rows else 0

    def chunks(self, query: Select[Any], *, unless_empty: Table, **parameters: Any) -> Iterator[list[Any]]:
        """Yield the rows of a query in chunks of up to `CHUNK` rows. The query must come from `statements.chunk`."""
        last, more = -(2**63), True
        while more and (rows := self.rows(query, unless_empty=unless_empty, last=last, **parameters)):
            yield rows
            last, more = rows[-1][0], len(rows) == CHUNK

    def ids(self, query: Select[Any], *, unless_empty: Table) -> Iterator[list[int]]:
        """Yield the first column of a query in chunks. The query must come from `statements.chunk`."""
        return ([row[0] for row in rows] for rows in self.chunks(query, unless_empty=unless_empty))
