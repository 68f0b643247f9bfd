"""Backups of an SQLite database: its online backup API, out of the database and back into it.

On the way back one transaction replaces all pages. So readers see the old content or the new one, never a mixture, and
no journal of the old content is left to be played into the new one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from sqlalchemy import URL, inspect

from rostersync.errors import DatabaseUnreachable, StoreError
from rostersync.store import continuity, own_schema, schema
from rostersync.store.continuity import NOTHING_USED
from rostersync.store.engine import open_engine, past_sqlalchemy, sqlite_path, writing
from rostersync.store.files import JOURNALS, database_exists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Engine

    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback

_HEADER = b"SQLite format 3\0"
_STEP = 1000
"""Pages that are copied between two looks at whether the process was asked to end."""

_CHUNK = 2**22
_SCRATCH = ".rostersync-restore-"


def write(url: str, file: BinaryIO, progress: ProgressCallback) -> None:
    """Write the content of the database as it is now into `file`; others go on reading and writing meanwhile.

    The copy is made beside the database, because SQLite opens files by their path and `file` may be in a folder that
    this user cannot enter. It loses its name before it is filled, so it goes with the process.
    """
    path = _path(url)
    with open_engine(url, read_only=True).connect() as connection, connection.begin():  # one snapshot
        schema.require_filled(connection, f"the database {path}")
        handle, name = _made(tempfile.mkstemp, ".rostersync-backup-", path.parent)
        with (
            past_sqlalchemy(connection, str(path)) as live,
            os.fdopen(handle, "rb", buffering=0) as copy,
            closing(_connect(name, "mode=rw")) as target,
            closing(_connect(name, "immutable=1")) as written,  # SQLite makes no journal beside it
        ):
            Path(name).unlink()
            target.execute("PRAGMA journal_mode = OFF")
            live.backup(target, pages=_STEP, progress=_pages("copying", progress))
            if problem := _damage(written):
                raise StoreError(f"the database {path} is damaged: {problem}", "restore an earlier backup")
            _copy(copy, file, "writing", progress)


@contextmanager
def opened(url: str, file: BinaryIO, clock: Clock, progress: ProgressCallback) -> Iterator[SqliteBackup]:
    """Lend the backup in `file`; see `backup.opened`. It is copied beside the database, and upgraded there."""
    path = _path(url)
    if file.read(len(_HEADER)) != _HEADER:
        raise StoreError(f"{file.name} is not a backup of an SQLite database", "nothing was changed")
    file.seek(0)
    folder = Path(_made(tempfile.mkdtemp, _SCRATCH, path.parent))
    try:
        with open(folder / path.name, "xb", opener=_private) as copy:
            _copy(file, copy, "reading", progress)
        yield SqliteBackup(path, folder / path.name, file.name, clock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class SqliteBackup:
    """A backup that lies as `copy` beside the database at `path`."""

    def __init__(self, path: Path, copy: Path, name: str, clock: Clock) -> None:
        """Check the copy of the backup called `name`. Raises as `backup.opened`."""
        self._path, self._copy, self._clock = path, copy, clock
        with closing(_connect(copy, "mode=rw")) as connection:
            if problem := _damage(connection):
                raise StoreError(f"{name} is damaged: {problem}", "nothing was changed; use another backup")
        with _engine(copy).connect() as opened_copy, opened_copy.begin():
            ours = own_schema.are_ours(inspect(opened_copy).get_table_names())
            revision = schema.require_known(schema.revision(opened_copy) if ours else None, name)
            self.description = f"schema {revision}, {continuity.described(opened_copy)}"

    def restore(self, sources: Iterable[str], progress: ProgressCallback) -> list[str]:
        """Put the backup in the database's place; see `Backup.restore`."""
        schema.upgrade(_engine(self._copy))
        if not database_exists(self._path) or _is_damaged(self._path):
            return self._replace(sources)
        with _engine(self._path).connect() as live:
            with live.begin():
                schema.level(live)  # raises if the tables are another program's
            with continuity.undisturbed(live, self._path, sources, self._clock.now()):
                self._prepare(live)
                with past_sqlalchemy(live, str(self._path)) as target, closing(_connect(self._copy, "mode=rw")) as copy:
                    _fit_pages(copy, target)
                    copy.backup(target, pages=_STEP, progress=_pages("restoring", progress))
        return []

    def _replace(self, sources: Iterable[str]) -> list[str]:
        """Put the copy where there is no database, or a damaged one, whose files are moved aside.

        The journals go first: a database without them can be lost, but journals without theirs would be played into
        the next one.
        """
        with continuity.undisturbed(None, self._path, sources, self._clock.now()):
            self._prepare(None)
            suffix = f".damaged-{self._clock.now():%Y%m%dT%H%M%SZ}"
            kept = []
            for journal in (*JOURNALS, ""):
                path = self._path.with_name(self._path.name + journal)
                with suppress(FileNotFoundError):
                    kept.append(path.rename(self._path.with_name(f"{self._path.name}{suffix}{journal}")))
            self._copy.rename(self._path)
        if not kept:
            return []
        return [f"the damaged database is kept: {', '.join(map(str, kept))}"]

    def _prepare(self, live: Connection | None) -> None:
        """Have the copy go on from what the live database used; None: it cannot be read."""
        for left in self._path.parent.glob(f"{_SCRATCH}*"):  # of a restore that was killed
            if left != self._copy.parent:
                shutil.rmtree(left, ignore_errors=True)
        used = NOTHING_USED
        if live is not None:
            with live.begin():
                used = continuity.used(live)
        with _engine(self._copy).connect() as connection, writing(connection):
            continuity.go_on(connection, used)


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


def _made(make: Callable[..., Any], prefix: str, folder: Path) -> Any:
    """Return what `make` of `tempfile` makes in the folder of the database, for its owner only."""
    try:
        return make(prefix=prefix, dir=folder)
    except OSError as error:
        hint = "let this user write the database's folder"
        raise DatabaseUnreachable(f"cannot make a copy in {folder}: {error.strerror}", hint) from error


def _copy(source: BinaryIO, target: BinaryIO, what: str, progress: ProgressCallback) -> None:
    """Copy a file to the disk of another, in megabytes for a person who waits."""
    total, done = os.fstat(source.fileno()).st_size, 0
    try:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            done += len(chunk)
            progress(f"{what} MB", done >> 20, total >> 20)
        target.flush()
        os.fsync(target.fileno())
    except OSError as error:
        message = f"cannot copy {source.name} to {target.name}: {error.strerror}"
        raise StoreError(message, "nothing was changed; free some space, and run it again") from error


def _pages(what: str, progress: ProgressCallback) -> Callable[[int, int, int], None]:
    return lambda _status, remaining, total: progress(f"{what} pages", total - remaining, total)


def _damage(connection: sqlite3.Connection) -> str:
    """Return what SQLite finds wrong in the pages of a database, nothing for a whole one."""
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[-1]


def _is_damaged(path: Path) -> bool:
    with closing(_connect(path, "mode=rw")) as connection:
        return bool(_damage(connection))


def _fit_pages(copy: sqlite3.Connection, target: Any) -> None:
    """Give the copy the page size of the database that it replaces, which SQLite cannot change."""
    [size] = target.execute("PRAGMA page_size").fetchone()
    if copy.execute("PRAGMA page_size").fetchone() != (size,):
        for statement in ("PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {size}", "VACUUM"):
            copy.execute(statement)
