"""Create engines for SQLite and PostgreSQL, and translate their errors into rostersync's errors."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import NullPool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, NoSuchModuleError

from rostersync.errors import DatabaseUnreachable, LockTimedOut, NoDatabase, StoreError
from rostersync.store.database import tls
from rostersync.store.database.connecting import no_connection
from rostersync.store.database.files import database_exists
from rostersync.store.database.holders import naming_holders, sqlite_writer, this_process
from rostersync.store.database.own_schema import SCHEMA, SEARCH_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

_KEPT = {"pool_size": 4, "max_overflow": -1, "pool_pre_ping": True}
"""Keep up to four idle PostgreSQL sessions. Further sessions are opened if needed, so no thread waits for a session."""

BUSY_TIMEOUT_S = 30
"""The number of seconds that a session waits for another session's lock, on SQLite and on PostgreSQL."""

_CONNECTION_ERRORS = {"OperationalError", "InterfaceError", "ConnectionTimeout"}

# Register an adapter for None that returns None, for the whole process. Otherwise the driver would search for an
# adapter each time it binds a NULL, which would take nearly as long as binding all other values of a student's row. We
# use a method of `dict` as the adapter, because it is faster than a Python function.
_STAYS_NULL: dict[None, None] = {}
sqlite3.register_adapter(type(None), _STAYS_NULL.get)


def sqlite_path(url: str) -> Path | None:
    """Return the path of the file in a SQLite URL, or None if the URL is for PostgreSQL."""
    parsed = make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def open_engine(url: str, *, create: bool = False, read_only: bool = False, keep_sessions: bool = False) -> Engine:
    """Return an engine for `url`, which opens connections only when they are needed.

    If `keep_sessions` is True, the engine keeps idle PostgreSQL sessions and uses them again, because opening a session
    takes as long as a small run. The caller must then dispose of the engine. If `create` is True, a missing SQLite file
    is created so that only its owner can read it.

    Raises `NoDatabase` if the file is missing. Raises `DatabaseUnreachable` if the file or its folder cannot be used,
    or if the path leads to something other than a file. Raises `ConfigError` if the connection to a server would not be
    protected (see the module `tls`).
    """
    path = sqlite_path(url)
    if path is None:
        return _postgres_engine(url, keep_sessions=keep_sessions)
    if not database_exists(path):
        if not create:
            raise NoDatabase(f"there is no database at {path} yet", "the first `rostersync sync` creates it")
        _create_file(path)
    mode = "ro" if read_only else "rw"
    return _sqlite_engine(f"file:{quote(str(path))}?mode={mode}", path, read_only=read_only)


def open_memory() -> Engine:
    """Return an engine for SQLite databases in memory. Each connection creates its own empty database."""
    return _sqlite_engine("file::memory:", None, read_only=False)


def _postgres_engine(url: str, *, keep_sessions: bool) -> Engine:
    try:
        parsed = make_url(url)
        engine = create_engine(
            parsed,
            hide_parameters=True,
            **(_KEPT if keep_sessions else {"poolclass": NullPool}),
            connect_args={
                "connect_timeout": 10,
                "fallback_application_name": this_process("rostersync"),  # used unless the URL or PGAPPNAME sets a name
                **tls.parameters(tls.url_parameters(parsed)),
            },
        ).execution_options(schema_translate_map={None: SCHEMA, "stage": "pg_temp"})
    except (NoSuchModuleError, ImportError) as error:
        hint = "pip install --require-hashes -r requirements.txt"
        raise DatabaseUnreachable("the PostgreSQL driver is not installed", hint) from error
    _translate_errors(engine, _shown(parsed))
    event.listen(engine, "connect", _set_session)
    event.listen(engine, "begin", _begin_postgres)
    return engine


def _shown(url: URL) -> str:
    """Return a URL for messages, without its password and its query string, which may also contain a password."""
    return url.set(query={}).render_as_string(hide_password=True)


def _set_session(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Apply our settings to a new session. Our settings override the settings of the role, the database and the URL.

    - The search path says in which schemas PostgreSQL looks up names (see `own_schema`).
    - The time zone is UTC, because in another time zone Python could not represent times on the first or last day of
      its date range.
    - PostgreSQL plans a statement again each time it is executed. If PostgreSQL reused a plan that was made while the
      stage was empty, a statement on a full stage could take hours.
    - A lock timeout limits how long we wait for other sessions. If a client disappears and the server does not notice,
      its session can keep its locks for hours.
    """
    cursor = connection.cursor()
    cursor.execute(f"SET search_path = {SEARCH_PATH}")
    cursor.execute("SET TIME ZONE 'UTC'")
    cursor.execute("SET plan_cache_mode = force_custom_plan")
    cursor.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_S}s'")
    cursor.close()
    connection.commit()


def _create_file(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return  # another process has just created the file
    except OSError as error:
        hint = "create the folder, or set database.url to a folder that this user can write to"
        raise DatabaseUnreachable(f"cannot create the database {path}: {error.strerror}", hint) from error


def _sqlite_engine(location: str, path: Path | None, *, read_only: bool) -> Engine:
    place = str(path or "memory")

    def connect() -> sqlite3.Connection:
        if path is not None:
            database_exists(path)  # raises an error if the database or one of its journals is not a plain file
        return sqlite3.connect(
            location, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "begin", _begin_sqlite)
    # Register this listener before the next one, whose first pragma fails if the file is not a database.
    _translate_errors(engine, place)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            if not read_only:
                cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            connection.close()
            raise translate_error(error, place) from error
        cursor.close()

    return engine


@contextmanager
def writing(connection: Connection) -> Iterator[None]:
    """Open a transaction that can write to the database's tables.

    Writing only to the stage does not require this function.
    """
    before = connection.get_execution_options().get("begin", "read")
    connection.execution_options(begin="write")
    try:
        with naming_holders(connection, BUSY_TIMEOUT_S), connection.begin():
            yield
    finally:
        if not connection.closed:
            connection.execution_options(begin=before)


def attach_scratch_file(connection: Connection, folder: Path) -> None:
    """Attach a new file in `folder` as the schema `stage`. Only the owner of the file can read it.

    We create the file, SQLite opens it by its name, and then we delete the name. So the file disappears when the
    process ends. If another program replaces the file before SQLite opens it, this function raises
    `DatabaseUnreachable`.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".rostersync-stage-", dir=folder)  # mode 0600
    except OSError as error:
        hint = "give this user write access to the database's folder"
        raise DatabaseUnreachable(f"cannot stage rows in {folder}: {error.strerror}", hint) from error
    made = os.fstat(handle)
    os.close(handle)
    try:
        with past_sqlalchemy(connection, str(folder)) as driver, closing(driver.cursor()) as cursor:
            cursor.execute("ATTACH DATABASE ? AS stage", (f"file:{quote(name)}?mode=rw",))
            _require_same(made, Path(name))
            for pragma in ("page_size = 16384", "journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
                cursor.execute(f"PRAGMA stage.{pragma}")
            cursor.execute("CREATE TABLE stage.opened (id INTEGER)")  # makes SQLite open the file
    finally:
        with suppress(OSError):  # another program may have removed or replaced the file
            Path(name).unlink()


def _require_same(made: os.stat_result, path: Path) -> None:
    try:
        same = os.path.samestat(made, os.lstat(path))
    except FileNotFoundError:
        same = False
    if not same:
        hint = "find out which other program writes to this folder, and let only rostersync's user write to it"
        raise DatabaseUnreachable(f"the stage file {path} was replaced while it was opened", hint)


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction. If the transaction will write, wait for SQLite's write lock at the beginning."""
    if connection.get_execution_options().get("begin") == "write":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")  # bypass SQLAlchemy for speed; BEGIN takes no lock, so it cannot fail


def _begin_postgres(connection: Connection) -> None:
    """If the caller will write, turn autocommit off, so that the first statement begins a transaction.

    Otherwise turn autocommit on.

    With autocommit, each statement sees everything that was committed before it. In a transaction at the level READ
    COMMITTED, each statement would see the same rows, but would need three messages to the server instead of one.
    """
    driver: Any = connection.connection.driver_connection
    alone = connection.get_execution_options().get("begin") != "write"
    if driver.autocommit != alone:
        driver.autocommit = alone


def _translate_errors(engine: Engine, place: str) -> None:
    @event.listens_for(engine, "handle_error")
    def _handle(context: ExceptionContext) -> BaseException | None:
        if isinstance(context.sqlalchemy_exception, DBAPIError):
            return translate_error(context.sqlalchemy_exception, place)
        return None


@contextmanager
def past_sqlalchemy(connection: Connection, place: str = "") -> Iterator[Any]:
    """Yield the driver's connection, and translate the driver's errors, which SQLAlchemy does not see.

    Error messages refer to the database as `place`. Default: the URL of the database.
    """
    try:
        yield connection.connection.driver_connection
    except connection.dialect.loaded_dbapi.Error as error:
        raise translate_error(error, place or _shown(connection.engine.url)) from error


def translate_error(error: BaseException, place: str) -> StoreError:
    """Convert a driver error into a rostersync error.

    The message of the rostersync error never contains data from a row.
    """
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        return _translate_sqlite(cause, place)
    if (state := getattr(cause, "sqlstate", None)) is not None:
        return _translate_postgres(cause, str(state), place)
    if type(cause).__name__ not in _CONNECTION_ERRORS:
        return StoreError(f"{place}: the driver cannot handle a value ({type(cause).__name__})")
    return no_connection(str(cause), place, make_url(place).username)  # the connection failed or broke


def _translate_postgres(cause: Any, state: str, place: str) -> StoreError:
    if state.startswith(("08", "57P", "28", "3D")):
        return DatabaseUnreachable(f"cannot use {place}: {_primary(cause)}", "check database.url and the server's log")
    if state == "55P03":
        hint = "look for a hung session in pg_stat_activity, and end it"
        return LockTimedOut(f"{place}: another session has kept a lock for {BUSY_TIMEOUT_S} s", hint)
    if state == "25006":
        hint = "the server may be a standby, or default_transaction_read_only is set; use a server that accepts writes"
        return StoreError(f"{place} refused: {_primary(cause)}", hint)
    if state.startswith("53"):
        return StoreError(f"{place} refused: {_primary(cause)}", "check the server's disk, memory and log")
    if state == "42501":
        return StoreError(
            f"{place} refused: {_primary(cause)}", "grant the role the privileges it needs on this schema"
        )
    return StoreError(f"{place} refused a statement ({type(cause).__name__}, SQLSTATE {state})", "see the server's log")


def _primary(cause: Any) -> str:
    """Return the server's own message.

    If a function inside the server raised the error, return only the error's name. The error message of a function may
    quote a row.
    """
    return str((not cause.diag.context and cause.diag.message_primary) or type(cause).__name__)


def _translate_sqlite(cause: sqlite3.Error, place: str) -> StoreError:
    # An error with a code comes from SQLite itself. Other errors come from Python's `sqlite3` module, and their
    # messages may quote a value that the module cannot decode.
    own = hasattr(cause, "sqlite_errorcode") and not isinstance(cause, sqlite3.IntegrityError)
    said = str(cause) if own else type(cause).__name__
    if getattr(cause, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":
        said = "database or disk is full"  # there is no space for the shared-memory file
    hints = {
        "database is locked": "another program holds a write lock on the file; close it and try again",
        "database or disk is full": "free some space and run it again: nothing was lost",
        "disk I/O error": "check the disk, its free space and the system log; this run was not applied",
        "attempt to write a readonly database": "make the file and its folder writable for this user",
        "unable to open database file": "make the file and its folder readable and writable for this user",
        "file is not a database": "not a SQLite database, or damaged: check database.url, or restore a backup",
        "Could not decode": "a value in it is damaged; restore a backup, or move the file away and sync again",
    }
    hint = next((hint for text, hint in hints.items() if text in said or text in str(cause)), "")
    if "is locked" in said:
        by = sqlite_writer(Path(place))
        return LockTimedOut(f"cannot use the database {place}: {said}" + (f" by {by}" if by else ""), hint)
    return DatabaseUnreachable(f"cannot use the database {place}: {said}", hint)


def run_verbatim(connection: Connection, statement: str) -> None:
    """Execute a statement without parameters, and without looking for placeholders in it.

    A name in the statement may contain characters that look like a placeholder.
    """
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
