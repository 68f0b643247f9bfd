"""Keep PostgreSQL from gathering statistics on columns with student data, unless its query plans need them.

Statistics contain values, such as the most common last names and the bounds of a histogram. The statistics remain after
the rows are deleted. EXPLAIN prints estimates that are based on the statistics. So a user who can read only some rows
through a view might learn something about the other rows. Therefore, in a table with personal data every column has the
statistics target 0, except the columns in `KEPT`. A column added by a later version also gets the statistics target 0.

The other tables do not contain the values of a student's fields. The column `quarantine.reason` and the table `run`
contain names of fields, ids and counts. The table `audit` contains ids, names of fields, and the accounts of the people
who run rostersync.
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
"""The columns that have statistics.

`KEPT` contains the keys of joins, the time and the run of a version, the columns that queries compare with NULL, and
the status.

The view `enrolled_student` selects the students with one particular status. If the column `status` had no statistics,
PostgreSQL would expect one row instead of thousands. Without these statistics, a report that joined the view with
itself took 13 s on 20,000 students instead of 0.02 s. The statistics on the column reveal only how many students have
each status, because there are few statuses and many students share each status.
"""

_OURS = {"schema": SCHEMA, "tables": list(_PERSONAL), "kept": sorted(KEPT)}

# An earlier version of rostersync created the tables in the schema of the views.
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
    """Return whether `withhold` has to remove statistics.

    If True, no view may read the columns while `withhold` runs.
    """
    return bool(connection.scalar(_IS_GATHERED, {**_OURS, "earlier": OF_VIEWS}))


def withhold(connection: Connection) -> None:
    """Keep PostgreSQL from gathering statistics on columns outside `KEPT`, and remove the existing statistics on them.

    Setting the type of a column removes the column's statistics, and needs no superuser rights. The new type equals the
    old type, so PostgreSQL does not rewrite the table. Call this function in the transaction of an upgrade.
    """
    for table, columns in groupby(connection.execute(_COLUMNS, _OURS), lambda column: column.table_name):
        actions = ", ".join(
            f"{f'ALTER {column.name} TYPE {column.type}, ' if column.is_gathered else ''}"
            f"ALTER {column.name} SET STATISTICS 0"
            for column in columns
        )
        connection.exec_driver_sql(f"ALTER TABLE {SCHEMA}.{table} {actions}")
