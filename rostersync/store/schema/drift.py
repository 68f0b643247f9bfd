"""Report the differences between the database's tables, keys, indexes and views and the schema of this version.

For the comparison, we create this version's tables: in memory for SQLite, and as temporary tables for PostgreSQL, in a
transaction that is rolled back. This way, one query describes both the existing tables and the new tables, so both
descriptions have the same format. The queries in this module must not count rows, because a daemon runs them each time
it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text
from sqlalchemy.schema import AddConstraint, CreateIndex

from rostersync.store.database import own_schema
from rostersync.store.database.engine import open_memory, run_verbatim
from rostersync.store.database.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.schema import revisions
from rostersync.store.schema.tables import metadata
from rostersync.store.schema.views import BARRIER, VIEWS, create_view, placed

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, TextClause
    from sqlalchemy.sql.ddl import ExecutableDDLElement

UPGRADE = "run: rostersync db upgrade"
RESTORE = "restore a backup: rostersync db restore FILE"


class Drift(NamedTuple):
    """A difference between the database and this version's schema, and a remedy for it."""

    difference: str
    remedy: str


class _Item(NamedTuple):
    """A table, a view, or a column, key or index of a table.

    Messages use the value of `kind`, for example "index", as the word for the item.
    """

    kind: str
    table: str
    name: str

    def __str__(self) -> str:
        if self.kind == "column":
            return f"the column {self.table}.{self.name}"
        if self.name == self.table:
            return f"the {self.kind} {self.name}"
        return f"the {' '.join(filter(None, (self.kind, self.name)))} of {self.table}"


_Shape = dict[_Item, str]
_VIEW_NAMES = [view.name for view in VIEWS]

_SQLITE = text("""
WITH t AS (SELECT name FROM sqlite_master
            WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'alembic_version')
SELECT 'table', name, name, '' FROM t
 UNION ALL
SELECT 'column', t.name, c.name,
       c.type || iif(c."notnull", ' NOT NULL', '') || coalesce(' DEFAULT ' || c.dflt_value, '')
  FROM t, pragma_table_xinfo(t.name) c
 UNION ALL
SELECT 'primary key', "table", '', group_concat(name, ', ')
  FROM (SELECT t.name AS "table", c.name FROM t, pragma_table_xinfo(t.name) c WHERE c.pk > 0 ORDER BY t.name, c.pk)
 GROUP BY "table"
 UNION ALL
SELECT 'foreign key', t.name, f."from", f."table" || '.' || coalesce(f."to", '')
  FROM t, pragma_foreign_key_list(t.name) f
 UNION ALL
SELECT 'index', t.name, i.name,
       iif(i."unique", 'UNIQUE ', '')
       || (SELECT group_concat(name, ', ') FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno))
       || iif(i.partial, substr(m.sql, instr(m.sql, ' WHERE ')), '')
  FROM t, pragma_index_list(t.name) i JOIN sqlite_master m ON m.type = 'index' AND m.name = i.name
 WHERE i.origin = 'c'
 UNION ALL
SELECT 'view', name, name, sql FROM sqlite_master WHERE type = 'view'
""")

_POSTGRESQL = text("""
WITH t AS (SELECT oid, relname FROM pg_class
            WHERE relnamespace = CAST(:tables AS oid) AND relkind IN ('r', 'p') AND relname <> 'alembic_version'),
item (kind, relname, name, definition) AS (
  SELECT 'table', relname, relname, '' FROM t
   UNION ALL
  SELECT 'column', relname, attname,
         format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
         || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
    FROM t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
   UNION ALL
  SELECT CASE contype WHEN 'p' THEN 'primary key' WHEN 'f' THEN 'foreign key' ELSE 'constraint' END, relname,
         CASE contype WHEN 'p' THEN '' ELSE conname END, pg_get_constraintdef(c.oid)
    FROM t JOIN pg_constraint c ON conrelid = t.oid AND contype IN ('p', 'f', 'u', 'c', 'x')
   UNION ALL
  SELECT 'index', t.relname, i.relname,
         CASE WHEN indisunique THEN 'UNIQUE ' ELSE '' END || substring(pg_get_indexdef(i.oid) FROM ' USING (.*)')
         || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END
    FROM t JOIN pg_index ON indrelid = t.oid JOIN pg_class i ON i.oid = indexrelid
   WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid AND contype IN ('p', 'u', 'x'))
   UNION ALL
  SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'table' END, relname, relname,
         concat(pg_get_viewdef(oid), reloptions,
                (SELECT string_agg(format('%I %s %s', attname, format_type(atttypid, atttypmod), attcollation), ', '
                                   ORDER BY attnum)
                   FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0))
    FROM pg_class
   WHERE relnamespace = CAST(:views AS oid) AND relname = ANY(:names) AND relkind IN ('r', 'p', 'f', 'm', 'v')
)
SELECT kind, relname::text, name::text, definition FROM item
""")
_PLACES = text(f"SELECT '{SCHEMA}'::regnamespace::oid AS tables, '{OF_VIEWS}'::regnamespace::oid AS views")
_TRIAL_PLACES = text("SELECT pg_my_temp_schema() AS tables, pg_my_temp_schema() AS views")
_WRITTEN_VIEWS = text("""
SELECT relname, trim(TRAILING ';' FROM pg_get_viewdef(oid)) FROM pg_class
 WHERE relnamespace = pg_my_temp_schema() AND relkind = 'v' AND relname = ANY(:names)
""")

_ELSEWHERE = text(f"""{own_schema.OURS}
SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relname = ANY(:names) AND relkind IN ('v', 'm') AND nspname <> :views AND nspname NOT LIKE 'pg\\_%'
   AND (nspname = :tables OR relowner IN (TABLE ours))
 ORDER BY 1
""")  # noqa: S608 - only our own text


def drift(engine: Engine) -> list[Drift]:
    """Return the differences between the database and this version's schema.

    There are no differences unless the schema was changed without rostersync.

    Raises `NoDatabase`, `SchemaOutdated` or `SchemaTooNew` unless the database's schema has this version's revision.
    """
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection, connection.begin():
            revisions.require_current(connection)
            return _differences(connection, _shape(connection, _SQLITE), _expected_by_sqlite())
    unplaced = engine.execution_options(schema_translate_map=None, begin="write")
    with unplaced.connect() as connection, connection.begin() as trial:
        revisions.require_current(connection)
        stored = _shape(connection, _POSTGRESQL, _PLACES)
        others = _left_over(connection)
        expected = _expected_by_postgresql(connection)
        if any(stored.get(item) != definition for item, definition in expected.items() if item.kind == "view"):
            expected |= {item: form for item, form in _restored_views(connection).items() if stored.get(item) == form}
        found = _differences(connection, stored, expected) + others
        trial.rollback()
        return found


def _expected_by_sqlite() -> _Shape:
    with open_memory().connect() as memory, memory.begin():
        metadata.create_all(memory, checkfirst=False)
        for view in VIEWS:
            create_view(memory, view)
        return _shape(memory, _SQLITE)


def _expected_by_postgresql(connection: Connection) -> _Shape:
    """Create temporary tables and views from the schema of this version, and return their shape.

    Until the transaction ends, a name without a schema refers to one of these temporary tables and views.
    """
    connection.exec_driver_sql("SET LOCAL search_path = pg_temp")
    metadata.create_all(connection, checkfirst=False)
    views = (f"CREATE TEMPORARY VIEW {view.name} {BARRIER} AS {view.query('postgresql')}" for view in VIEWS)
    run_verbatim(connection, "; ".join(views))
    return _shape(connection, _POSTGRESQL, _TRIAL_PLACES)


def _restored_views(connection: Connection) -> _Shape:
    """Return the definitions that the views have after a dump is restored.

    A restore makes the server parse a definition that the server itself has written. When PostgreSQL parses the
    definition a second time, it moves some of the parentheses.
    """
    written = connection.execute(_WRITTEN_VIEWS, {"names": _VIEW_NAMES})
    script = "; ".join(f"CREATE OR REPLACE TEMPORARY VIEW {name} {BARRIER} AS {query}" for name, query in written)
    run_verbatim(connection, script)
    return {item: form for item, form in _shape(connection, _POSTGRESQL, _TRIAL_PLACES).items() if item.kind == "view"}


def _shape(connection: Connection, query: TextClause, places: TextClause | None = None) -> _Shape:
    """Return the definitions that `query` finds.

    On PostgreSQL, `places` is a query for the schemas of tables and views.
    """
    known = {} if places is None else {**connection.execute(places).mappings().one(), "names": _VIEW_NAMES}
    return {_Item(kind, table, name): definition for kind, table, name, definition in connection.execute(query, known)}


def _differences(connection: Connection, stored: _Shape, expected: _Shape) -> list[Drift]:
    return _views(connection, stored, expected) + _tables(connection, stored, expected)


def _views(connection: Connection, stored: _Shape, expected: _Shape) -> list[Drift]:
    """Return the differences between the stored and the expected views, and remove the views from both arguments."""
    found = []
    for view in VIEWS:
        item, table = _Item("view", view.name, view.name), _Item("table", view.name, view.name)
        name = view.name if connection.dialect.name == "sqlite" else placed(view)
        definition = expected.pop(item)
        if table in stored:
            what = f"{name} is a table, but should be a view"
            found.append(Drift(what, f"drop or rename the table, and {UPGRADE}"))
        elif item not in stored:
            found.append(Drift(f"the view {name} is missing", UPGRADE))
        elif stored.pop(item) != definition:
            found.append(Drift(f"the view {name} is defined differently in this version", UPGRADE))
    return found


def _left_over(connection: Connection) -> list[Drift]:
    """Return our views that are in the wrong schema, and the tables of an early version.

    Restoring an older dump can leave views and tables of an earlier version behind.
    """
    found = []
    for name in connection.execute(_ELSEWHERE, {"names": _VIEW_NAMES, "tables": SCHEMA, "views": OF_VIEWS}).scalars():
        what = f"the view {name} is no longer used, because this version keeps its views in the schema {OF_VIEWS}"
        found.append(Drift(what, f"DROP VIEW {name}"))
    if tables := own_schema.earlier_tables(connection):
        names = ", ".join(f"{OF_VIEWS}.{table}" for table in tables)
        what = f"an older dump left tables of an earlier version in the schema {OF_VIEWS}: {', '.join(tables)}"
        found.append(Drift(what, f"if their rows are not needed, {UPGRADE}; then: DROP TABLE {names}"))
    return found


def _tables(connection: Connection, stored: _Shape, expected: _Shape) -> list[Drift]:
    found = []
    for item in sorted(stored.keys() | expected.keys()):
        whole = _Item("table", item.table, item.table)
        if whole not in expected:
            continue  # a view or table of another program, which is harmless
        if item != whole and whole not in stored:
            continue  # the whole table is missing, which is reported only once
        is_, should = stored.get(item), expected.get(item)
        if is_ == should:
            continue
        if is_ is None:
            what = f"{item} is missing"
        elif should is None:
            what = f"{item} does not belong to this version's schema"
        else:
            what = f"{item} is {is_}, not {should}"
        found.append(Drift(what, _remedy(connection, item, is_, should)))
    return found


def _remedy(connection: Connection, item: _Item, is_: str | None, should: str | None) -> str:
    """Return the SQL statements that remove a difference, or another remedy if no statement can remove it."""
    postgresql = connection.dialect.name == "postgresql"
    schema_of = f"{SCHEMA}." if postgresql else ""
    table = f"{schema_of}{item.table}"
    if item.kind == "index":
        drop = [f"DROP INDEX {schema_of}{item.name}"] if is_ is not None else []
        return "; ".join([*drop, *([_index(connection, item)] if should is not None else [])])
    if should is None and item.kind == "column":
        return f'ALTER TABLE {table} DROP COLUMN "{item.name}"'
    if not postgresql or item.kind in {"table", "column"} or (is_ is not None and not item.name):
        return RESTORE
    drop = [f"ALTER TABLE {table} DROP CONSTRAINT {item.name}"] if is_ is not None else []
    add = [_constraint(connection, item)] if should is not None else []
    statements = "; ".join([*drop, *add])
    if item.kind == "primary key":
        return f"{RESTORE}; or delete the duplicate rows, and: {statements}"
    return statements


def _index(connection: Connection, item: _Item) -> str:
    [index] = [index for index in metadata.tables[item.table].indexes if index.name == item.name]
    return _written(connection, CreateIndex(index))


def _constraint(connection: Connection, item: _Item) -> str:
    table = metadata.tables[item.table]
    if item.kind == "primary key":
        return _written(connection, AddConstraint(table.primary_key, isolate_from_table=False))
    [key] = [key for key in table.constraints if key.name == item.name]
    return _written(connection, AddConstraint(key, isolate_from_table=False))


def _written(connection: Connection, statement: ExecutableDDLElement) -> str:
    """Return a statement as SQL that the user can run."""
    if connection.dialect.name == "sqlite":
        return str(statement.compile(dialect=connection.dialect))
    places = {None: SCHEMA}
    return str(statement.compile(dialect=connection.dialect, schema_translate_map=places, render_schema_translate=True))
