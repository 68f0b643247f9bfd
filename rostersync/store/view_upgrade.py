"""Bringing the views to this version's form around a migration, in its transaction.

To change a view, edit `views` and add a migration, an empty one if no table changes. On PostgreSQL a view whose
definition is unchanged is left alone, and one that only gets columns at its end is replaced: what depends on either
stays. A view that loses, renames or retypes a column is dropped and created again with its owner and its grants; where
something else depends on it, the upgrade stops and rolls back.

An upgrade that removes statistics of PostgreSQL (`column_statistics`) lets the views read no table until its end. What
depends on a view stays.

Otherwise the views stand during the migrations, and neither database drops or retypes a table's column that a view
reads. A migration that does so calls `drop_views(op.get_bind(), "sync_run", ...)` first, with every view that reads the
column (on SQLite a batch operation needs it of every view of the table), and so does one that takes a view out of the
contract. SQLite has no grants, and no view there minds its being dropped: after the migrations all are created again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import text

from rostersync.errors import StoreError
from rostersync.store import column_statistics, own_schema
from rostersync.store.engine import run_verbatim
from rostersync.store.own_schema import OF_VIEWS
from rostersync.store.views import BARRIER, VIEWS, create_view, describe_view, placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from rostersync.store.views import View


class _Form(msgspec.Struct, frozen=True):
    """What PostgreSQL has stored of a view: its query, its options, and name, type and collation of each column."""

    query: str
    options: list[str]
    columns: list[str]


class _Grant(NamedTuple):
    """A privilege on a view or a table, or on one of its columns; `role` is quoted."""

    column: str | None
    privilege: str
    role: str
    grantable: bool


class Access(msgspec.Struct, frozen=True):
    """Who may do what with a view or a table; `owner` is quoted."""

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

# A rule stands for the view that it makes. A view's row type depends on the view, and what uses the type on the type.
# A table's own parts are left out.
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
    """Return a context for migrations; at its end the views are those of `VIEWS`, with the access they had before.

    With `detached` the views of PostgreSQL read no table meanwhile, so the caller can replace the tables themselves.
    Raises `StoreError` where something else depends on a view that has to be dropped.
    """
    if connection.dialect.name == "sqlite":
        return _on_sqlite(connection)
    return _on_postgresql(connection, detached=detached)


@contextmanager
def _on_sqlite(connection: Connection) -> Iterator[None]:
    yield  # the views stand meanwhile: ALTER TABLE refuses while a view of somebody else reads one that is missing
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
    """Return the views that an upgrade will replace, as far as that is known before its migrations."""
    if connection.dialect.name == "sqlite":
        return []
    return [placed(view) for view in VIEWS if _may_change(connection, view)]


def drop_views(connection: Connection, *names: str) -> None:
    """Drop views of the contract, for a migration that changes what they read; a missing one is skipped.

    Raises `StoreError` where something else depends on one of them.
    """
    schema = f"{OF_VIEWS}." if connection.dialect.name == "postgresql" else ""
    if schema:
        require_no_dependents(connection, [f"{schema}{name}" for name in names], ", ".join(names))
    for name in names:
        run_verbatim(connection, f"DROP VIEW IF EXISTS {schema}{name}")


def require_no_dependents(connection: Connection, names: list[str], what: str) -> None:
    """Raise `StoreError` if something else depends on `names`, the names of views or tables with their schemas.

    The error calls them `what`.
    """
    if found := list(connection.execute(_DEPENDENTS, {"names": names}).scalars()):
        message = f"this command must drop and recreate {what}, which others depend on: {', '.join(found)}"
        hint = "nothing was changed; save their definitions, drop them, run it again, and create them again"
        raise StoreError(message, hint)


def _may_change(connection: Connection, view: View) -> bool:
    """Tell before the migrations whether the view may have to change."""
    try:
        return _form(connection, placed(view)) != _planned(connection, view)
    except StoreError:  # it reads what a migration will make
        return True


def _lock(connection: Connection, view: View, access: Access) -> None:
    """Keep readers of a view waiting from now on, and its tables free.

    A reader locks a view and then its tables. If migrations locked the tables, and only then the view was replaced, the
    two could wait for each other. LOCK would take the tables as well; this changes nothing and takes the view alone.
    """
    run_verbatim(connection, f"ALTER VIEW {placed(view)} OWNER TO {access.owner}")


def _detach(connection: Connection, name: str) -> None:
    """Let a view read no table until it is replaced, so that columns can be retyped and what depends on it stays."""
    columns = connection.execute(_NULLS, {"name": f"{OF_VIEWS}.{name}"}).scalar_one()
    run_verbatim(connection, f"CREATE OR REPLACE VIEW {OF_VIEWS}.{name} {BARRIER} AS SELECT {columns} WHERE false")


def _upgrade(connection: Connection, access: dict[str, Access]) -> None:
    """Replace the views that differ from `VIEWS`, and drop and create those that cannot be replaced."""
    stored = {view.name: _form(connection, placed(view)) for view in VIEWS}
    planned = {view.name: _planned(connection, view) for view in VIEWS}
    dropped = [name for name, form in stored.items() if form and not _is_extended(form, planned[name])]
    drop_views(connection, *dropped)
    for view in VIEWS:
        form = stored[view.name]
        if form != planned[view.name]:
            create_view(connection, view)
        if (form is None or view.name in dropped) and view.name in access:
            give_access(connection, placed(view), access[view.name])
        describe_view(connection, view)


def _is_extended(stored: _Form, planned: _Form) -> bool:
    """Tell whether CREATE OR REPLACE VIEW can make one of the other: it can add columns at the end."""
    return planned.columns[: len(stored.columns)] == stored.columns


def _form(connection: Connection, name: str) -> _Form | None:
    row = connection.execute(_FORM, {"name": name}).one_or_none()
    return _Form(*row) if row else None


def _planned(connection: Connection, view: View) -> _Form:
    """Return the form that `view` will have, by creating it under another name for a moment.

    The same server writes both forms out, so they differ only if the views do, whoever made the stored one.
    """
    with connection.begin_nested() as trial:
        run_verbatim(connection, f"CREATE TEMPORARY VIEW {_TRIAL} {BARRIER} AS {view.query('postgresql')}")
        form = _form(connection, _TRIAL)
        trial.rollback()
    assert form is not None
    return form


def access_to(connection: Connection, name: str) -> Access:
    """Return the owner and the grants of a view or a table of PostgreSQL, which is named with its schema."""
    owner = connection.execute(_OWNER, {"name": name}).scalar_one()
    return Access(owner, [_Grant(*row) for row in connection.execute(_GRANTS, {"name": name})])


def give_access(connection: Connection, name: str, access: Access) -> None:
    """Give what was created again its owner and grants, and nobody else what default privileges gave."""
    run_verbatim(connection, f"ALTER TABLE {name} OWNER TO {access.owner}")
    for grant in access_to(connection, name).grants:
        run_verbatim(connection, f"REVOKE ALL ON {name} FROM {grant.role}")
    columns = [None, *connection.execute(_COLUMNS, {"name": name}).scalars()]
    for column, privilege, role, grantable in access.grants:
        if column in columns:  # a grant on a column that is no more has gone with it
            what = f'{privilege} ("{column}")' if column else privilege
            option = " WITH GRANT OPTION" if grantable else ""
            run_verbatim(connection, f"GRANT {what} ON {name} TO {role}{option}")
