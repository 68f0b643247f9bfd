"""Read the revision of the database's schema, and upgrade the schema to the newest revision."""

from __future__ import annotations

import enum
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import inspect, text

from rostersync.errors import NoDatabase, SchemaOutdated, SchemaTooNew, StoreError
from rostersync.store.database import own_schema
from rostersync.store.database.engine import writing
from rostersync.store.schema import column_statistics
from rostersync.store.schema.tables import metadata
from rostersync.store.schema.view_upgrade import upgraded_views

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy import Connection, Engine

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
"""Every revision that this version knows, oldest first.

The revisions are listed here because importing Alembic is slow.
"""

HEAD = REVISIONS[-1]

_LOCK = 0x726F7374_0000  # key of the lock that lets one process at a time set up a PostgreSQL database


class Level(enum.Enum):
    """Whether the database is empty, or has an older schema, this version's schema, or a newer schema."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


def revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, or None if the database has no rostersync tables."""
    query = "SELECT version_num FROM alembic_version"
    if not inspect(connection).has_table("alembic_version"):
        if connection.dialect.name == "sqlite" or not own_schema.earlier_tables(connection):
            return None
        query = "SELECT version_num FROM public.alembic_version"
    return connection.execute(text(query)).scalar_one_or_none()


def level(connection: Connection) -> Level:
    """Return whether the database is empty, or has an older schema, this version's schema, or a newer schema.

    Raises `StoreError` if the database contains another program's tables, or on PostgreSQL if another role owns the
    schema of our tables or may create objects in it.
    """
    if connection.dialect.name == "postgresql":
        own_schema.check(connection)
    found = revision(connection)
    if found is None:
        if inspect(connection).has_table("source") or inspect(connection).has_table("student"):
            raise StoreError(
                "the database contains tables of another program", "use a separate database for rostersync"
            )
        return Level.EMPTY
    if found not in REVISIONS:
        return Level.NEWER
    return Level.CURRENT if found == HEAD else Level.OLDER


def require_current(connection: Connection) -> None:
    """Raise `SchemaTooNew` or `SchemaOutdated` unless the database has the schema of this version."""
    found = level(connection)
    if found is Level.NEWER:
        message = f"the database has schema {revision(connection)}, from a later version of rostersync"
        raise SchemaTooNew(message, "install that version or a later one")
    if found is not Level.CURRENT:
        has = f"has schema {revision(connection)}" if found is Level.OLDER else "is empty"
        raise SchemaOutdated(f"the database {has}; this version needs schema {HEAD}", "run: rostersync db upgrade")


def require_filled(connection: Connection, what: str) -> None:
    """Raise `NoDatabase` if the database is empty, and `SchemaTooNew` if a later version wrote the schema.

    Error messages refer to the database as `what`.
    """
    if level(connection) is Level.EMPTY:
        raise NoDatabase(f"{what} is empty", "there is nothing to back up")
    require_known(revision(connection), what)


def require_known(found: str | None, what: str) -> str:
    """Check and return `found`, the revision of a backup or of a database.

    Raises `StoreError` if `found` is None, which means that rostersync did not write the backup or database. Raises
    `SchemaTooNew` if a later version wrote the backup or database. Error messages refer to the backup or database as
    `what`.
    """
    if found is None:
        raise StoreError(f"{what} is not a rostersync backup", "nothing was changed")
    if found not in REVISIONS:
        raise SchemaTooNew(f"{what} has schema {found}, from a later version", "install that version or a later one")
    return found


class Step(msgspec.Struct, frozen=True):
    """A migration. If `locks_readers` is True, readers of the PostgreSQL views must wait until the upgrade ends."""

    revision: str
    description: str
    locks_readers: bool


def steps_after(connection: Connection, found: str) -> list[Step]:
    """Return the migrations that an upgrade from the revision `found` runs, oldest first."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - slow to import, and rarely needed

    scripts = ScriptDirectory.from_config(alembic_config(connection)).walk_revisions()
    later = [script for script in scripts if script.revision > found]
    return [Step(script.revision, script.doc, script.module.locks_readers) for script in reversed(later)]


def upgrade(engine: Engine) -> str | None:
    """Upgrade the schema to this version's schema in one transaction, and replace views that were changed by hand.

    In an empty database, the tables of `tables.py` are created directly. Running all migrations would create the same
    tables. Returns the earlier revision, or None if the database was empty. Raises the same errors as `upgrading`.
    """
    with upgrading(engine) as (connection, found):
        before = revision(connection)
        if found is Level.EMPTY:
            _create(connection)
        elif found is Level.OLDER:
            migrate(connection)
    return before


@contextmanager
def upgrading(engine: Engine) -> Iterator[tuple[Connection, Level]]:
    """Yield a connection on which the caller must upgrade the tables, and the level of the tables before the upgrade.

    The context is one transaction. At the end of the transaction, the views are upgraded to this version's definitions.

    Raises `SchemaTooNew` if a later version wrote the schema. Raises `StoreError` if another object depends on a view
    that must be dropped, or if our PostgreSQL role lacks a privilege.
    """
    with engine.connect() as connection, writing(connection):
        postgresql = connection.dialect.name == "postgresql"
        if postgresql:
            wait_for_others(connection)
        found = level(connection)
        if found is Level.NEWER:
            require_current(connection)
        if postgresql:
            own_schema.prepare(connection)
        with upgraded_views(connection):
            if postgresql and found is not Level.CURRENT:
                own_schema.move_tables(connection)
            yield connection, found
            if postgresql:
                column_statistics.withhold(connection)


def wait_for_others(connection: Connection) -> None:
    """Keep other processes from setting up this PostgreSQL database until the transaction ends.

    If another process is setting up the database now, this function first waits for the other process.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _create(connection: Connection) -> None:
    metadata.create_all(connection, checkfirst=False)
    version = "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    connection.exec_driver_sql(f"CREATE TABLE alembic_version ({version})")  # the same statement as in Alembic
    connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": HEAD})


def migrate(connection: Connection) -> None:
    """Run the migrations that upgrade the tables to this version, in the transaction of `connection`."""
    from alembic import command  # noqa: PLC0415 - slow to import, and rarely needed

    command.upgrade(alembic_config(connection), "head")


def comparison_options(connection: Connection) -> dict[str, Any]:
    """Return the options for Alembic's comparison of the tables.

    The options exclude items that exist only in another dialect.
    """
    dialect = connection.dialect.name
    return {"include_object": lambda item, *_: item.info.get("only", dialect) == dialect}


def alembic_config(connection: Connection) -> Config:
    """Return an Alembic configuration that runs the migrations of this installation on `connection`."""
    from alembic.config import Config  # noqa: PLC0415 - slow to import, and rarely needed

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrations_folder() -> Path:
    """Return the folder of the migrations.

    An installed package contains the folder. In a source checkout, the folder is at the top level of the repository.
    """
    package = Path(__file__).resolve().parents[2]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
