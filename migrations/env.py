"""Run the migrations for Alembic.

The program `rostersync` passes a connection to this module. The command `alembic` passes no connection. If there is no
connection, this module opens the configured database, and upgrades the tables and views like `rostersync db upgrade`.
"""

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from rostersync.config import find_config, load
from rostersync.errors import ConfigError, RostersyncError
from rostersync.store.database.engine import open_engine
from rostersync.store.schema import revisions
from rostersync.store.schema.tables import metadata

FORWARD_ONLY = (
    "migrations can only upgrade to the newest schema: run `alembic upgrade head`. To go back to an earlier version,"
    " install it and restore the backup that was made before the upgrade: see docs/operations.md"
)


def run(connection: Connection) -> None:
    options = revisions.comparison_options(connection)
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, **options)
    with context.begin_transaction():
        context.run_migrations()


def run_on_configured_database() -> None:
    if context.is_offline_mode():
        raise CommandError("--sql cannot be used, because the migrations read the database")
    wanted = destination()
    if wanted not in {None, revisions.HEAD}:
        raise CommandError(FORWARD_ONLY)
    url = load(find_config()).database.url
    if wanted:
        with revisions.upgrading(open_engine(url, create=True)) as (connection, _):
            run(connection)
    else:
        with open_engine(url, read_only=True).connect() as connection, connection.begin():
            run(connection)


def destination() -> str | tuple[str, ...] | None:
    """Return the revision that the command must reach, or None if the command only reads the database."""
    try:
        return context.get_revision_argument() or "base"
    except KeyError:
        return None


def in_one_line(error: RostersyncError) -> str:
    mistakes = error.mistakes if isinstance(error, ConfigError) else (error.message,)
    return "; ".join(filter(None, (*mistakes, error.hint)))


if (handed_over := context.config.attributes.get("connection")) is not None:
    run(handed_over)
else:
    try:
        run_on_configured_database()
    except RostersyncError as error:
        raise CommandError(in_one_line(error)) from error
