"""The schema: migrations, views, and what is done about a database that does not fit."""

from __future__ import annotations

import stat
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import see_views
from earlier import back_to, earlier_schema, sync_health
from sqlalchemy import create_engine, inspect, make_url, text

from rostersync.errors import DatabaseUnreachable, NoDatabase, SchemaOutdated, SchemaTooNew, StoreError
from rostersync.report import RunKind, RunRequest, SourceState
from rostersync.store.database import own_schema
from rostersync.store.database.engine import open_engine, writing
from rostersync.store.queue import requests
from rostersync.store.replica.state import source_state
from rostersync.store.schema import revisions
from rostersync.store.schema.tables import metadata
from rostersync.store.schema.view_upgrade import drop_views
from rostersync.store.schema.views import VIEWS
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from alembic.config import Config
    from conftest import ManualClock
    from sqlalchemy import Connection, Engine


def test_the_migrations_make_the_tables_that_a_new_database_has(database_url: str, clock: ManualClock) -> None:
    first_schema(database_url)
    revisions.upgrade(open_engine(database_url))
    migrated = Store(database_url, clock)
    with migrated.reading() as connection, connection.begin():
        context = MigrationContext.configure(connection, opts=revisions.comparison_options(connection))
        assert compare_metadata(context, metadata) == []
        led_to = tables_of(connection), statistics_targets(connection)
    with migrated.writing() as connection:
        drop_all(connection)
    new = Store(database_url, clock, create=True)
    with new.reading() as connection, connection.begin():
        assert (tables_of(connection), statistics_targets(connection)) == led_to


def statistics_targets(connection: Connection) -> dict[tuple[str, str], int | None]:
    """Return how much PostgreSQL's ANALYZE keeps of each column."""
    if connection.dialect.name == "sqlite":
        return {}
    query = """
        SELECT relname, attname, nullif(attstattarget, -1) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
         WHERE relnamespace = 'rostersync'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"""
    found = {(table, column): target for table, column, target in connection.execute(text(query))}
    assert found["student", "last_name"] == 0
    assert found["student", "id"] is None
    return found


def test_a_column_that_a_later_version_adds_has_no_statistics(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = first_schema(postgres_url)
    rest = command.upgrade

    def add_column(config: Config, target: str) -> None:
        rest(config, target)
        config.attributes["connection"].exec_driver_sql("ALTER TABLE student ADD COLUMN shoe_size text")

    monkeypatch.setattr(command, "upgrade", add_column)
    revisions.upgrade(engine)
    with engine.connect() as connection, connection.begin():
        assert statistics_targets(connection)["student", "shoe_size"] == 0


def drop_all(connection: Connection) -> None:
    """Make the database an empty one."""
    postgres = connection.dialect.name == "postgresql"
    for view in VIEWS:
        connection.exec_driver_sql(f"DROP VIEW {'public.' if postgres else ''}{view.name}")
    metadata.drop_all(connection)
    connection.exec_driver_sql("DROP TABLE alembic_version")


def tables_of(connection: Connection) -> dict[str, Any]:
    """Return what the database says of its tables: their columns, keys and indexes, in whatever order."""
    found = inspect(connection)
    return {
        table: {
            "columns": sorted(
                ({**column, "type": repr(column["type"])} for column in found.get_columns(table)), key=repr
            ),
            "key": found.get_pk_constraint(table),
            "references": sorted(found.get_foreign_keys(table), key=repr),
            "indexes": sorted(map(as_text, found.get_indexes(table)), key=repr),
        }
        for table in found.get_table_names()
    }


def as_text(index: Any) -> dict[str, Any]:
    """Return an index with the condition of its rows as text: two conditions are never equal."""
    return {**index, "dialect_options": {name: str(value) for name, value in index["dialect_options"].items()}}


def test_the_revisions_known_to_the_package_are_those_of_the_migrations(sqlite_url: str, clock: ManualClock) -> None:
    store = Store(sqlite_url, clock, create=True)
    with store.reading() as connection:
        scripts = ScriptDirectory.from_config(revisions.alembic_config(connection))
    assert [script.revision for script in reversed(list(scripts.walk_revisions()))] == list(revisions.REVISIONS)


def test_migrations_say_whether_they_lock_out_the_readers_of_views(postgres_url: str) -> None:
    """Those that change no table themselves make the whole upgrade move tables, or replace views."""
    engine = first_schema(postgres_url)
    read_by_views = "'source', 'run', 'student', 'student_version', 'audit'"
    locked = f"""
        SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
         WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock' AND relname IN ({read_by_views})
           AND pg_class.oid = ANY(:before)"""
    tables = f"SELECT oid::bigint FROM pg_class WHERE relkind = 'r' AND relname IN ({read_by_views})"
    with engine.connect().execution_options(begin="write") as connection, connection.begin():
        own_schema.prepare(connection)
        own_schema.move_tables(connection)
        steps = revisions.steps_after(connection, "0001")
    assert [step.revision for step in steps] == list(revisions.REVISIONS[1:])
    for step in steps:
        with engine.connect().execution_options(begin="write") as connection, connection.begin():
            see_views(connection)
            before = list(connection.scalars(text(tables)))
            command.upgrade(revisions.alembic_config(connection), step.revision)
            locks = bool(connection.scalar(text(locked), {"before": before}))
        assert step.locks_readers == (locks or step.revision in {"0005", "0008"}), step


def test_every_view_has_the_columns_that_its_description_tells_of(database_url: str, clock: ManualClock) -> None:
    store = Store(database_url, clock, create=True)
    with store.reading() as connection, connection.begin():
        see_views(connection)
        for view in VIEWS:
            found = connection.execute(text(f"SELECT * FROM {view.name}")).keys()
            assert list(found) == [name for name, _ in view.columns]
            assert view.description
            assert all(description for _, description in view.columns)


def test_postgresql_keeps_the_descriptions_as_comments(postgres_url: str, clock: ManualClock) -> None:
    store = Store(postgres_url, clock, create=True)
    with store.reading() as connection, connection.begin():
        comment = connection.scalar(text("SELECT obj_description('public.current_student'::regclass)"))
        columns = inspect(connection).get_columns("sync_health", schema="public")
    assert comment == next(view.description for view in VIEWS if view.name == "current_student")
    assert all(column["comment"] for column in columns)


def test_a_missing_sqlite_file_is_made_for_its_owner_only_and_only_when_asked(
    sqlite_url: str, clock: ManualClock
) -> None:
    with pytest.raises(NoDatabase):
        Store(sqlite_url, clock)
    path = Store(sqlite_url, clock, create=True).path
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with create_engine(sqlite_url).connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"


def test_the_connection_of_a_sqlite_store_is_durable_and_checks_foreign_keys(
    sqlite_url: str, clock: ManualClock
) -> None:
    with Store(sqlite_url, clock, create=True).reading() as connection:
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_an_empty_postgresql_database_is_no_database_to_a_reader(postgres_url: str, clock: ManualClock) -> None:
    with pytest.raises(NoDatabase):
        Store(postgres_url, clock)


def set_revision(store: Store, revision: str) -> None:
    with store.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_newer_schema_is_refused(database_url: str, clock: ManualClock) -> None:
    set_revision(Store(database_url, clock, create=True), "9999")
    with pytest.raises(SchemaTooNew, match="9999"):
        Store(database_url, clock, create=True)


def test_an_older_schema_of_postgresql_waits_for_the_operator(
    postgres_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(postgres_url, clock, create=True)
    monkeypatch.setattr(revisions, "REVISIONS", (*revisions.REVISIONS, "next"))
    monkeypatch.setattr(revisions, "HEAD", "next")
    with pytest.raises(SchemaOutdated) as caught:
        Store(postgres_url, clock, create=True)
    assert "db upgrade" in caught.value.hint


def test_an_upgrade_from_the_first_schema_keeps_what_is_there(database_url: str, clock: ManualClock) -> None:
    engine = first_schema(database_url)
    execute(engine, INSERT_SOURCE)
    store = Store(database_url, clock, create=True, auto_upgrade=True)
    with store.reading() as connection:
        assert source_state(connection, "main") == SourceState()
        with connection.begin():
            assert connection.scalar(text("SELECT fence FROM source")) == 7
            see_views(connection)
            assert connection.scalar(text("SELECT count(*) FROM sync_health")) == 1


def test_requests_and_runs_from_before_refreshes_are_what_they_were(database_url: str, clock: ManualClock) -> None:
    engine = earlier_schema(database_url, "0003")
    execute(
        engine,
        "INSERT INTO source (name, fence, deleted_feed_ignored, unknown_keys) VALUES ('main', 7, FALSE, '[]')",
        "INSERT INTO run_request (source, kind, state, requested_at, waiters)"
        " VALUES ('main', 'full', 'pending', '2026-03-02T08:00:00.000Z', 1)",
    )
    store = Store(database_url, clock, create=True, auto_upgrade=True)
    with store.lease("main", "test") as lease:
        assert requests.take(lease, clock.now(), 0) == RunRequest("main", RunKind.FULL, request_id=1)
        assert requests.take(lease, clock.now(), 0, refresh=True) is None
    assert ask(store.engine, "SELECT * FROM audit_log") == []


def test_the_tables_of_something_else_are_left_alone(database_url: str, clock: ManualClock) -> None:
    engine = Store(database_url, clock, create=True).engine
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(StoreError, match="tables of another program"):
        Store(database_url, clock, create=True)


def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "roster.db"
    path.write_text("a letter to the parents " * 100)
    with pytest.raises(DatabaseUnreachable, match="not a database"):
        Store(f"sqlite:///{path}", clock, create=True)


def test_a_server_that_is_not_there_is_told_in_one_line_without_the_password(clock: ManualClock) -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        Store("postgresql+psycopg://someone:canary-password@127.0.0.1:1/nowhere", clock)
    assert "canary-password" not in caught.value.message
    assert "\n" not in caught.value.message


# Views over an upgrade -------------------------------------------------------------------------------------------


def first_schema(url: str, **older: str) -> Engine:
    """Set up a database with the first schema, and its views: as they are now, or as the query in `older` has it.

    On PostgreSQL all of it is in `public`, and the views are no barriers.
    """
    return earlier_schema(url, "0001", **older)


def execute(engine: Engine, *statements: str) -> None:
    with engine.connect().execution_options(begin="write", no_parameters=True) as connection, connection.begin():
        see_views(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)


def ask(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect().execution_options(no_parameters=True) as connection, connection.begin():
        see_views(connection)
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def columns_of(engine: Engine, view: str) -> list[str]:
    with engine.connect() as connection, connection.begin():
        see_views(connection)
        return list(connection.execute(text(f"SELECT * FROM {view}")).keys())


def oids(engine: Engine) -> dict[str, int]:
    query = "SELECT relname, oid FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace"
    return dict(ask(engine, query))  # type: ignore[arg-type]  # rows of two


INSERT_SOURCE = """
INSERT INTO source (name, fence, deleted_feed_proven, deleted_feed_ignored, unknown_keys)
VALUES ('main', 7, FALSE, FALSE, '[]')
"""
SYNC_RUN = next(view for view in VIEWS if view.name == "sync_run")
COLUMNS = [name for name, _ in SYNC_RUN.columns]
SHORTER = f"SELECT {', '.join(COLUMNS[:-1])} FROM run"
RENAMED = f"SELECT run_id AS number, {', '.join(COLUMNS[1:])} FROM run"
ACCESS = """
SELECT pg_get_userbyid(relowner), relname, attname, a.privilege_type, a.grantee::regrole::text, a.is_grantable
  FROM (SELECT oid, relowner, relname, NULL AS attname, relacl AS acl FROM pg_class
         UNION ALL
        SELECT c.oid, relowner, relname, attname, attacl FROM pg_class c JOIN pg_attribute ON attrelid = c.oid
       ) o, aclexplode(o.acl) a
 WHERE relname IN ('sync_run', 'sync_health', 'current_student') ORDER BY 1, 2, 3, 4, 5, 6
"""


@pytest.fixture
def analyst(postgres_url: str) -> Iterator[str]:
    """A role with a schema of its own, `analyst`; its name, in quotes, is one that an operator might choose."""
    engine = open_engine(postgres_url, create=True)
    role = f'"Dean\'s 100% :reader {uuid.uuid4().hex[:8]}"'
    execute(engine, f"CREATE ROLE {role}", f"GRANT {role} TO CURRENT_USER")
    execute(engine, f"CREATE SCHEMA analyst; GRANT CREATE ON SCHEMA public TO {role}")
    yield role
    execute(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("older", [SHORTER, RENAMED], ids=["appended to", "renamed"])
def test_an_upgrade_brings_an_older_view_to_this_versions_form(database_url: str, older: str) -> None:
    engine = first_schema(database_url, sync_run=older)
    revisions.upgrade(engine)
    assert columns_of(engine, "sync_run") == COLUMNS


def test_an_upgrade_repairs_a_view_that_was_changed_by_hand(database_url: str) -> None:
    health = sync_health(make_url(database_url).get_backend_name())
    engine = first_schema(database_url, sync_health=f"SELECT * FROM ({health}) h WHERE source <> 'main'")
    execute(engine, INSERT_SOURCE)
    revisions.upgrade(engine)
    assert ask(engine, "SELECT source FROM sync_health") == [("main",)]


def test_an_upgrade_of_an_older_view_leaves_the_others_in_their_place(postgres_url: str) -> None:
    engine = first_schema(postgres_url, sync_run=RENAMED)
    before = oids(engine)
    revisions.upgrade(engine)
    after = oids(engine)
    assert {name for name in before if after[name] != before[name]} == {"sync_run"}


def test_an_upgrade_describes_views_that_it_leaves_in_their_place(postgres_url: str) -> None:
    engine = first_schema(postgres_url)
    execute(engine, "COMMENT ON VIEW sync_run IS 'as an earlier version put it'")
    revisions.upgrade(engine)
    assert ask(engine, "SELECT obj_description('sync_run'::regclass)") == [(SYNC_RUN.description,)]
    assert ask(engine, "SELECT col_description('sync_run'::regclass, 1)") == [(SYNC_RUN.columns[0][1],)]


@pytest.mark.parametrize(
    "older", [SYNC_RUN.query("postgresql"), SHORTER, RENAMED], ids=["unchanged", "appended to", "renamed"]
)
def test_an_upgrade_keeps_owners_and_grants(postgres_url: str, analyst: str, older: str) -> None:
    engine = first_schema(postgres_url, sync_run=older)
    execute(
        engine,
        f"ALTER VIEW sync_run OWNER TO {analyst}",
        f"REVOKE INSERT, UPDATE ON sync_run FROM {analyst}",
        f"GRANT SELECT ON sync_health TO {analyst}",
        f"GRANT SELECT (id, last_name) ON current_student TO {analyst}",
        "GRANT SELECT ON sync_run TO pg_monitor WITH GRANT OPTION",
        "GRANT SELECT, UPDATE ON sync_run TO pg_read_all_stats",
        "GRANT SELECT (state), UPDATE (error) ON sync_run TO pg_read_all_settings WITH GRANT OPTION",
        "GRANT SELECT ON sync_run TO PUBLIC",
    )
    before = ask(engine, ACCESS)
    revisions.upgrade(engine)
    assert ask(engine, ACCESS) == before


def test_a_view_created_again_is_not_open_to_those_from_whom_it_was_taken(postgres_url: str, analyst: str) -> None:
    engine = first_schema(postgres_url, sync_run=RENAMED)
    execute(
        engine,
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {analyst}, PUBLIC",
        f"GRANT SELECT (number) ON sync_run TO {analyst}",  # it goes with the column
    )
    revisions.upgrade(engine)
    role = analyst.strip('"').replace("'", "''")
    assert ask(engine, f"SELECT has_table_privilege('{role}', 'sync_run', 'SELECT')") == [(False,)]


@pytest.mark.parametrize("older", [SYNC_RUN.query("postgresql"), SHORTER], ids=["unchanged", "appended to"])
def test_a_view_of_an_analyst_stands_on_a_view_that_keeps_its_columns(
    postgres_url: str, analyst: str, older: str
) -> None:
    engine = first_schema(postgres_url, sync_run=older)
    execute(engine, "CREATE VIEW analyst.failed AS SELECT run_id FROM sync_run WHERE state = 'failed'")
    revisions.upgrade(engine)
    assert ask(engine, "SELECT * FROM analyst.failed") == []
    assert columns_of(engine, "sync_run") == COLUMNS


def test_a_view_of_somebody_else_in_a_sqlite_file_stands_on_a_view_that_is_created_again(sqlite_url: str) -> None:
    engine = first_schema(sqlite_url)
    execute(engine, "CREATE VIEW failed AS SELECT run_id FROM sync_run WHERE state = 'failed'")
    revisions.upgrade(engine)
    assert ask(engine, "SELECT * FROM failed") == []


def test_an_upgrade_that_a_view_of_an_analyst_bars_names_what_depends_and_changes_nothing(
    postgres_url: str, analyst: str
) -> None:
    engine = first_schema(postgres_url, sync_run=RENAMED)
    execute(
        engine,
        "CREATE VIEW analyst.failed AS SELECT number FROM sync_run WHERE state = 'failed'",
        "CREATE MATERIALIZED VIEW analyst.failures AS SELECT count(*) FROM analyst.failed",
        "CREATE FUNCTION analyst.newest() RETURNS SETOF sync_run LANGUAGE sql AS 'SELECT * FROM sync_run'",
        "CREATE VIEW analyst.fresh AS SELECT age_seconds FROM sync_health",
    )
    before = oids(engine)
    with pytest.raises(StoreError) as caught:
        revisions.upgrade(engine)
    for name in ("view analyst.failed", "materialized view analyst.failures", "function analyst.newest()"):
        assert name in caught.value.message
    assert "analyst.fresh" not in caught.value.message
    assert "sync_run" in caught.value.message
    assert "drop" in caught.value.hint
    assert oids(engine) == before
    assert ask(engine, "SELECT version_num FROM alembic_version") == [("0001",)]
    assert ask(engine, "SELECT count(deleted_feed_proven) FROM source") == [(0,)]


def test_a_migration_has_the_views_dropped_whose_columns_it_changes(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = first_schema(postgres_url)
    execute(engine, "ALTER TABLE run RENAME error TO reason", "GRANT SELECT ON sync_run TO pg_monitor")
    before, access = oids(engine), ask(engine, ACCESS)
    monkeypatch.setattr(command, "upgrade", migrate_runs(command.upgrade))
    revisions.upgrade(engine)
    after = oids(engine)
    assert {name for name in before if after[name] != before[name]} == {"sync_run"}
    assert ask(engine, ACCESS) == access
    assert columns_of(engine, "sync_run") == COLUMNS


def test_a_migration_that_a_view_of_an_analyst_bars_names_it(
    postgres_url: str, analyst: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = first_schema(postgres_url)
    execute(engine, "CREATE VIEW analyst.failed AS SELECT run_id FROM sync_run WHERE state = 'failed'")
    monkeypatch.setattr(command, "upgrade", migrate_runs(command.upgrade))
    with pytest.raises(StoreError, match=r"drop and recreate sync_run, .*: view analyst\.failed$"):
        revisions.upgrade(engine)


def migrate_runs(rest: Callable[[Config, str], None]) -> Callable[[Config, str], None]:
    """Return migrations of which one changes columns that a view reads."""

    def migrate(config: Config, target: str) -> None:
        connection = config.attributes["connection"]
        drop_views(connection, "sync_run", "one_of_another_version")
        connection.exec_driver_sql("ALTER TABLE run RENAME reason TO error")
        connection.exec_driver_sql("ALTER TABLE run ALTER duration_s TYPE numeric")
        rest(config, target)

    return migrate


# Readers during an upgrade ---------------------------------------------------------------------------------------


def test_an_upgrade_waits_for_no_reader_of_a_view_that_stays(postgres_url: str, clock: ManualClock) -> None:
    store = Store(postgres_url, clock, create=True)
    with store.writing() as connection:  # as 0005 left it; what comes behind touches no table of the view
        for statement in back_to("0005", "postgresql"):
            connection.exec_driver_sql(statement)
    with store.writing() as connection:
        connection.execute(text("SELECT count(*) FROM public.audit_log"))
        revisions.upgrade(store.engine)
        assert connection.execute(text("SELECT count(*) FROM public.audit_log")).scalar_one() == 0


def test_readers_who_come_while_an_upgrade_waits_are_let_in_afterwards(postgres_url: str) -> None:
    """They wait at the view, not behind it: else each would wait for the other, and the server would end one."""
    health = sync_health("postgresql")
    engine = first_schema(postgres_url, sync_health=f"SELECT * FROM ({health}) h WHERE source <> ''")
    with ThreadPoolExecutor() as pool:
        with engine.connect() as connection, writing(connection):
            connection.execute(text("SELECT count(*) FROM public.sync_health"))
            upgrading = pool.submit(revisions.upgrade, engine)
            wait_for_waiters(engine, 1)
            reading = pool.submit(ask, engine, "SELECT * FROM sync_health")
            wait_for_waiters(engine, 2)
        upgrading.result(60)
        assert reading.result(60) == []


def wait_for_waiters(engine: Engine, count: int) -> None:
    database = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    query = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND database = {database}"
    deadline = time.monotonic() + 30
    while ask(engine, query) != [(count,)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
