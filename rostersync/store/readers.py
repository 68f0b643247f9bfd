"""Roles of PostgreSQL that may read views of the contract, and nothing else of ours.

What a role may read is exactly what was granted last: to grant is to take away whatever else the role had been granted
on our schema, tables and views. Upgrades keep it (`view_upgrade`), and give nobody more: a view that a later version
adds is read by those to whom it is granted then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.errors import ConfigError, StoreError
from rostersync.store.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

NAMES = tuple(view.name for view in VIEWS)
"""The views that can be granted."""

_ROLES = text("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> current_user ORDER BY 1 LIMIT 20")
_ROLE = text("SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = :role")
_IS_OWNER = text("""
SELECT bool_or(pg_has_role(:role, owner, 'MEMBER'))
  FROM (SELECT oid FROM pg_roles WHERE rolname = current_user
         UNION SELECT nspowner FROM pg_namespace WHERE nspname = :schema
         UNION SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace(:schema)
         UNION SELECT relowner FROM pg_class
                WHERE relnamespace = to_regnamespace(:of_views) AND relname = ANY(:names)) o (owner)
""")
_READABLE = text("""
SELECT name FROM unnest(CAST(:names AS text[])) WITH ORDINALITY v (name, place)
 WHERE EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(:role, r.oid, 'MEMBER')
                  AND has_table_privilege(r.oid, :schema || '.' || name, 'SELECT'))
 ORDER BY place
""")
# MEMBER: also the roles that it must become first by SET ROLE, or may make itself a member of. Statistics of a table
# are shown to those who may read it, even if its schema is closed to them.
_REACH_TABLES = text("""
SELECT format('%s (%s)', rolname, how) FROM (
  SELECT rolname, CASE
      WHEN rolsuper THEN 'superuser'
      WHEN rolreplication THEN 'REPLICATION'
      WHEN rolcreaterole AND CAST(current_setting('server_version_num') AS int) < 160000
      THEN 'CREATEROLE, which may become any other role'
      WHEN rolname = 'pg_read_all_data' THEN 'reads all tables'
      WHEN rolname IN ('pg_read_server_files', 'pg_write_server_files') THEN 'uses files of the server'
      WHEN rolname = 'pg_execute_server_program' THEN 'runs programs on the server'
      WHEN has_schema_privilege(r.oid, :schema, 'USAGE')
        OR EXISTS (SELECT FROM pg_class c WHERE relnamespace = to_regnamespace(:schema) AND relkind = 'r'
                      AND has_any_column_privilege(r.oid, c.oid, 'SELECT'))
      THEN 'a grant to it, or to PUBLIC'
    END AS how
    FROM pg_roles r WHERE pg_has_role(:role, r.oid, 'MEMBER')) reach
 WHERE how IS NOT NULL ORDER BY 1
""")
_WAY_IN = text("""
SELECT format('GRANT CONNECT ON DATABASE %I TO %I;', current_database(), CAST(:role AS text)) AS statement,
       has_database_privilege(current_user, current_database(), 'CONNECT WITH GRANT OPTION') AS is_ours_to_grant
 WHERE NOT has_database_privilege(:role, current_database(), 'CONNECT')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %I TO %I;', CAST(:schema AS text), CAST(:role AS text)),
       has_schema_privilege(current_user, :schema, 'USAGE WITH GRANT OPTION')
 WHERE NOT has_schema_privilege(:role, :schema, 'USAGE')
""")


def grant(connection: Connection, role: str, views: Sequence[str] = ()) -> list[str]:
    """Let `role` read these views (none: all), and no others; return those that it can read now.

    Call it inside a transaction. Raises `ConfigError` for a role that is unknown, or can reach the tables whatever is
    granted, and `StoreError` with statements for an administrator where others must let the role in.
    """
    quoted = _known(connection, role)
    _withdraw(connection, quoted)
    for view in views or NAMES:
        _run(connection, f"GRANT SELECT ON {OF_VIEWS}.{view} TO {quoted}")
    if ways := list(connection.execute(_REACH_TABLES, {"role": role, "schema": SCHEMA}).scalars()):
        hint = "take these from it, or create another role for the reports"
        raise ConfigError([f"role {role}: reaches the tables as {', '.join(ways)}"], hint)
    _let_in(connection, role)
    return readable(connection, role)


def revoke(connection: Connection, role: str) -> list[str]:
    """Take from `role` whatever it was granted of ours; return the views that it can read all the same.

    Call it inside a transaction. Raises `ConfigError` for an unknown role, or one that owns the tables.
    """
    _withdraw(connection, _known(connection, role))
    return readable(connection, role)


def readable(connection: Connection, role: str) -> list[str]:
    """Return the views that a role may read, also as another role that it may become."""
    return list(connection.execute(_READABLE, {"role": role, "schema": OF_VIEWS, "names": list(NAMES)}).scalars())


def _known(connection: Connection, role: str) -> str:
    """Return the name of a role in quotes. Raises `ConfigError` unless it exists, and is none of those that write."""
    quoted: str | None = connection.scalar(_ROLE, {"role": role})
    if quoted is None:
        known = ", ".join(connection.execute(_ROLES).scalars()) or "none"
        hint = f'let an administrator create it: CREATE ROLE "{role}" LOGIN'.replace("\n", " ")
        raise ConfigError([f"role {role}: no such role in the database; known: {known}"], hint)
    ours = {"schema": SCHEMA, "of_views": OF_VIEWS, "names": list(NAMES)}
    if connection.scalar(_IS_OWNER, {"role": role, **ours}):
        hint = "readers need a role of their own, which is no superuser and no member of rostersync's"
        raise ConfigError([f"role {role}: may do everything that rostersync may"], hint)
    return quoted


def _withdraw(connection: Connection, quoted: str) -> None:
    views = ", ".join(f"{OF_VIEWS}.{view}" for view in NAMES)
    for what in (views, f"ALL TABLES IN SCHEMA {SCHEMA}", f"ALL SEQUENCES IN SCHEMA {SCHEMA}", f"SCHEMA {SCHEMA}"):
        _run(connection, f"REVOKE ALL ON {what} FROM {quoted} CASCADE")


def _let_in(connection: Connection, role: str) -> None:
    """Grant the role what it needs to get to the views: to connect, and to use their schema."""
    missing = connection.execute(_WAY_IN, {"role": role, "schema": OF_VIEWS}).all()
    for row in missing:
        if row.is_ours_to_grant:
            _run(connection, row.statement)
    if others := [row.statement for row in missing if not row.is_ours_to_grant]:
        hint = f"let an administrator run first, in this database: {' '.join(others)}"
        raise StoreError(f"role {role}: cannot get to the views", hint)


def _run(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
