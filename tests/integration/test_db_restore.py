"""`db restore`: the database is what the backup was, or as it was before; nothing that others made of it is lost."""

from __future__ import annotations

import os
import pty
import sqlite3
import stat
import subprocess
import sys
import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from backups import content, damaged, dumped_by_hand, libpq
from daemons import end, started, wait_until
from earlier import back_to, earlier_schema
from school_site import ROOT, Site, serve
from sqlalchemy import URL, make_url, text

from rostersync.clock import SystemClock
from rostersync.store import probe
from rostersync.store.database import engine
from rostersync.store.database.engine import open_engine
from rostersync.store.schema import revisions
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock, PostgresServer


@pytest.fixture
def site(tmp_path: Path, database_url: str, client_programs: Path) -> Iterator[Site]:
    """A school with some history."""
    yield from _site(tmp_path, database_url)


@pytest.fixture
def on_postgresql(tmp_path: Path, postgres_url: str, client_programs: Path) -> Iterator[Site]:
    yield from _site(tmp_path, postgres_url)


@pytest.fixture
def on_sqlite(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    yield from _site(tmp_path, sqlite_url)


def _site(folder: Path, url: str) -> Iterator[Site]:
    with serve(folder, url, 8) as site:
        site.ok("sync")
        change(site, "Umbrella")
        yield site


def change(site: Site, name: str) -> None:
    """Have two runs, and somebody called `name`."""
    first, *_, last = sorted(site.school.truth())
    site.school.update(first, last_name=name)
    site.ok("sync")
    site.school.delete(last)
    site.ok("sync", "--full")


def backed_up(site: Site) -> Path:
    file = site.folder / f"{uuid.uuid4().hex}.backup"
    site.ok("db", "backup", str(file))
    return file


def restore(site: Site, file: Path) -> str:
    return site.ok("db", "restore", "--yes", str(file))


def refused(site: Site, file: Path) -> str:
    """Return why a restore is refused, in one line and a hint, without a change."""
    before = content(site.database_url)
    result = site.run("db", "restore", "--yes", str(file))
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 2
    assert content(site.database_url) == before
    assert probe.differences(site.database_url) == []
    return result.stderr


def path_of(site: Site) -> Path:
    return Path(make_url(site.database_url).database or "")


def ask(site: Site, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements as an administrator of PostgreSQL; return the rows of the last one."""
    with psycopg.connect(libpq(site.database_url), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


# What comes back -------------------------------------------------------------------------------------------------


def test_a_backup_brings_back_every_row_of_every_table_and_view(site: Site) -> None:
    file, before = backed_up(site), content(site.database_url)
    change(site, "Parasol")
    assert content(site.database_url) != before
    said = restore(site, file)
    assert content(site.database_url) == before
    assert "rostersync resync" in said
    assert "rostersync verify" in said
    site.ok("resync")
    site.ok("verify")
    site.ok("db", "check")


def test_a_backup_can_be_restored_into_an_empty_database(site: Site, tmp_path: Path, request: Any) -> None:
    file, before = backed_up(site), content(site.database_url)
    url = other_database(site, request)
    site.configure(url=url)
    restore(site, file)
    assert content(url) == before
    assert probe.differences(url) == []
    site.ok("sync")


def other_database(site: Site, request: Any) -> str:
    """Return the url of another, empty database of the same kind."""
    if make_url(site.database_url).get_backend_name() == "sqlite":
        return URL.create("sqlite", database=str(site.folder / "other.db")).render_as_string()
    server = request.getfixturevalue("postgres_server")
    url: str = server.create()
    request.addfinalizer(lambda: server.drop(url))
    return url


def test_runs_requests_and_entries_go_on_above_those_that_were_used(site: Site) -> None:
    file = backed_up(site)
    change(site, "Parasol")
    with Store(site.database_url, SystemClock()).writing() as connection:
        columns = "(source, at, who, host, verb, ids, fields, counts, outcome)"
        moment = "'2026-03-02T08:00:00.000Z'"
        insert = f"INSERT INTO audit {columns} VALUES ('main', {moment}, 'w', 'h', 'v', '[]', '[]', '{{}}', 'done')"
        for _ in range(3):
            connection.exec_driver_sql(insert)
    used = newest(site)
    restore(site, file)
    site.ok("sync")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(insert)
    after = newest(site)
    assert [after[n] > used[n] for n in range(3)] == [True, True, True]


def newest(site: Site) -> list[int]:
    [row] = site.rows(
        "SELECT (SELECT max(run_id) FROM run), (SELECT max(request_id) FROM run_request),"
        " (SELECT max(audit_id) FROM audit)"
    )
    return list(row)


def test_ids_of_purged_runs_are_not_used_again(site: Site) -> None:
    file = backed_up(site)
    change(site, "Parasol")
    [(used,)] = site.rows("SELECT max(run_id) FROM run")
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("DELETE FROM run WHERE run_id > 1")
    restore(site, file)
    site.ok("sync")
    assert site.rows("SELECT max(run_id) FROM run") == [(used + 1,)]


def test_a_fence_never_goes_back(site: Site) -> None:
    file = backed_up(site)
    change(site, "Parasol")
    [(before,)] = site.rows("SELECT fence FROM source")
    restore(site, file)
    [(after,)] = site.rows("SELECT fence FROM source")
    assert after > before


def test_a_request_that_was_open_in_the_backup_is_withdrawn(site: Site) -> None:
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO run_request (source, kind, state, requested_at, waiters)"
            " VALUES ('main', 'full', 'pending', '2026-03-02T08:00:00.000Z', 1)"
        )
    restore(site, backed_up(site))
    assert site.rows("SELECT count(*) FROM run_request WHERE state IN ('pending', 'taken')") == [(0,)]


@pytest.mark.parametrize("revision", revisions.REVISIONS)
def test_a_backup_of_each_revision_is_upgraded(site: Site, revision: str, clock: ManualClock, request: Any) -> None:
    """On PostgreSQL it is a dump of the whole database, as an administrator makes it."""
    url = other_database(site, request)
    older(url, revision, clock)
    restore(site, dumped_by_hand(url, site.folder / "older.dump"))
    assert probe.differences(site.database_url) == []
    assert site.rows("SELECT source, id, last_name FROM current_student") == [("old", 17, "Umbrella")]
    assert site.rows("SELECT live_students FROM sync_health") == [(1,)]
    [(used,)] = site.rows("SELECT max(run_id) FROM sync_run")
    site.ok("sync")
    assert site.rows("SELECT max(run_id) > 3 FROM sync_run") == [(True,)]
    assert used == 3


@pytest.mark.parametrize("revision", ["0003", "0008"])
def test_an_older_database_is_backed_up_before_its_upgrade(
    site: Site, revision: str, clock: ManualClock, request: Any
) -> None:
    url = other_database(site, request)
    older(url, revision, clock)
    site.configure(url=url)
    file = backed_up(site)
    site.configure()
    restore(site, file)
    assert site.rows("SELECT source, id, last_name FROM current_student") == [("old", 17, "Umbrella")]


@pytest.mark.parametrize("revision", ["0003", "0008"])
def test_an_older_database_is_replaced_by_a_newer_backup(
    site: Site, revision: str, clock: ManualClock, request: Any
) -> None:
    file, before = backed_up(site), content(site.database_url)
    url = other_database(site, request)
    older(url, revision, clock)
    site.configure(url=url)
    restore(site, file)
    assert content(url) == before
    assert probe.differences(url) == []


STUDENT = (
    "INSERT INTO student (source, id, last_name, status, extra, content_hash, first_seen_at, valid_from, op,"
    " changed_fields, run_id) VALUES ('old', 17, 'Umbrella', 'enrolled', '{}', '', '2026-03-02T08:00:00.000Z',"
    " '2026-03-02T08:00:00.000Z', 'insert', '[]', 3)"
)
FIGURES = (
    "fetched, inserted, updated, unchanged, restored, quarantined, ignored, deleted, stale, removals_held, requests,"
    " retries, duration_s, guarded"
)
RUN = (
    f"INSERT INTO run (run_id, source, kind, state, started_at, finished_at, {FIGURES}, notices) VALUES"
    " (3, 'old', 'full', 'succeeded', '2026-03-02T08:00:00.000Z', '2026-03-02T08:00:01.000Z',"
    f" {', '.join('1' * 14)}, '[]')"
)


def older(url: str, revision: str, clock: ManualClock) -> None:
    """Make a database of a revision, with a student and the run that brought them."""
    first_of_own_schema = revisions.REVISIONS.index("0005")
    flags = ["deleted_feed_ignored", *(["deleted_feed_proven"] if revision == "0001" else [])]
    counts = {"living": 1, "enrolled": 1, "deleted": 0} if revision == "0009" else {}
    values = {"name": "'old'", "fence": 7, **dict.fromkeys(flags, "FALSE"), "unknown_keys": "'[]'", **counts}
    source = f"INSERT INTO source ({', '.join(values)}) VALUES ({', '.join(map(str, values.values()))})"
    if revisions.REVISIONS.index(revision) < first_of_own_schema:
        database, undone = earlier_schema(url, revision), []
    else:
        database = Store(url, clock, create=True).engine
        undone = back_to(revision, database.dialect.name)
    with database.connect().execution_options(begin="write", no_parameters=True) as connection, connection.begin():
        if database.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL search_path = rostersync, public")
        for statement in (*undone, source, RUN, STUDENT):
            connection.exec_driver_sql(statement)


# Who may use the database meanwhile --------------------------------------------------------------------------------


def test_a_restore_is_refused_while_a_daemon_is_active(site: Site) -> None:
    file = backed_up(site)
    with started(site) as start:
        daemon = start("run")
        wait_until(lambda: site.rows("SELECT 1 FROM daemon"))
        result = site.run("db", "restore", "--yes", str(file))
        end(daemon)
    assert result.exit_code == 1
    assert f"a daemon uses the database: rostersync run (pid {daemon.pid} on " in result.stderr
    assert "systemctl stop" in result.stderr
    restore(site, file)


def test_a_restore_is_refused_while_a_run_is_in_progress(site: Site) -> None:
    file = backed_up(site)
    with Store(site.database_url, SystemClock()).lease("main", "rostersync sync"):
        said = refused(site, file)
    assert f"source main is locked by rostersync sync (pid {os.getpid()} on " in said


def test_a_source_that_only_the_configuration_knows_is_kept_from_writing_too(site: Site) -> None:
    file = backed_up(site)
    site.configure(sources=("main", "second"))
    with Store(site.database_url, SystemClock()).lease("second", "rostersync sync"):
        assert "source second is locked by rostersync sync" in refused(site, file)


def test_a_reader_of_sqlite_sees_the_old_content_until_its_transaction_ends(on_sqlite: Site) -> None:
    site = on_sqlite
    file = backed_up(site)
    change(site, "Parasol")
    with closing(sqlite3.connect(path_of(site), isolation_level=None)) as reader:
        count = "SELECT count(*) FROM current_student WHERE last_name = 'Parasol'"
        reader.execute("BEGIN")
        assert reader.execute(count).fetchone() == (1,)
        restore(site, file)
        assert reader.execute(count).fetchone() == (1,)
        reader.execute("COMMIT")
        assert reader.execute(count).fetchone() == (0,)


def test_a_restore_does_not_wait_for_ever_for_a_reader(on_postgresql: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site = on_postgresql
    file, before = backed_up(site), content(site.database_url)
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 1)
    with psycopg.connect(libpq(site.database_url)) as reader:
        reader.execute("SELECT count(*) FROM public.sync_run")
        result = site.run("db", "restore", "--yes", str(file))
    assert result.exit_code == 1
    assert "another session has kept a lock" in result.stderr
    assert content(site.database_url) == before


# Files that are refused --------------------------------------------------------------------------------------------


def test_without_a_terminal_it_needs_a_word(site: Site) -> None:
    file, before = backed_up(site), content(site.database_url)
    result = site.run("db", "restore", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith("db restore: without a terminal it needs --yes\n")
    assert content(site.database_url) == before


def test_on_a_terminal_it_asks_what_may_be_replaced_by_what(site: Site) -> None:
    file, before = backed_up(site), content(site.database_url)
    question = typed(site, "n", "db", "restore", str(file))
    assert "Replace the database " in question
    assert "(7 students, last run 3) by " in question
    assert f"{file} (schema {revisions.HEAD}, " in question
    assert content(site.database_url) == before


def typed(site: Site, answer: str, *words: str) -> str:
    """Run the program on a terminal; return what it printed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rostersync", *words, "-c", str(site.path)]
    environment = os.environ | site.environ | {"COLUMNS": "1000"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    shown = b""
    with suppress(OSError):  # Linux's end of file on a terminal
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    process.wait(60)
    return shown.decode()


def test_a_backup_of_a_later_version_is_refused(site: Site, clock: ManualClock, request: Any) -> None:
    url = other_database(site, request)
    older(url, revisions.HEAD, clock)
    with Store(url, clock).writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    said = refused(site, dumped_by_hand(url, site.folder / "newer.dump"))
    assert "has schema 9999, from a later version\n" in said


def test_a_database_of_a_later_version_can_go_back_to_an_older_backup(site: Site) -> None:
    file, before = backed_up(site), content(site.database_url)
    with Store(site.database_url, SystemClock()).writing() as connection:
        connection.exec_driver_sql("ALTER TABLE student ADD COLUMN shoe_size TEXT")
        connection.exec_driver_sql("CREATE TABLE of_later (id BIGINT)")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    restore(site, file)
    assert content(site.database_url) == before
    assert probe.differences(site.database_url) == []


def test_a_file_of_another_program_is_refused(site: Site, request: Any) -> None:
    url = other_database(site, request)
    with open_engine(url, create=True).connect().execution_options(begin="write") as connection, connection.begin():
        connection.exec_driver_sql("CREATE TABLE student_of_somebody (id INTEGER)")
    file = dumped_by_hand(url, site.folder / "foreign.dump")
    assert f"{file} is not a rostersync backup\n" in refused(site, file)


@pytest.mark.parametrize("text", ["", "a letter to the parents\n" * 1000])
def test_a_file_that_is_no_backup_is_refused(site: Site, text: str) -> None:
    file = site.folder / "letter"
    file.write_text(text)
    refused(site, file)


def test_a_backup_of_the_other_database_is_refused(on_sqlite: Site, postgres_url: str, client_programs: Path) -> None:
    on_sqlite.configure(url=postgres_url)
    on_sqlite.ok("sync")
    dump = backed_up(on_sqlite)
    on_sqlite.configure()
    assert f"{dump} is not a backup of a SQLite database\n" in refused(on_sqlite, dump)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_backup_is_refused(site: Site, part: float) -> None:
    file = backed_up(site)
    os.truncate(file, int(file.stat().st_size * part))
    refused_and_gone(site, file)


@pytest.mark.parametrize("part", [0.85, 0.95])
def test_a_damaged_backup_is_refused(site: Site, part: float) -> None:
    file = backed_up(site)
    with file.open("r+b") as opened:
        opened.seek(int(file.stat().st_size * part) // 4096 * 4096)
        opened.write(b"\xff" * 4096)
    refused_and_gone(site, file)


def refused_and_gone(site: Site, file: Path) -> None:
    """Delete the file in any case: what a test leaves is searched, which a damaged one does not allow."""
    try:
        refused(site, file)
    finally:
        file.unlink()


def test_a_missing_file_is_told_in_one_line(site: Site) -> None:
    result = site.run("db", "restore", "--yes", str(site.folder / "missing"))
    assert result.exit_code == 2
    assert "cannot read" in result.stderr


# All or nothing ----------------------------------------------------------------------------------------------------

KILLED = """\
import os, signal
from rostersync.__main__ import main
from rostersync.store.backup import continuity, sqlite_backup

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{where}
main()"""


def killed(site: Site, where: str) -> None:
    """Have a restore killed; the database must be as it was, and can still be restored."""
    file = backed_up(site)
    change(site, "Parasol")
    before = content(site.database_url)
    process = site.start("db", "restore", "--yes", str(file), program=("-c", KILLED.format(where=where)))
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert content(site.database_url) == before
    site.ok("db", "check")
    restore(site, file)
    assert content(site.database_url) != before


def test_a_restore_that_is_killed_before_its_end_changes_nothing(site: Site) -> None:
    killed(site, "continuity.go_on = kill")


def test_a_restore_that_is_killed_while_pages_are_replaced_changes_nothing(on_sqlite: Site) -> None:
    killed(on_sqlite, "sqlite_backup._STEP = 3\nsqlite_backup._pages = lambda what, progress: kill")
    assert not list(path_of(on_sqlite).parent.glob(".*"))


WITHOUT_ROOM = """\
import resource
from rostersync.__main__ import main
from rostersync.store.backup import continuity
go_on = continuity.go_on

def leave_no_room(*arguments):
    go_on(*arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

continuity.go_on = leave_no_room
main()"""


def test_a_restore_for_which_there_is_no_room_changes_nothing(on_sqlite: Site) -> None:
    site = on_sqlite
    file = backed_up(site)
    change(site, "Parasol")
    before = content(site.database_url)
    process = site.start("db", "restore", "--yes", str(file), program=("-c", WITHOUT_ROOM))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(told.splitlines()) == 2, told
    assert content(site.database_url) == before


def test_a_restore_with_an_error_at_its_end_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    file = backed_up(site)
    change(site, "Parasol")
    before = content(site.database_url)
    dumped = text("SELECT 1 FROM nowhere")
    monkeypatch.setattr("rostersync.store.backup.continuity.REQUEST_IS_OPEN", dumped)
    assert site.run("db", "restore", "--yes", str(file)).exit_code == 1
    assert content(site.database_url) == before


# SQLite ------------------------------------------------------------------------------------------------------------


def test_a_restored_sqlite_database_is_for_its_owner_only(on_sqlite: Site) -> None:
    site = on_sqlite
    file = backed_up(site)
    for path in (path_of(site), *path_of(site).parent.glob("*-wal")):
        path.unlink()
    restore(site, file)
    assert stat.S_IMODE(path_of(site).stat().st_mode) == 0o600
    assert not list(path_of(site).parent.glob("*damaged*"))


def test_a_view_that_somebody_made_in_a_sqlite_file_stays(on_sqlite: Site) -> None:
    site = on_sqlite
    file = backed_up(site)
    with closing(sqlite3.connect(path_of(site))) as connection:
        connection.execute("CREATE VIEW named AS SELECT id FROM current_student WHERE last_name = 'Umbrella'")
    restore(site, file)
    assert len(site.rows("SELECT * FROM named")) == 1


@pytest.mark.parametrize("kind", ["table", "trigger"])
def test_what_else_somebody_made_in_a_sqlite_file_is_named_and_nothing_is_changed(on_sqlite: Site, kind: str) -> None:
    site = on_sqlite
    file = backed_up(site)
    statement = {
        "table": "CREATE TABLE theirs (id INTEGER)",
        "trigger": "CREATE TRIGGER theirs AFTER INSERT ON run BEGIN SELECT 1; END",
    }[kind]
    with closing(sqlite3.connect(path_of(site))) as connection:
        connection.execute(statement)
    before = content(site.database_url)
    result = site.run("db", "restore", "--yes", str(file))
    assert result.exit_code == 1
    assert f"the restore would delete objects of other programs from the database: {kind} theirs\n" in result.stderr
    assert content(site.database_url) == before


def test_a_damaged_sqlite_database_is_moved_aside_and_named(on_sqlite: Site) -> None:
    site = on_sqlite
    file, before = backed_up(site), content(site.database_url)
    with damaged(path_of(site)):
        said = restore(site, file)
        assert content(site.database_url) == before
        [kept] = path_of(site).parent.glob("*.damaged-*")
        assert f"the damaged database is kept: {kept}\n" in said


def test_a_file_that_is_no_database_is_moved_aside_with_its_journal(on_sqlite: Site) -> None:
    site = on_sqlite
    file, before = backed_up(site), content(site.database_url)
    path_of(site).write_text("a letter " * 1000)
    path_of(site).with_name("roster.db-wal").write_text("another")
    restore(site, file)
    assert content(site.database_url) == before
    kept = [path.name for path in path_of(site).parent.glob("*.damaged-*")]
    assert [name.endswith("-wal") for name in sorted(kept)] == [False, True]


def test_a_backup_with_other_pages_can_be_restored(on_sqlite: Site) -> None:
    site = on_sqlite
    before = content(site.database_url)
    file = site.folder / "large-pages.db"
    with closing(sqlite3.connect(path_of(site))) as connection:
        connection.execute("VACUUM INTO ?", (str(file),))
    with closing(sqlite3.connect(file)) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA page_size = 16384", "VACUUM"):
            connection.execute(statement)
    change(site, "Parasol")
    restore(site, file)
    assert content(site.database_url) == before


# What others have on PostgreSQL ------------------------------------------------------------------------------------


@pytest.fixture
def reader(on_postgresql: Site, postgres_server: PostgresServer) -> Iterator[str]:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    postgres_server.execute("CREATE ROLE {} LOGIN", role)
    yield role
    ask(on_postgresql, f"DROP OWNED BY {role}")
    postgres_server.execute("DROP ROLE IF EXISTS {}", role)


ANALYST = (
    "CREATE SCHEMA analyst",
    "CREATE VIEW analyst.names AS SELECT id, last_name FROM public.current_student",
    "CREATE MATERIALIZED VIEW analyst.counted AS SELECT count(*) FROM analyst.names",
    "CREATE FUNCTION analyst.newest(public.sync_run) RETURNS bigint LANGUAGE sql AS 'SELECT 1'",
)


def test_views_that_an_analyst_made_of_ours_stay_and_answer(on_postgresql: Site) -> None:
    site = on_postgresql
    file = backed_up(site)
    ask(site, *ANALYST)
    before = content(site.database_url)
    change(site, "Parasol")
    restore(site, file)
    assert content(site.database_url) == before
    named = "SELECT count(*) FROM analyst.names WHERE last_name = 'Umbrella'"
    assert ask(site, named) == [(1,)]
    assert probe.differences(site.database_url) == []


def test_a_backup_of_before_an_upgrade_does_not_lose_an_analysts_view(
    on_postgresql: Site, clock: ManualClock, request: Any
) -> None:
    site = on_postgresql
    url = other_database(site, request)
    older(url, "0003", clock)
    ask(site, *ANALYST)
    restore(site, dumped_by_hand(url, site.folder / "older.dump"))
    assert ask(site, "SELECT id, last_name FROM analyst.names") == [(17, "Umbrella")]


DEPENDENTS = {
    "view analyst.direct": "CREATE VIEW analyst.direct AS SELECT run_id FROM rostersync.run",
    "trigger told on rostersync.run": "CREATE TRIGGER told AFTER INSERT ON rostersync.run"
    " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "table constraint note_run_fkey on analyst.note": "CREATE TABLE analyst.note (run bigint"
    " REFERENCES rostersync.run)",
    "policy mine on rostersync.audit": "CREATE POLICY mine ON rostersync.audit",
    "publication relation rostersync.run in publication told": "CREATE PUBLICATION told FOR TABLE rostersync.run",
    "function analyst.of(rostersync.run)": "CREATE FUNCTION analyst.of(rostersync.run) RETURNS int LANGUAGE sql"
    " AS 'SELECT 1'",
}


@pytest.mark.parametrize("name", DEPENDENTS)
def test_what_depends_on_a_table_is_named_and_nothing_is_changed(on_postgresql: Site, name: str) -> None:
    site = on_postgresql
    file = backed_up(site)
    change(site, "Parasol")
    ask(site, "CREATE SCHEMA analyst", DEPENDENTS[name])
    said = refused(site, file)
    assert said.startswith(
        "this command must drop and recreate the tables of rostersync, on which other objects depend: "
    )
    assert f": {name}\n" in said


GRANTED = """
SELECT relname, a.privilege_type, a.grantee::regrole::text FROM pg_class, aclexplode(relacl) a
 WHERE relname IN ('sync_run', 'run') UNION ALL
SELECT attname, a.privilege_type, a.grantee::regrole::text FROM pg_attribute, aclexplode(attacl) a ORDER BY 1, 2, 3
"""


def test_grants_of_the_live_database_stay(on_postgresql: Site, reader: str) -> None:
    site = on_postgresql
    file = backed_up(site)
    ask(site, f"GRANT SELECT ON rostersync.run TO {reader}", f"GRANT SELECT (id) ON public.current_student TO {reader}")
    ask(site, f"GRANT SELECT ON public.sync_run TO {reader} WITH GRANT OPTION")
    before = ask(site, GRANTED)
    restore(site, file)
    assert ask(site, GRANTED) == before


def test_an_empty_database_gets_the_grants_of_the_backup(
    on_postgresql: Site, reader: str, postgres_server: PostgresServer, request: Any
) -> None:
    site = on_postgresql
    gone = f"{reader}_gone"
    postgres_server.execute("CREATE ROLE {}", gone)
    ask(site, f"GRANT SELECT ON public.sync_run TO {reader}, {gone}, PUBLIC")
    ask(site, f"GRANT SELECT (id) ON public.current_student TO {reader}")
    file = backed_up(site)
    ask(site, f"DROP OWNED BY {gone}")
    postgres_server.execute("DROP ROLE {}", gone)
    site.configure(url=(url := other_database(site, request)))
    said = restore(site, file)
    assert f"do not exist here: {gone};" in said
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        may = "SELECT has_table_privilege(%s, 'public.sync_run', 'SELECT'), has_table_privilege(%s, %s, 'SELECT')"
        assert connection.execute(may, (reader, reader, "public.sync_health")).fetchall() == [(True, False)]
        column = "SELECT has_column_privilege(%s, 'public.current_student', 'id', 'SELECT')"
        assert connection.execute(column, (reader,)).fetchall() == [(True,)]
        connection.execute(f"DROP OWNED BY {reader}".encode())


def test_a_database_that_pg_restore_has_doubled_is_repaired(on_postgresql: Site) -> None:
    """The restore that was once documented, without one transaction, while an analyst's view depends on ours."""
    site = on_postgresql
    file, before = backed_up(site), content(site.database_url)
    ask(site, "CREATE SCHEMA analyst", "CREATE VIEW analyst.names AS SELECT id FROM public.current_student")
    command = ["pg_restore", "--clean", "--if-exists", f"--dbname={libpq(site.database_url)}", str(file)]
    subprocess.run(command, check=False, capture_output=True)
    assert len(site.rows("SELECT * FROM current_student")) == 2 * len(before["current_student"])
    restore(site, file)
    assert content(site.database_url) == before
    assert probe.differences(site.database_url) == []


def test_frozen_views_of_an_older_dump_that_was_restored_by_hand_thaw(
    on_postgresql: Site, clock: ManualClock, request: Any
) -> None:
    site = on_postgresql
    file, before = backed_up(site), content(site.database_url)
    url = other_database(site, request)
    older(url, "0003", clock)
    dump = dumped_by_hand(url, site.folder / "older.dump")
    command = ["pg_restore", "--clean", "--if-exists", f"--dbname={libpq(site.database_url)}", str(dump)]
    subprocess.run(command, check=False, capture_output=True)
    assert site.rows("SELECT id FROM public.current_student") == [(17,)]
    assert any("an older dump left tables" in difference for difference, _ in probe.differences(site.database_url))
    restore(site, file)
    assert content(site.database_url) == before
    assert probe.differences(site.database_url) == []


def test_a_table_that_somebody_made_in_our_schema_stays(on_postgresql: Site) -> None:
    site = on_postgresql
    file = backed_up(site)
    ask(site, "CREATE TABLE rostersync.theirs AS SELECT 17 AS id")
    site.run("db", "restore", "--yes", str(file))
    assert ask(site, "SELECT id FROM rostersync.theirs") == [(17,)]


def test_a_backup_of_inserts_can_be_restored(on_postgresql: Site) -> None:
    site = on_postgresql
    before = content(site.database_url)
    file = dumped_by_hand(site.database_url, site.folder / "inserts.dump", "--inserts")
    change(site, "Parasol")
    restore(site, file)
    assert content(site.database_url) == before


def test_differences_are_told_after_a_restore(on_postgresql: Site) -> None:
    site = on_postgresql
    ask(site, "ALTER TABLE rostersync.student DROP CONSTRAINT pk_student")
    result = site.run("db", "restore", "--yes", str(backed_up(site)))
    assert result.exit_code == 1
    assert "the primary key of student is missing" in result.stderr
