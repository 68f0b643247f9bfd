"""Write a backup while other processes use the database, and replace the content of a database with a backup.

A restore is atomic. If the restore fails or the process is killed at any point, the database is the same as before.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol

from sqlalchemy import make_url

from rostersync.errors import NoDatabase, StoreError
from rostersync.store.backup import continuity, postgresql_backup, sqlite_backup
from rostersync.store.database.engine import open_engine, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rostersync.cancel import CancelScope
    from rostersync.report import ProgressCallback


class Backup(Protocol):
    """A backup or dump that contains rostersync's tables, with a schema revision that this version knows."""

    @property
    def description(self) -> str:
        """A short description of the backup's content for the user."""
        ...

    def restore(self, sources: Iterable[str], progress: ProgressCallback) -> list[str]:
        """Replace the content of the database with this backup, and return notes for the user, one per line.

        `sources` are the names of the configured sources, which are locked during the restore. Raises `StoreError` and
        changes nothing if another process uses the database, if objects of other programs would be lost, or if the
        backup is damaged.
        """
        ...


def write(url: str, file: BinaryIO, scope: CancelScope, progress: ProgressCallback) -> None:
    """Write a backup of the database at `url` into an empty file. Raises `StoreError` if writing the backup fails."""
    module = sqlite_backup if sqlite_path(url) else postgresql_backup
    module.write(url, file, _stoppable(scope, progress))


@contextmanager
def opened(url: str, file: BinaryIO, scope: CancelScope, progress: ProgressCallback) -> Iterator[Backup]:
    """Open and check the backup in `file`, and yield an object that can restore it into the database at `url`.

    Raises `StoreError` if the file is damaged or is not a rostersync backup, and `SchemaTooNew` if a later version
    wrote the backup.
    """
    module = sqlite_backup if sqlite_path(url) else postgresql_backup
    with module.opened(url, file, scope.clock, _stoppable(scope, progress)) as found:
        yield found


def described(url: str) -> str:
    """Return a short description of the database at `url` for the user, with its name and the number of students."""
    path = sqlite_path(url)
    place = path or make_url(url).database
    try:
        with open_engine(url, read_only=True).connect() as connection, connection.begin():
            return f"the database {place} ({continuity.described(connection)})"
    except StoreError as error:
        if path is None:
            raise
        return f"the database {place} ({'missing' if isinstance(error, NoDatabase) else 'cannot be read'})"


def _stoppable(scope: CancelScope, progress: ProgressCallback) -> ProgressCallback:
    """Return a callback that reports the progress, but raises `Stopped` if the scope was cancelled."""

    def report(what: str, done: int, total: int) -> None:
        scope.check()
        progress(what, done, total)

    return report
