"""Check and prepare the PostgreSQL schema of our tables. No other role may create objects in this schema.

PostgreSQL looks up a name without a schema only in `pg_catalog`, then in our schema, and then among the temporary
objects of the session. In a schema such as `public`, another role could have created a table with the same name, or an
operator that PostgreSQL prefers to its own. The views are in `public`, so we always write their names with the schema.

An object is "ours" if its owner is the connecting role, or a role that the connecting role is a member of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from rostersync.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

SCHEMA = "rostersync"
OF_VIEWS = "public"
SEARCH_PATH = f"{SCHEMA}, pg_temp"
"""PostgreSQL always searches the catalog first.

PostgreSQL searches temporary objects last, so they cannot hide our tables.
"""

OURS = """
WITH RECURSIVE ours (role) AS (
  SELECT oid FROM pg_roles WHERE rolname = current_user
   UNION SELECT roleid FROM pg_auth_members JOIN ours ON member = role
)"""
"""A query for our roles: the connecting role, and the roles that the connecting role is a member of.

The query does not compare privileges. A superuser has all privileges, so every object would count as ours.
"""

_FOUND = text(f"""{OURS}
SELECT pg_get_userbyid(nspowner) AS owner, nspowner IN (TABLE ours) AS is_ours,
       ARRAY(SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
               FROM aclexplode(nspacl) WHERE privilege_type = 'CREATE' AND grantee NOT IN (TABLE ours)) AS others
  FROM pg_namespace WHERE nspname = '{SCHEMA}'
""")

_PRIVILEGES = text(f"""
SELECT quote_ident(current_user) AS role, to_regnamespace('{SCHEMA}') IS NULL AS is_missing,
       has_database_privilege(current_database(), 'CREATE') AS makes_schemas,
       has_schema_privilege(to_regnamespace('{OF_VIEWS}'), 'CREATE') IS TRUE AS makes_views
""")

_EARLIER = text(f"""{OURS}
SELECT relname FROM pg_class
 WHERE relnamespace = to_regnamespace('{OF_VIEWS}') AND relkind = 'r' AND relname = ANY(:names)
   AND relowner IN (TABLE ours)
""")
_OF_FIRST = {
    "alembic_version",
    "held_removal",
    "quarantine",
    "run",
    "run_request",
    "source",
    "student",
    "student_version",
}
_OF_LATER = {"audit"}
EARLIER_TABLES = _OF_FIRST | _OF_LATER
"""The names of all tables that earlier versions created in the schema `public`."""

_TAKEN = text(f"""{OURS}
SELECT format('%s (of the role %s)', relname, pg_get_userbyid(relowner)) FROM pg_class
 WHERE relnamespace = to_regnamespace('{OF_VIEWS}') AND relname = ANY(:names)
   AND (relkind <> 'v' OR relowner NOT IN (TABLE ours))
""")


def check(connection: Connection) -> None:
    """Raise `StoreError` if the schema belongs to another role, or if another role can create objects in the schema."""
    found = connection.execute(_FOUND).one_or_none()
    if found and not found.is_ours:
        hint = "let an administrator rename or drop the schema, or set database.url to connect as the schema's owner"
        message = f"the schema {SCHEMA} belongs to the role {found.owner}, which can create objects in it"
        raise StoreError(message, hint)
    if found and found.others:
        roles = ", ".join(found.others)
        hint = f"check what these roles have created in it, then run: REVOKE CREATE ON SCHEMA {SCHEMA} FROM {roles}"
        raise StoreError(f"other roles can create objects in the schema {SCHEMA}: {roles}", hint)


def prepare(connection: Connection) -> None:
    """Create the schema if it is missing. Raises `StoreError` in the same cases as `require_privileges`."""
    require_privileges(connection)
    # CREATE SCHEMA IF NOT EXISTS would require the privilege to create schemas even if the schema exists.
    if connection.execute(_PRIVILEGES).one().is_missing:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")


def require_privileges(connection: Connection) -> None:
    """Raise `StoreError` if our role lacks a privilege that is needed to set up the database.

    The hint contains the statements that an administrator should run.
    """
    found = connection.execute(_PRIVILEGES).one()
    statements = [
        *(
            [f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {found.role};"]
            if found.is_missing and not found.makes_schemas
            else []
        ),
        *([f"GRANT CREATE ON SCHEMA {OF_VIEWS} TO {found.role};"] if not found.makes_views else []),
    ]
    if statements:
        hint = f"let an administrator run this in the database: {' '.join(statements)}"
        raise StoreError(f"the role {found.role} lacks privileges to set up the tables and views of rostersync", hint)


def require_names(connection: Connection, views: list[str]) -> None:
    """Raise `StoreError` if a name in `views` is already the name of an object that is not our view.

    Users who query an object with the name of our view would think that it is our view.
    """
    if taken := list(connection.execute(_TAKEN, {"names": views}).scalars()):
        hint = "let an administrator drop or rename the objects that do not belong to rostersync"
        raise StoreError(f"names of views in the schema {OF_VIEWS} are taken: {', '.join(taken)}", hint)


def move_tables(connection: Connection) -> None:
    """Move the tables that an earlier version created in `public` into our schema.

    The caller must first lock the views.
    """
    for table in earlier_tables(connection):
        connection.exec_driver_sql(f"ALTER TABLE {OF_VIEWS}.{table} SET SCHEMA {SCHEMA}")


def are_ours(tables: Iterable[str]) -> bool:
    """Return whether `tables` contains all table names of the first version, which means that the tables are ours."""
    return _OF_FIRST.issubset(tables)


def earlier_tables(connection: Connection) -> list[str]:
    """Return the names of the tables that an earlier version created in `public`.

    The list is empty unless all tables of the first version exist in `public` and are ours.
    """
    found = set(connection.execute(_EARLIER, {"names": sorted(EARLIER_TABLES)}).scalars())
    return sorted(found) if are_ours(found) else []
