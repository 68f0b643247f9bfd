"""Let PostgreSQL roles read our views, but none of our tables.

A role can read exactly the views of the last grant, because each grant first revokes all privileges that the role had
on our schema, tables and views. An upgrade keeps the grants (see `view_upgrade`), but adds none. So if a later version
adds a view, a role cannot read the new view until the next grant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.errors import ConfigError, StoreError
from rostersync.store.database.engine import run_verbatim
from rostersync.store.database.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.schema.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

NAMES = tuple(view.name for view in VIEWS)
"""The names of the views that can be granted."""

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
# MEMBER also finds a privilege that the role does not inherit, but can get by SET ROLE or by granting itself a
# membership. A privilege on a table matters even if the role cannot use the table's schema, because PostgreSQL lets the
# role see the statistics of the table.
_REACH_TABLES = text("""
SELECT format('%s (%s)', rolname, how) FROM (
  SELECT rolname, CASE
      WHEN rolsuper THEN 'superuser'
      WHEN rolreplication THEN 'REPLICATION'
      WHEN rolcreaterole AND CAST(current_setting('server_version_num') AS int) < 160000
      THEN 'CREATEROLE, which can become any other role'
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
    """Let `role` read `views` and no other view. Return the views that the role can read afterwards.

    Args:
        connection: The connection, inside a transaction.
        role: The name of an existing role.
        views: The names of the views, which must be in `NAMES`. Default: empty, which grants all views.

    Raises:
        ConfigError: The role does not exist, has the rights of the owner of our tables or views, or can read the tables
            without a grant.
        StoreError: An administrator must first allow the role to connect or to use the schema. The hint contains the
            SQL statements.

    """
    quoted = _known(connection, role)
    _withdraw(connection, quoted)
    for view in views or NAMES:
        run_verbatim(connection, f"GRANT SELECT ON {OF_VIEWS}.{view} TO {quoted}")
    if ways := list(connection.execute(_REACH_TABLES, {"role": role, "schema": SCHEMA}).scalars()):
        hint = "revoke these privileges from the role, or create another role for the reports"
        raise ConfigError([f"role {role}: can reach the tables as {', '.join(ways)}"], hint)
    _let_in(connection, role)
    return readable(connection, role)


def revoke(connection: Connection, role: str) -> list[str]:
    """Revoke all privileges of `role` on our tables and views. Return the views that the role can still read.

    Call this function inside a transaction. It raises `ConfigError` if the role does not exist, or has the rights of
    the owner of our tables or views.
    """
    _withdraw(connection, _known(connection, role))
    return readable(connection, role)


def readable(connection: Connection, role: str) -> list[str]:
    """Return the views that a role can read, either itself or as a member of another role."""
    return list(connection.execute(_READABLE, {"role": role, "schema": OF_VIEWS, "names": list(NAMES)}).scalars())


def _known(connection: Connection, role: str) -> str:
    """Return the quoted name of a role.

    Raises `ConfigError` if the role does not exist, or has the rights of the owner of our tables or views.
    """
    quoted: str | None = connection.scalar(_ROLE, {"role": role})
    if quoted is None:
        known = ", ".join(connection.execute(_ROLES).scalars()) or "none"
        hint = f'let an administrator create it: CREATE ROLE "{role}" LOGIN'.replace("\n", " ")
        raise ConfigError([f"role {role}: no such role in the database; known: {known}"], hint)
    ours = {"schema": SCHEMA, "of_views": OF_VIEWS, "names": list(NAMES)}
    if connection.scalar(_IS_OWNER, {"role": role, **ours}):
        hint = "use a separate role for readers, which is not a superuser and not a member of rostersync's role"
        raise ConfigError([f"role {role}: can do everything that rostersync can do"], hint)
    return quoted


def _withdraw(connection: Connection, quoted: str) -> None:
    views = ", ".join(f"{OF_VIEWS}.{view}" for view in NAMES)
    for what in (views, f"ALL TABLES IN SCHEMA {SCHEMA}", f"ALL SEQUENCES IN SCHEMA {SCHEMA}", f"SCHEMA {SCHEMA}"):
        run_verbatim(connection, f"REVOKE ALL ON {what} FROM {quoted} CASCADE")


def _let_in(connection: Connection, role: str) -> None:
    """Allow the role to connect to the database and to use the schema of the views.

    Raises `StoreError` if our own role is not allowed to grant one of these privileges.
    """
    missing = connection.execute(_WAY_IN, {"role": role, "schema": OF_VIEWS}).all()
    for row in missing:
        if row.is_ours_to_grant:
            run_verbatim(connection, row.statement)
    if others := [row.statement for row in missing if not row.is_ours_to_grant]:
        hint = f"first let an administrator run this in the database: {' '.join(others)}"
        raise StoreError(f"role {role}: cannot reach the views", hint)
