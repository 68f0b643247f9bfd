"""Upgrade the views to this version's definitions, in the same transaction as the tables.

To change a view, edit the module `views` and add a migration. If no table changes, the migration is empty. On
PostgreSQL, an upgrade does not touch a view if its definition has not changed. If the only change to a view is new
columns at its end, the upgrade replaces the view. Replacing a view does not affect objects that depend on the view. If
a column of a view is removed or renamed, or its type changes, the upgrade drops the view and creates it again, with the
same owner and grants. If another object depends on a view that must be dropped, the upgrade stops and is rolled back.

If an upgrade must remove PostgreSQL's statistics (see `column_statistics`), it first redefines the views so that they
read no table. Redefining a view does not affect objects that depend on the view.

Otherwise, the views still read the tables during the migrations. Neither SQLite nor PostgreSQL can drop a column that a
view reads, or change the column's type. So a migration that changes such a column must first call
`drop_views(op.get_bind(), "sync_run", ...)` with every view that reads the column. Before a batch operation on SQLite,
the migration must drop every view that reads the table. A migration that removes a view from the contract must also
call `drop_views`. On SQLite, all views are dropped and created again after the migrations, because SQLite has no
grants, and dropping a view there does not affect other views.

Each migration has a constant `locks_readers`. It is True if the migration locks a table that a view reads, or drops a
view. Then readers of the PostgreSQL views must wait until the upgrade ends.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import text

from rostersync.errors import StoreError
from rostersync.store.database import own_schema
from rostersync.store.database.engine import run_verbatim
from rostersync.store.database.own_schema import OF_VIEWS
from rostersync.store.schema import column_statistics
from rostersync.store.schema.views import BARRIER, VIEWS, create_view, describe_view, placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from rostersync.store.schema.views import View


class _Form(msgspec.Struct, frozen=True):
    """The definition of a view in PostgreSQL. Each of `columns` is the name, type and collation of a column."""

    query: str
    options: list[str]
    columns: list[str]


class _Grant(NamedTuple):
    """A privilege on a view or a table, or on one of its columns. The name in `role` is quoted for SQL."""

    column: str | None
    privilege: str
    role: str
    grantable: bool


class Access(msgspec.Struct, frozen=True):
    """The owner of a view or a table, and the grants on it. The name in `owner` is quoted for SQL."""

    owner: str
    grants: list[_Grant]


_FORM = text("""
SELECT pg_get_viewdef(c.oid), coalesce(reloptions, '{}'),
       ARRAY(SELECT format('%I %s %s', attname, format_type(atttypid, atttypmod), attcollation)
               FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum)
  FROM pg_class c WHERE c.oid = to_regclass(:name)
""")

_NULLS = text("""
SELECT string_agg(format('CAST(NULL AS %s) AS %I', format_type(atttypid, atttypmod), attname), ', ' ORDER BY attnum)
  FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0
""")

_OWNER = text("SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(:name)")

_GRANTS = text("""
SELECT "column", privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
       is_grantable
  FROM (SELECT oid, NULL AS "column", coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class
         UNION ALL SELECT attrelid, attname, attacl FROM pg_attribute WHERE attacl IS NOT NULL) item, aclexplode(acl)
 WHERE oid = to_regclass(:name)
""")

_COLUMNS = text("""
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
""")

# PostgreSQL implements a view with a rewrite rule. The result contains the view in place of its rule. The query also
# follows a view's row type, because objects that use the type depend on the view. The parts of a table, such as its
# indexes, are not in the result.
_DEPENDENTS = text("""
WITH RECURSIVE leaving (classid, objid) AS (
  SELECT 'pg_class'::regclass::oid, to_regclass(name)::oid FROM unnest(CAST(:names AS text[])) name
), dependent (classid, objid) AS (
  SELECT * FROM leaving
   UNION
  SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END, coalesce(r.ev_class, d.objid)
    FROM dependent JOIN pg_depend d ON (d.refclassid, d.refobjid) = (dependent.classid, dependent.objid)
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
)
SELECT o.type || ' ' || o.identity
  FROM (TABLE dependent EXCEPT TABLE leaving) found, pg_identify_object(classid, objid, 0) o
 WHERE o.type NOT IN ('type', 'index', 'sequence', 'default value', 'toast table')
   AND NOT EXISTS (SELECT FROM pg_constraint c JOIN leaving l ON conrelid = l.objid
                    WHERE c.oid = found.objid AND found.classid = 'pg_constraint'::regclass)
   AND NOT EXISTS (SELECT FROM pg_trigger t
                    WHERE t.oid = found.objid AND found.classid = 'pg_trigger'::regclass AND tgisinternal)
 ORDER BY 1
""")

_TRIAL = "pg_temp.rostersync_trial"


def upgraded_views(connection: Connection, *, detached: bool = False) -> AbstractContextManager[None]:
    """Return a context for migrations.

    At the end of the context, the views match `VIEWS` and have the same owners and grants as before.

    If `detached` is True, the views on PostgreSQL read no table inside the context, so the caller can drop and create
    tables. Raises `StoreError` if another object depends on a view that must be dropped.
    """
    if connection.dialect.name == "sqlite":
        return _on_sqlite(connection)
    return _on_postgresql(connection, detached=detached)


@contextmanager
def _on_sqlite(connection: Connection) -> Iterator[None]:
    yield  # do not drop our views earlier: if another view reads a missing view, ALTER TABLE fails
    drop_views(connection, *(view.name for view in VIEWS))
    for view in VIEWS:
        create_view(connection, view)


@contextmanager
def _on_postgresql(connection: Connection, *, detached: bool) -> Iterator[None]:
    own_schema.require_names(connection, [view.name for view in VIEWS])
    access = {view.name: access_to(connection, placed(view)) for view in VIEWS if _form(connection, placed(view))}
    for view in VIEWS:
        if view.name in access and _may_change(connection, view):
            _lock(connection, view, access[view.name])
    if detached or column_statistics.are_gathered(connection):
        for name in access:
            _detach(connection, name)
    yield
    _upgrade(connection, access)


def changed_views(connection: Connection) -> list[str]:
    """Return the names of the views that an upgrade may have to change. Call this before the migrations."""
    if connection.dialect.name == "sqlite":
        return []
    return [placed(view) for view in VIEWS if _may_change(connection, view)]


def drop_views(connection: Connection, *names: str) -> None:
    """Drop the named views, and skip the missing ones.

    A migration calls this function before it changes a column that the views read.

    Raises `StoreError` if another object depends on one of the views.
    """
    schema = f"{OF_VIEWS}." if connection.dialect.name == "postgresql" else ""
    if schema:
        require_no_dependents(connection, [f"{schema}{name}" for name in names], ", ".join(names))
    for name in names:
        run_verbatim(connection, f"DROP VIEW IF EXISTS {schema}{name}")


def require_no_dependents(connection: Connection, names: list[str], what: str) -> None:
    """Raise `StoreError` if another object depends on one of `names`.

    `names` are the names of views or tables, each with its schema. The error message refers to these views or tables as
    `what`.
    """
    if found := list(connection.execute(_DEPENDENTS, {"names": names}).scalars()):
        message = f"this command must drop and recreate {what}, on which other objects depend: {', '.join(found)}"
        hint = (
            "nothing was changed; save the definitions of these objects, drop the objects, run the command again, and "
            "then recreate the objects"
        )
        raise StoreError(message, hint)


def _may_change(connection: Connection, view: View) -> bool:
    """Return whether an upgrade may have to change the view. Call this before the migrations."""
    try:
        return _form(connection, placed(view)) != _built(connection, view)
    except StoreError:  # the new view reads a table or column that a migration will create
        return True


def _lock(connection: Connection, view: View, access: Access) -> None:
    """Lock a view, but not the tables that it reads. New readers of the view then wait for the lock.

    A reader first locks the view and then the tables. If the upgrade locked the tables before the views, it could
    deadlock with a reader. The SQL command LOCK would lock the tables too. Instead of using LOCK, we set the owner of
    the view to its present owner, which locks only the view and changes nothing.
    """
    run_verbatim(connection, f"ALTER VIEW {placed(view)} OWNER TO {access.owner}")


def _detach(connection: Connection, name: str) -> None:
    """Redefine a view so that it reads no table until it is replaced.

    Afterwards a migration can change the types of the tables' columns, although other objects depend on the view.
    """
    columns = connection.execute(_NULLS, {"name": f"{OF_VIEWS}.{name}"}).scalar_one()
    run_verbatim(connection, f"CREATE OR REPLACE VIEW {OF_VIEWS}.{name} {BARRIER} AS SELECT {columns} WHERE false")


def _upgrade(connection: Connection, access: dict[str, Access]) -> None:
    """Replace the views that differ from `VIEWS`. If a view cannot be replaced, drop it and create it again."""
    stored = {view.name: _form(connection, placed(view)) for view in VIEWS}
    built = {view.name: _built(connection, view) for view in VIEWS}
    dropped = [name for name, form in stored.items() if form and not _is_extended(form, built[name])]
    drop_views(connection, *dropped)
    for view in VIEWS:
        form = stored[view.name]
        if form != built[view.name]:
            create_view(connection, view)
        if (form is None or view.name in dropped) and view.name in access:
            give_access(connection, placed(view), access[view.name])
        describe_view(connection, view)


def _is_extended(stored: _Form, built: _Form) -> bool:
    """Return whether CREATE OR REPLACE VIEW can turn `stored` into `built`.

    CREATE OR REPLACE VIEW can only add columns at the end.
    """
    return built.columns[: len(stored.columns)] == stored.columns


def _form(connection: Connection, name: str) -> _Form | None:
    row = connection.execute(_FORM, {"name": name}).one_or_none()
    return _Form(*row) if row else None


def _built(connection: Connection, view: View) -> _Form:
    """Return the definition that `view` will have after the upgrade.

    This function creates the view under another name, reads its definition, and rolls back. PostgreSQL formats the new
    and the stored definition in the same way, so the two differ only if the views differ.
    """
    with connection.begin_nested() as trial:
        run_verbatim(connection, f"CREATE TEMPORARY VIEW {_TRIAL} {BARRIER} AS {view.query('postgresql')}")
        form = _form(connection, _TRIAL)
        trial.rollback()
    assert form is not None
    return form


def access_to(connection: Connection, name: str) -> Access:
    """Return the owner and the grants of a PostgreSQL view or table. `name` contains its schema."""
    owner = connection.execute(_OWNER, {"name": name}).scalar_one()
    return Access(owner, [_Grant(*row) for row in connection.execute(_GRANTS, {"name": name})])


def give_access(connection: Connection, name: str, access: Access) -> None:
    """Restore the owner and the grants of a view or table that was dropped and created again.

    Grants that PostgreSQL has added because of default privileges are revoked.
    """
    run_verbatim(connection, f"ALTER TABLE {name} OWNER TO {access.owner}")
    for grant in access_to(connection, name).grants:
        run_verbatim(connection, f"REVOKE ALL ON {name} FROM {grant.role}")
    columns = [None, *connection.execute(_COLUMNS, {"name": name}).scalars()]
    for column, privilege, role, grantable in access.grants:
        if column in columns:  # skip a grant on a column that no longer exists
            what = f'{privilege} ("{column}")' if column else privilege
            option = " WITH GRANT OPTION" if grantable else ""
            run_verbatim(connection, f"GRANT {what} ON {name} TO {role}{option}")
