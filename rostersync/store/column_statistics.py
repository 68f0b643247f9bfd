"""Which columns of students PostgreSQL gathers statistics of: only those that plans need.

Statistics hold values: the most common last names, and the bounds of a histogram. They outlive the rows, and EXPLAIN's
estimates come from them, also for a reader of a view that leaves the rows out. So every column of a table with personal
data has the statistics target 0, unless it is in `KEPT`. Columns that a later version adds have it as well.

The other tables hold no value of a field: `quarantine.reason` and `run` name fields, ids and counts, and `audit` has
ids, names of fields, and accounts of the operators.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.store.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.tables import student, student_detail, student_version

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PERSONAL = (student.name, student_version.name, student_detail.name)

KEPT = {"source", "id", "valid_from", "valid_to", "run_id", "deleted_at", "waiting_since", "status"}
"""Keys, by which tables are joined; a version's time and run; columns that queries compare with NULL; and the status.

The view `enrolled_student` asks for one status. Without its statistics PostgreSQL expects one row where there are a
thousand, and a report that joins the view with itself took 13 s on 20,000 students instead of 0.02 s. A status is one
of few words that many students share, so its statistics only say how many students have each.
"""

_OURS = {"schema": SCHEMA, "tables": list(_PERSONAL), "kept": sorted(KEPT)}

# An earlier version had its tables in the other schema.
_IS_GATHERED = text("""
SELECT EXISTS (SELECT FROM pg_stats WHERE schemaname IN (:schema, :earlier) AND tablename = ANY(:tables)
                  AND attname <> ALL(:kept))
""")

_COLUMNS = text("""
SELECT c.relname AS table_name, quote_ident(attname) AS name, format_type(atttypid, atttypmod) AS type,
       EXISTS (SELECT FROM pg_stats s WHERE schemaname = :schema AND tablename = relname AND s.attname = a.attname
              ) AS is_gathered
  FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
 WHERE relnamespace = to_regnamespace(:schema) AND relname = ANY(:tables)
   AND attnum > 0 AND NOT attisdropped AND attname <> ALL(:kept) AND attstattarget IS DISTINCT FROM 0
 ORDER BY 1, attnum
""")


def are_gathered(connection: Connection) -> bool:
    """Return whether there are statistics that `withhold` has to remove; no view may then read their columns."""
    return bool(connection.scalar(_IS_GATHERED, {**_OURS, "earlier": OF_VIEWS}))


def withhold(connection: Connection) -> None:
    """Have PostgreSQL gather no statistics of columns outside `KEPT`, and remove those that it has gathered.

    Only a column's retyping removes its statistics, without a superuser's rights. Its type stays, so the table is not
    written anew. Call it in the transaction of an upgrade.
    """
    for table, columns in groupby(connection.execute(_COLUMNS, _OURS), lambda column: column.table_name):
        actions = ", ".join(
            f"{f'ALTER {column.name} TYPE {column.type}, ' if column.is_gathered else ''}"
            f"ALTER {column.name} SET STATISTICS 0"
            for column in columns
        )
        connection.exec_driver_sql(f"ALTER TABLE {SCHEMA}.{table} {actions}")
