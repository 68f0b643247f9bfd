"""Upgrade the views to this version's form together with the tables, in one transaction.

To change a view, edit `views` and add a migration, even an empty one if no table changes. On PostgreSQL, a view with
the same definition is not touched. A view that only gets columns at its end is replaced. In both cases, objects that
depend on the view are kept. A view that loses, renames or retypes a column is dropped and created again, with its owner
and its grants. If another object depends on a view that must be dropped, the upgrade stops and is rolled back.

An upgrade that removes PostgreSQL's statistics (`column_statistics`) makes the views read no table until it ends.
Objects that depend on the views are kept then, too.

Otherwise the views exist during the migrations, and neither database drops or retypes a column that a view reads. A
migration that does this must first call `drop_views(op.get_bind(), "sync_run", ...)` with every view that reads the
column. On SQLite, a batch operation needs this for every view that reads the table. A migration that removes a view
from the contract must call `drop_views` too. SQLite has no grants, and dropping a view there has no effect on other
views, so all views are dropped and created again after the migrations.
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
    """A view as PostgreSQL stores it: its query, its options, and the name, type and collation of each column."""

    query: str
    options: list[str]
    columns: list[str]


class _Grant(NamedTuple):
    """A privilege on a view or a table, or on one of its columns. `role` is quoted for SQL."""

    column: str | None
    privilege: str
    role: str
    grantable: bool


class Access(msgspec.Struct, frozen=True):
    """The owner of a view or a table, and the grants on it. `owner` is quoted for SQL."""

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

# A rule counts as the view that it implements. A view's row type depends on the view, and objects that use the type
# depend on the type. A table's own parts are left out.
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
    """Return a context for migrations. At its end, the views are those in `VIEWS`, with the earlier owners and grants.

    With `detached`, PostgreSQL's views read no table meanwhile, so the caller can replace the tables themselves. Raises
    `StoreError` if another object depends on a view that must be dropped.
    """
    if connection.dialect.name == "sqlite":
        return _on_sqlite(connection)
    return _on_postgresql(connection, detached=detached)


@contextmanager
def _on_sqlite(connection: Connection) -> Iterator[None]:
    yield  # keep our views until now: ALTER TABLE fails if another user's view reads one that is missing
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
    """Return the views that an upgrade may replace, as far as this is known before its migrations."""
    if connection.dialect.name == "sqlite":
        return []
    return [placed(view) for view in VIEWS if _may_change(connection, view)]


def drop_views(connection: Connection, *names: str) -> None:
    """Drop some of our views, for a migration that changes the columns that they read. Missing views are skipped.

    Raises `StoreError` if another object depends on one of them.
    """
    schema = f"{OF_VIEWS}." if connection.dialect.name == "postgresql" else ""
    if schema:
        require_no_dependents(connection, [f"{schema}{name}" for name in names], ", ".join(names))
    for name in names:
        run_verbatim(connection, f"DROP VIEW IF EXISTS {schema}{name}")


def require_no_dependents(connection: Connection, names: list[str], what: str) -> None:
    """Raise `StoreError` if another object depends on one of `names`.

    `names` are views or tables, with their schemas. The error calls them `what`.
    """
    if found := list(connection.execute(_DEPENDENTS, {"names": names}).scalars()):
        message = f"this command must drop and recreate {what}, on which other objects depend: {', '.join(found)}"
        hint = "nothing was changed; save their definitions, drop them, run it again, and create them again"
        raise StoreError(message, hint)


def _may_change(connection: Connection, view: View) -> bool:
    """Return whether the view may have to change. This is called before the migrations."""
    try:
        return _form(connection, placed(view)) != _built(connection, view)
    except StoreError:  # the view reads a table or column that a migration will create
        return True


def _lock(connection: Connection, view: View, access: Access) -> None:
    """Lock a view, but not its tables, so that new readers of the view wait.

    A reader locks a view and then its tables. If migrations locked the tables first and the view later, a reader and
    the upgrade could wait for each other. LOCK would also lock the tables. This statement locks only the view, and
    changes nothing.
    """
    run_verbatim(connection, f"ALTER VIEW {placed(view)} OWNER TO {access.owner}")


def _detach(connection: Connection, name: str) -> None:
    """Redefine a view so that it reads no table until it is replaced.

    Then the types of the tables' columns can be changed, and objects that depend on the view need not be dropped.
    """
    columns = connection.execute(_NULLS, {"name": f"{OF_VIEWS}.{name}"}).scalar_one()
    run_verbatim(connection, f"CREATE OR REPLACE VIEW {OF_VIEWS}.{name} {BARRIER} AS SELECT {columns} WHERE false")


def _upgrade(connection: Connection, access: dict[str, Access]) -> None:
    """Replace the views that differ from `VIEWS`. Drop and create again the views that cannot be replaced."""
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
    """Return whether CREATE OR REPLACE VIEW can turn `stored` into `built`: it can only add columns at the end."""
    return built.columns[: len(stored.columns)] == stored.columns


def _form(connection: Connection, name: str) -> _Form | None:
    row = connection.execute(_FORM, {"name": name}).one_or_none()
    return _Form(*row) if row else None


def _built(connection: Connection, view: View) -> _Form:
    """Return the form that `view` will have: create it under another name, and roll that back.

    The same server writes both forms, so they differ only if the views differ.
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
    """Give a view or table that was created again its earlier owner and grants.

    Revoke the grants that default privileges have added.
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
