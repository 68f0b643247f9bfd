"""Check and prepare the PostgreSQL schema of our tables, in which no other role may create objects.

A name without a schema is looked up only in `pg_catalog`, in our schema, and last among the session's temporary
objects. In another schema, which `public` may be, another role could have created a table of the same name, or an
operator that fits better than the server's own. The views stay in `public`, and are always named with it.

An object is ours if it belongs to the connecting role, or to a role that this role is a member of.
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
"""PostgreSQL searches the catalog first by itself. Temporary objects come last, so they cannot hide our tables."""

OURS = """
WITH RECURSIVE ours (role) AS (
  SELECT oid FROM pg_roles WHERE rolname = current_user
   UNION SELECT roleid FROM pg_auth_members JOIN ours ON member = role
)"""
"""The roles that count as ours: the connecting role, and the roles that it is a member of.

We do not ask for privileges, because a superuser has all of them, and so every object would be ours.
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
"""The tables of the versions that had no schema of their own."""

_TAKEN = text(f"""{OURS}
SELECT format('%s (of the role %s)', relname, pg_get_userbyid(relowner)) FROM pg_class
 WHERE relnamespace = to_regnamespace('{OF_VIEWS}') AND relname = ANY(:names)
   AND (relkind <> 'v' OR relowner NOT IN (TABLE ours))
""")


def check(connection: Connection) -> None:
    """Raise `StoreError` if the schema exists and belongs to another role, or lets another role create objects."""
    found = connection.execute(_FOUND).one_or_none()
    if found and not found.is_ours:
        hint = "let an administrator rename or drop that schema, or connect as that role"
        message = f"the schema {SCHEMA} belongs to the role {found.owner}, which can create objects in it"
        raise StoreError(message, hint)
    if found and found.others:
        roles = ", ".join(found.others)
        hint = f"check what these roles have created in it, then run: REVOKE CREATE ON SCHEMA {SCHEMA} FROM {roles}"
        raise StoreError(f"other roles can create objects in the schema {SCHEMA}: {roles}", hint)


def prepare(connection: Connection) -> None:
    """Create the schema if it is missing. Raises `StoreError` as `require_privileges` does."""
    require_privileges(connection)
    if connection.execute(_PRIVILEGES).one().is_missing:  # IF NOT EXISTS needs the privilege even if the schema exists
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")


def require_privileges(connection: Connection) -> None:
    """Raise `StoreError` if the role lacks a privilege that it needs to set up the database.

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
        hint = f"let an administrator run, in this database: {' '.join(statements)}"
        raise StoreError(f"the role {found.role} lacks privileges to set up the tables and views of rostersync", hint)


def require_names(connection: Connection, views: list[str]) -> None:
    """Raise `StoreError` if one of these names belongs to an object other than our view.

    A reader would mistake that object for our view.
    """
    if taken := list(connection.execute(_TAKEN, {"names": views}).scalars()):
        hint = "let an administrator drop or rename the objects that do not belong to rostersync"
        raise StoreError(f"names of views in the schema {OF_VIEWS} are taken: {', '.join(taken)}", hint)


def move_tables(connection: Connection) -> None:
    """Move the tables that an earlier version created in `public` into our schema. Lock their views first."""
    for table in earlier_tables(connection):
        connection.exec_driver_sql(f"ALTER TABLE {OF_VIEWS}.{table} SET SCHEMA {SCHEMA}")


def are_ours(tables: Iterable[str]) -> bool:
    """Return whether these are the names of the tables of any version of rostersync, perhaps among others."""
    return _OF_FIRST.issubset(tables)


def earlier_tables(connection: Connection) -> list[str]:
    """Return the tables that an earlier version created in `public`.

    Returns none unless all tables of the first version are there and are ours.
    """
    found = set(connection.execute(_EARLIER, {"names": sorted(EARLIER_TABLES)}).scalars())
    return sorted(found) if are_ours(found) else []
