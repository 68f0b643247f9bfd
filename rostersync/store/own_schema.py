"""The schema of PostgreSQL that the tables live in, so that nobody else can plant objects among them.

Names without a schema are looked up there and in `pg_catalog` only: in another schema, as `public` may be, a stranger
could have made a table, or an operator that fits better than the server's own. The views stay in `public`, and are
always named with it. Ours is what belongs to the connecting role, or to a role that it was made a member of.
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
"""The catalog comes first by itself; temporary objects come last, else they could stand in front of ours."""

OURS = """
WITH RECURSIVE ours (role) AS (
  SELECT oid FROM pg_roles WHERE rolname = current_user
   UNION SELECT roleid FROM pg_auth_members JOIN ours ON member = role
)"""
"""Not by what a role may do: a superuser may do everything, and would take any stranger's object for its own."""

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
    """Raise `StoreError` where the schema is another role's, or lets others create objects in it."""
    found = connection.execute(_FOUND).one_or_none()
    if found and not found.is_ours:
        hint = "let an administrator rename or drop that schema, or connect as that role"
        message = f"the schema {SCHEMA} belongs to the role {found.owner}, which could plant objects in it"
        raise StoreError(message, hint)
    if found and found.others:
        roles = ", ".join(found.others)
        hint = f"see what they have made in it, and: REVOKE CREATE ON SCHEMA {SCHEMA} FROM {roles}"
        raise StoreError(f"the schema {SCHEMA} lets others create objects in it: {roles}", hint)


def prepare(connection: Connection) -> None:
    """Create the schema where there is none. Raises `StoreError` as `require_privileges`."""
    require_privileges(connection)
    if connection.execute(_PRIVILEGES).one().is_missing:  # IF NOT EXISTS needs the privilege even where it exists
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")


def require_privileges(connection: Connection) -> None:
    """Raise `StoreError`, with the statements for an administrator, where the role may not set the database up."""
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
        raise StoreError(f"the role {found.role} may not set up the tables and views of rostersync", hint)


def require_names(connection: Connection, views: list[str]) -> None:
    """Raise `StoreError` where the name of a view is taken, by somebody whose view readers would take for ours."""
    if taken := list(connection.execute(_TAKEN, {"names": views}).scalars()):
        hint = "let an administrator drop or rename what is not rostersync's"
        raise StoreError(f"names of views in the schema {OF_VIEWS} are taken: {', '.join(taken)}", hint)


def move_tables(connection: Connection) -> None:
    """Move the tables into the schema that an earlier version made in `public`; their views must be locked already."""
    for table in earlier_tables(connection):
        connection.exec_driver_sql(f"ALTER TABLE {OF_VIEWS}.{table} SET SCHEMA {SCHEMA}")


def are_ours(tables: Iterable[str]) -> bool:
    """Return whether these are the names of the tables of any version of rostersync, perhaps among others."""
    return _OF_FIRST.issubset(tables)


def earlier_tables(connection: Connection) -> list[str]:
    """Return the tables of a version that had no schema of its own; none unless they are all there, and ours."""
    found = set(connection.execute(_EARLIER, {"names": sorted(EARLIER_TABLES)}).scalars())
    return sorted(found) if are_ours(found) else []
