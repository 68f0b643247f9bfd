"""A backup of an SQLite database that is in use, restored as docs/operations.md says, catches up with the school."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from school_site import serve


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "roster.db"


def test_an_old_backup_and_a_full_resync_are_the_school_of_today(tmp_path: Path, database: Path) -> None:
    with serve(tmp_path, f"sqlite:///{database}") as site:
        site.ok("sync")
        busy = sqlite3.connect(database)  # another session, so that the newest commits stay in the -wal beside it
        busy.execute("BEGIN")
        busy.execute("SELECT count(*) FROM student").fetchone()
        first, second, third, *_ = sorted(site.school.truth())
        site.school.update(first, last_name="Umbrella")
        site.ok("sync")
        backup = tmp_path / "backup.db"
        with sqlite3.connect(database) as session:
            session.execute("VACUUM INTO ?", (str(backup),))
        session.close()
        alone = sqlite3.connect(f"file:{database}?immutable=1", uri=True)  # what a copy of this file alone would hold
        whole = sqlite3.connect(backup)
        assert (_changed(alone, first), _changed(whole, first)) == (0, 1)
        for connection in (alone, whole, busy):
            connection.close()

        site.school.delete(second)
        site.school.purge(third)
        site.ok("resync")
        _restore(backup, database)
        assert site.run("verify").exit_code == 1
        site.ok("resync")
        site.ok("verify")
        assert {row.id for row in site.rows("SELECT id FROM current_student")} == set(site.school.truth())


def _changed(connection: sqlite3.Connection, key: int) -> int:
    query = "SELECT count(*) FROM current_student WHERE id = ? AND last_name = 'Umbrella'"
    return int(connection.execute(query, (key,)).fetchone()[0])


def _restore(backup: Path, database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    backup.rename(database)
    database.chmod(0o600)
