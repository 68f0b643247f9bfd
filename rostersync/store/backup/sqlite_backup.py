"""Write and restore backups of a SQLite database with SQLite's online backup API.

A restore replaces all pages of the database in one transaction. So a reader sees either the old content or the new
content, never a mixture. An old journal cannot remain, so SQLite cannot apply it to the new content.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import struct
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from sqlalchemy import URL, inspect

from rostersync.errors import DatabaseUnreachable, StoreError
from rostersync.store.backup import continuity
from rostersync.store.backup.continuity import NOTHING_USED
from rostersync.store.database import own_schema
from rostersync.store.database.engine import (
    open_engine,
    past_sqlalchemy,
    run_verbatim,
    sqlite_path,
    translate_error,
    writing,
)
from rostersync.store.database.files import JOURNALS, copy, database_exists
from rostersync.store.schema import revisions
from rostersync.store.schema.revisions import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Engine

    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback

_HEADER = struct.Struct(">16xH10xI")
"""The two header fields of a database file that we need: the page size (1 means 65,536) and the number of pages."""

_STEP = 1000
"""The number of pages after which we check whether the process was asked to stop."""

_SCRATCH = ".rostersync-copy-"


def write(url: str, file: BinaryIO, progress: ProgressCallback) -> None:
    """Write the current content of the database into `file`.

    Meanwhile, other processes can read and write the database.

    The content is first copied to a file beside the database. SQLite cannot write to `file` directly, because SQLite
    opens files by path, and `file` may be in a folder that this user cannot enter.
    """
    path = _path(url)
    with (
        open_engine(url, read_only=True).connect() as connection,
        connection.begin(),  # so that the copy is a consistent snapshot
        past_sqlalchemy(connection, str(path)) as live,
        _scratch(path.parent) as folder,
    ):
        revisions.require_filled(connection, f"the database {path}")
        with closing(_connect(folder / path.name, "mode=rwc")) as target:
            live.backup(target, pages=_STEP, progress=_pages("copying", progress))
        if problem := _damage(folder / path.name):
            raise StoreError(f"the database {path} is damaged: {problem}", "restore an earlier backup")
        with (folder / path.name).open("rb") as whole:
            _copy(whole, file, "writing", progress)


@contextmanager
def opened(url: str, file: BinaryIO, clock: Clock, progress: ProgressCallback) -> Iterator[SqliteBackup]:
    """Copy the backup in `file` to a file beside the database, and yield the backup, as `backup.opened` does."""
    path = _path(url)
    _require_whole(file)
    with _scratch(path.parent) as folder:
        with open(folder / path.name, "xb", buffering=0, opener=_private) as beside:
            _copy(file, beside, "reading", progress)
        yield SqliteBackup(path, folder / path.name, file.name, clock)


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """Yield a new private folder inside the folder `beside`.

    Also delete the private folders that killed processes have left behind.
    """
    for left in beside.glob(f"{_SCRATCH}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=beside))  # mode 0700
    except OSError as error:
        hint = "give this user write access to the database's folder"
        raise DatabaseUnreachable(f"cannot make a copy in {beside}: {error.strerror}", hint) from error
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, to mark the folder as being in use. Raises `OSError` if another process has the lock."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


class SqliteBackup:
    """A backup that was copied to a file beside a SQLite database, and can be restored into the database."""

    def __init__(self, path: Path, beside: Path, name: str, clock: Clock) -> None:
        """Check the copy at `beside`.

        Error messages refer to the backup as `name`. Raises the errors of `backup.opened`.
        """
        self._path, self._copy, self._clock = path, beside, clock
        if problem := _damage(beside):
            raise StoreError(f"{name} is damaged: {problem}", "nothing was changed; use another backup")
        with _engine(beside).connect() as connection, connection.begin():
            ours = own_schema.are_ours(inspect(connection).get_table_names())
            revision = revisions.require_known(revisions.revision(connection) if ours else None, name)
            self.description = f"schema {revision}, {continuity.described(connection)}"

    def restore(self, sources: Iterable[str], progress: ProgressCallback) -> list[str]:
        """Replace the content of the database with this backup, as described in `Backup.restore`."""
        revisions.upgrade(_engine(self._copy))
        if not database_exists(self._path) or _damage(self._path):
            return self._replace(sources)
        with _engine(self._path).connect() as live:
            with live.begin():
                revisions.level(live)  # raises an error if the tables belong to another program
            with continuity.undisturbed(live, self._path, sources, self._clock.now()):
                self._prepare(live)
                with past_sqlalchemy(live, str(self._path)) as target, closing(_connect(self._copy, "mode=rw")) as new:
                    _fit_pages(new, target)
                    new.backup(target, pages=_STEP, progress=_pages("restoring", progress))
        return []

    def _replace(self, sources: Iterable[str]) -> list[str]:
        """Move the copy to the path of a missing or damaged database. Keep the damaged files under other names.

        The journals are renamed before the database. If the database were renamed first and the process were killed
        then, SQLite would apply the old journals to the next database at this path.
        """
        with continuity.undisturbed(None, self._path, sources, self._clock.now()):
            self._prepare(None)
            suffix = f".damaged-{self._clock.now():%Y%m%dT%H%M%SZ}"
            kept = []
            for part in (*JOURNALS, ""):
                path = self._path.with_name(f"{self._path.name}{part}")
                if not path.exists():
                    continue
                if part == "-shm" or not path.stat().st_size:  # this file has no data
                    path.unlink()
                    continue
                kept.append(path.rename(self._path.with_name(f"{self._path.name}{suffix}{part}")))
            self._copy.rename(self._path)
        return [f"the damaged database is kept: {', '.join(map(str, kept))}"] if kept else []

    def _prepare(self, live: Connection | None) -> None:
        """Continue the ids of the live database in the copy, and copy the views that other users have created.

        `live` is None if the live database cannot be read. Raises `StoreError` if the live database has tables or
        triggers of other users.
        """
        used, others = NOTHING_USED, {}
        if live is not None:
            with live.begin():
                used = continuity.used(live)
                if revisions.level(live) is not Level.NEWER:  # in a newer schema, an unknown object may be ours
                    others = _objects(live)
        with _engine(self._copy).connect() as connection, writing(connection):
            continuity.go_on(connection, used)
            _keep(connection, {key: sql for key, sql in others.items() if key not in _objects(connection)})


def _objects(connection: Connection) -> dict[tuple[str, str], str]:
    """Return the SQL definition of each table, view and trigger of a database, by kind and name."""
    query = "SELECT type, name, sql FROM sqlite_master WHERE type <> 'index' AND name NOT LIKE 'sqlite%'"
    return {(kind, name): sql for kind, name, sql in connection.exec_driver_sql(query)}


def _keep(connection: Connection, others: dict[tuple[str, str], str]) -> None:
    """Recreate the views of other users. Raise `StoreError` if `others` contains a table or a trigger."""
    if lost := [f"{kind} {name}" for kind, name in others if kind != "view"]:
        message = f"the restore would delete objects of other programs from the database: {', '.join(sorted(lost))}"
        raise StoreError(message, "nothing was changed; copy them elsewhere, drop them, and restore again")
    for sql in others.values():
        run_verbatim(connection, sql)


def _path(url: str) -> Path:
    path = sqlite_path(url)
    assert path is not None
    return path


def _engine(path: Path) -> Engine:
    return open_engine(URL.create("sqlite", database=str(path)).render_as_string())


def _connect(path: Path | str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, isolation_level=None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _copy(source: BinaryIO, target: BinaryIO, what: str, progress: ProgressCallback) -> None:
    total = os.fstat(source.fileno()).st_size
    copy(source, target, lambda done: progress(f"{what} MB", done >> 20, total >> 20))


def _pages(what: str, progress: ProgressCallback) -> Callable[[int, int, int], None]:
    return lambda _status, remaining, total: progress(f"{what} pages", total - remaining, total)


def _require_whole(file: BinaryIO) -> None:
    """Raise `StoreError` if a file is not a SQLite database, or is shorter than its header says.

    SQLite itself would not notice that the file is truncated, and would read the missing part as zeros.
    """
    header = file.read(_HEADER.size)
    file.seek(0)
    if not header.startswith(b"SQLite format 3\0") or len(header) < _HEADER.size:
        raise StoreError(f"{file.name} is not a backup of a SQLite database", "nothing was changed")
    page, pages = _HEADER.unpack(header)
    wanted, found = pages * (65536 if page == 1 else page), os.fstat(file.fileno()).st_size
    if found < wanted:
        message = f"{file.name} is truncated: it has {found:,} of {wanted:,} bytes"
        raise StoreError(message, "nothing was changed; use another backup")


def _damage(path: Path) -> str:
    """Return a description of the first damage that SQLite finds in a database, or "" if SQLite finds no damage.

    The files of the database do not change. Raises `StoreError` if the files cannot be read.
    """
    try:
        with closing(_connect(path, "mode=ro")) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise translate_error(error, str(path)) from error
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[-1]


def _fit_pages(copy: sqlite3.Connection, target: Any) -> None:
    """Give the copy the page size of the target, because SQLite's backup cannot change the page size of the target."""
    [size] = target.execute("PRAGMA page_size").fetchone()
    if copy.execute("PRAGMA page_size").fetchone() != (size,):
        for statement in ("PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {size}", "VACUUM"):
            copy.execute(statement)
