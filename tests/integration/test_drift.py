"""`db check` notices what somebody changed by hand, or what a restored dump left, and names the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import see_views
from sqlalchemy import make_url

from rostersync.store import probe
from rostersync.store.database import own_schema
from rostersync.store.database.engine import open_engine
from rostersync.store.schema.views import VIEWS
from rostersync.store.store import Store

if TYPE_CHECKING:
    from conftest import ManualClock


def spoilt(url: str, *statements: str) -> list[str]:
    """Run statements by hand; return the differences with their remedies."""
    with open_engine(url).connect().execution_options(begin="write") as connection, connection.begin():
        see_views(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)
    return [f"{difference}; {remedy}" for difference, remedy in probe.differences(url)]


def repaired(url: str, *statements: str) -> bool:
    """Run statements that a remedy names; return whether no difference is left."""
    return spoilt(url, *statements) == []


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


@pytest.fixture
def url(database_url: str, clock: ManualClock) -> str:
    Store(database_url, clock, create=True).close()
    return database_url


def test_a_new_database_and_a_migrated_one_have_no_difference(url: str, migrated_url: str) -> None:
    assert probe.differences(url) == probe.differences(migrated_url) == []


def test_a_lost_primary_key_is_named_with_the_statement_that_makes_it_again(
    postgres_url: str, clock: ManualClock
) -> None:
    Store(postgres_url, clock, create=True).close()
    [line] = spoilt(postgres_url, "ALTER TABLE student DROP CONSTRAINT pk_student")
    assert line.startswith("the primary key of student is missing; restore a backup")
    assert repaired(postgres_url, line.split(", and: ")[1])


def test_a_primary_key_that_a_sqlite_table_was_made_without_is_missing(sqlite_url: str, clock: ManualClock) -> None:
    Store(sqlite_url, clock, create=True).close()
    made = (
        "CREATE TABLE quarantine (source TEXT NOT NULL, id BIGINT NOT NULL, reason TEXT NOT NULL,"
        " first_seen_at TIMESTAMP NOT NULL, last_seen_at TIMESTAMP NOT NULL)"
    )
    lines = spoilt(sqlite_url, "DROP TABLE quarantine", made)
    assert "the primary key of quarantine is missing; restore a backup" in " ".join(lines)
    assert "the foreign key source of quarantine is missing" in " ".join(lines)


def test_a_lost_foreign_key_is_named_with_the_statement_that_makes_it_again(
    postgres_url: str, clock: ManualClock
) -> None:
    Store(postgres_url, clock, create=True).close()
    [line] = spoilt(postgres_url, "ALTER TABLE run DROP CONSTRAINT fk_run_source")
    difference, remedy = line.split("; ")
    assert difference == "the foreign key fk_run_source of run is missing"
    assert repaired(postgres_url, remedy)


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        (["DROP INDEX ix_run_newest"], "the index ix_run_newest of run is missing"),
        (
            ["DROP INDEX ix_run_newest", "CREATE INDEX ix_run_newest ON run (source, run_id) WHERE kind = 'full'"],
            "the index ix_run_newest of run is ",
        ),
        (["CREATE INDEX by_hand ON run (state)"], "the index by_hand of run does not belong to this version's schema"),
    ],
    ids=["dropped", "of other rows", "of somebody else"],
)
def test_an_index_that_differs_is_named_with_the_statements_that_undo_it(
    url: str, statements: list[str], what: str
) -> None:
    [line] = spoilt(url, *statements)
    assert line.startswith(what)
    assert repaired(url, *line.split("; ")[1:])


def test_a_column_and_a_table_that_differ_are_named(url: str) -> None:
    lines = spoilt(url, "ALTER TABLE run ADD COLUMN remark TEXT", "DROP TABLE daemon")
    assert [line.split(";")[0] for line in lines] == [
        "the column run.remark does not belong to this version's schema",
        "the table daemon is missing",
    ]


def test_a_table_and_a_view_of_another_program_beside_ours_are_no_difference(url: str) -> None:
    notes = ["CREATE TABLE notes (id BIGINT PRIMARY KEY, about BIGINT REFERENCES run (run_id))"]
    assert (
        spoilt(url, *notes, "CREATE INDEX about_run ON notes (about)", "CREATE VIEW noted AS SELECT * FROM notes") == []
    )


@pytest.mark.parametrize(
    "change",
    ["", "SELECT * FROM run", "SELECT 1 AS run_id"],
    ids=["missing", "of all columns", "frozen"],
)
def test_a_view_that_differs_is_named_and_an_upgrade_makes_it_again(url: str, change: str) -> None:
    name = "sync_run" if is_sqlite(url) else "public.sync_run"
    [line] = spoilt(url, "DROP VIEW sync_run", *([f"CREATE VIEW {name} AS {change}"] if change else []))
    state = "is defined differently in this version" if change else "is missing"
    assert line == f"the view {name} {state}; run: rostersync db upgrade"
    probe.upgrade(url)
    assert probe.differences(url) == []


def test_views_that_were_dumped_and_restored_do_not_differ(postgres_url: str, clock: ManualClock) -> None:
    """The dump has what the server wrote out of them."""
    Store(postgres_url, clock, create=True).close()
    for _ in range(2):
        with open_engine(postgres_url).connect() as connection, connection.begin():
            query = "SELECT relname, pg_get_viewdef(oid) FROM pg_class WHERE oid = to_regclass('public.' || relname)"
            written = {name: query for name, query in connection.exec_driver_sql(query) if query}
        assert written.keys() >= {view.name for view in VIEWS}
        restored = [
            f"CREATE OR REPLACE VIEW public.{view.name} WITH (security_barrier='true') AS {written[view.name]}"
            for view in VIEWS
        ]
        assert spoilt(postgres_url, *restored) == []


def test_a_view_that_a_table_has_replaced_is_named(url: str) -> None:
    name = "sync_run" if is_sqlite(url) else "public.sync_run"
    [line] = spoilt(url, "DROP VIEW sync_run", f"CREATE TABLE {name} AS SELECT * FROM run")
    assert line == (
        f"{name} is a table, but should be a view; drop or rename the table, and run: rostersync db upgrade"
    )
    spoilt(url, f"DROP TABLE {name}")
    probe.upgrade(url)
    assert probe.differences(url) == []


def test_a_view_that_reads_a_missing_table_does_not_hide_other_differences(url: str) -> None:
    lines = spoilt(url, "DROP VIEW audit_log", "DROP TABLE audit", "DROP INDEX ix_run_newest")
    told = "\n".join(lines)
    assert "audit_log is missing" in told
    assert "the table audit is missing" in told
    assert "ix_run_newest" in told


def test_a_view_of_ours_in_another_schema_is_left_over(postgres_url: str, clock: ManualClock) -> None:
    Store(postgres_url, clock, create=True).close()
    [line] = spoilt(postgres_url, "CREATE SCHEMA elsewhere", "CREATE VIEW elsewhere.sync_run AS SELECT 1 AS run_id")
    difference, remedy = line.split("; ")
    assert difference.startswith("the view elsewhere.sync_run is no longer used")
    assert repaired(postgres_url, remedy)


def test_the_tables_and_frozen_views_of_an_older_dump_are_named(postgres_url: str, clock: ManualClock) -> None:
    Store(postgres_url, clock, create=True).close()
    old = sorted(own_schema._OF_FIRST)
    dump = [f"CREATE TABLE public.{table} AS TABLE rostersync.{table}" for table in old]
    lines = spoilt(
        postgres_url,
        *dump,
        "DROP VIEW sync_run",
        f"CREATE VIEW public.sync_run AS {next(v.postgresql for v in VIEWS if v.name == 'sync_run')}".replace(
            "FROM run", "FROM public.run"
        ),
    )
    assert [line.split(";")[0] for line in lines] == [
        "the view public.sync_run is defined differently in this version",
        f"an older dump left tables of an earlier version in the schema public: {', '.join(sorted(old))}",
    ]
    probe.upgrade(postgres_url)
    assert repaired(postgres_url, lines[1].split("then: ")[1])
