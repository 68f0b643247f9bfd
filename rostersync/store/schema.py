"""The schema's level: reading it, and bringing it to this version's by Alembic."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from rostersync.errors import SchemaOutdated, SchemaTooNew, StoreError
from rostersync.store.view_upgrade import upgraded_views

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

REVISIONS = ("0001", "0002", "0003")
"""Every revision this version knows, oldest first (a list of its own: importing Alembic takes longer than `status`)."""

HEAD = REVISIONS[-1]

_LOCK = 0x726F7374_0000  # two processes that set up one PostgreSQL database wait for each other


class Level(enum.Enum):
    """How the database's schema compares with this version's."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


def revision(connection: Connection) -> str | None:
    """Return the database's revision, None for a database without one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def level(connection: Connection) -> Level:
    """Compare the database's revision with this version's.

    Raises `StoreError` when the database holds tables of something else.
    """
    found = revision(connection)
    if found is None:
        if inspect(connection).has_table("source") or inspect(connection).has_table("student"):
            raise StoreError("the database holds tables that are not rostersync's", "use a database of its own")
        return Level.EMPTY
    if found not in REVISIONS:
        return Level.NEWER
    return Level.CURRENT if found == HEAD else Level.OLDER


def require_current(connection: Connection) -> None:
    """Raise `SchemaTooNew` or `SchemaOutdated` unless the schema is this version's."""
    found = level(connection)
    if found is Level.NEWER:
        message = f"the database has schema {revision(connection)}, which a later version of rostersync wrote"
        raise SchemaTooNew(message, "install that version here too")
    if found is not Level.CURRENT:
        message = f"the database has schema {revision(connection) or 'none'}, and this version needs {HEAD}"
        raise SchemaOutdated(message, "run `rostersync db upgrade`")


def upgrade(engine: Engine) -> None:
    """Bring the schema to this version's in one transaction; does nothing when it is there.

    Raises `SchemaTooNew` when a later version wrote it, `StoreError` when something depends on a view that must go.
    """
    from alembic import command  # noqa: PLC0415 - slow to import, and rarely needed

    with engine.connect().execution_options(begin="write") as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = level(connection)
        if found is Level.NEWER:
            require_current(connection)
        if found is Level.CURRENT:
            return
        with upgraded_views(connection):
            command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for the migrations of this installation, to run on `connection`."""
    from alembic.config import Config  # noqa: PLC0415 - slow to import, and rarely needed

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrations_folder() -> Path:
    """Return where the migrations lie: inside an installed package, at the top level of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
