"""Keep PostgreSQL from gathering statistics of students' columns, except for the columns that its query plans need.

Statistics contain values, such as the most common last names and the bounds of a histogram. They remain after the rows
are deleted. EXPLAIN shows estimates that come from them, even to a reader of a view that does not show these rows. So
every column of a table with personal data has the statistics target 0, unless it is in `KEPT`. That includes columns
that later versions add.

The other tables contain no value of a student's field. `quarantine.reason` and `run` contain names of fields, ids and
counts. `audit` contains ids, names of fields, and the accounts of the people who run rostersync.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.store.database.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.schema.tables import student, student_detail, student_version

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PERSONAL = (student.name, student_version.name, student_detail.name)

KEPT = {"source", "id", "valid_from", "valid_to", "run_id", "deleted_at", "waiting_since", "status"}
"""The columns with statistics: keys of joins, a version's time and run, columns compared with NULL, and the status.

The view `enrolled_student` selects one status. Without statistics of the status, PostgreSQL expects one row instead of
a thousand. Then a report that joins the view with itself took 13 s on 20,000 students instead of 0.02 s. There are few
statuses, and many students share each, so these statistics only reveal how many students have each status.
"""

_OURS = {"schema": SCHEMA, "tables": list(_PERSONAL), "kept": sorted(KEPT)}

# An earlier version had its tables in the schema of the views.
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
    """Return whether `withhold` must remove statistics. If so, no view may read the columns while `withhold` runs."""
    return bool(connection.scalar(_IS_GATHERED, {**_OURS, "earlier": OF_VIEWS}))


def withhold(connection: Connection) -> None:
    """Keep PostgreSQL from gathering statistics of columns outside `KEPT`, and remove those that it has gathered.

    To remove them without superuser rights, we set the type of the column again. The type does not change, so
    PostgreSQL does not rewrite the table. Call this function in the transaction of an upgrade.
    """
    for table, columns in groupby(connection.execute(_COLUMNS, _OURS), lambda column: column.table_name):
        actions = ", ".join(
            f"{f'ALTER {column.name} TYPE {column.type}, ' if column.is_gathered else ''}"
            f"ALTER {column.name} SET STATISTICS 0"
            for column in columns
        )
        connection.exec_driver_sql(f"ALTER TABLE {SCHEMA}.{table} {actions}")
