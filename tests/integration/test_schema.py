"""The schema: migrations, views, and what is done about a database that does not fit."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from rostersync.errors import DatabaseUnreachable, NoDatabase, SchemaOutdated, SchemaTooNew, StoreError
from rostersync.report import SourceState
from rostersync.store import Store, runs, schema
from rostersync.store.models import Base
from rostersync.store.views import VIEWS, drop_views

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import ManualClock


def test_the_migrations_make_the_tables_that_the_models_describe(database_url: str, clock: ManualClock) -> None:
    store = Store(database_url, clock, create=True)
    with store.reading() as connection, connection.begin():
        context = MigrationContext.configure(connection)
        found = [change for change in compare_metadata(context, Base.metadata) if change[0] != "remove_fk"]
    assert found == []


def test_the_revisions_known_to_the_package_are_those_of_the_migrations(sqlite_url: str, clock: ManualClock) -> None:
    store = Store(sqlite_url, clock, create=True)
    with store.reading() as connection:
        scripts = ScriptDirectory.from_config(schema.alembic_config(connection))
    assert [script.revision for script in reversed(list(scripts.walk_revisions()))] == list(schema.REVISIONS)


def test_every_view_has_the_columns_that_its_description_tells_of(database_url: str, clock: ManualClock) -> None:
    store = Store(database_url, clock, create=True)
    with store.reading() as connection, connection.begin():
        for view in VIEWS:
            found = connection.execute(text(f"SELECT * FROM {view.name}")).keys()
            assert list(found) == [name for name, _ in view.columns]
            assert view.description
            assert all(description for _, description in view.columns)


def test_postgresql_keeps_the_descriptions_as_comments(postgres_url: str, clock: ManualClock) -> None:
    store = Store(postgres_url, clock, create=True)
    with store.reading() as connection, connection.begin():
        comment = connection.scalar(text("SELECT obj_description('current_student'::regclass)"))
        columns = inspect(connection).get_columns("sync_health")
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
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "next"))
    monkeypatch.setattr(schema, "HEAD", "next")
    with pytest.raises(SchemaOutdated) as caught:
        Store(postgres_url, clock, create=True)
    assert "db upgrade" in caught.value.hint


def test_an_upgrade_from_the_first_schema_keeps_what_is_there(database_url: str, clock: ManualClock) -> None:
    engine = Store(database_url, clock, create=True).engine
    with engine.connect().execution_options(begin="write") as connection, connection.begin():
        drop_views(connection)
        connection.execute(text("ALTER TABLE source DROP COLUMN server_ahead_s"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        connection.execute(text("ALTER TABLE source ADD COLUMN deleted_feed_proven BOOLEAN NOT NULL DEFAULT FALSE"))
        row = {"name": "main", "feed": False}
        columns = "name, fence, deleted_feed_proven, deleted_feed_ignored, unknown_keys"
        connection.execute(text(f"INSERT INTO source ({columns}) VALUES (:name, 7, :feed, :feed, '[]')"), row)
    store = Store(database_url, clock, create=True, auto_upgrade=True)
    with store.reading() as connection:
        assert runs.state(connection, "main") == SourceState()
        with connection.begin():
            assert connection.scalar(text("SELECT fence FROM source")) == 7
            assert connection.scalar(text("SELECT count(*) FROM sync_health")) == 1


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
