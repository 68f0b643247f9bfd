"""Nothing grows with time: head counts are kept, and no query passes over the runs and requests of years."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from earlier import back_to
from harness import SOURCE, World
from sqlalchemy import event, text
from steps import GUARD_AT_FIVE, delete, settled
from test_schema import tables_of

from rostersync.report import RunKind, RunRequest, RunState
from rostersync.simulator import faults as make
from rostersync.store import forget, probe
from rostersync.store.queue import requests
from rostersync.store.replica.state import live_students, recent_removals
from rostersync.store.schema.tables import run, run_request, student
from rostersync.store.status import health
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock
    from sqlalchemy import Connection, Engine, Table

OLD = 5_000
"""So many old runs and requests, and the planner of either database prefers an index to all of them."""


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock, size=40, policy=GUARD_AT_FIVE)


# Head counts -----------------------------------------------------------------------------------------------------


def require_head_count(world: World) -> list[int]:
    kept, counted = world.head_count()
    assert kept == counted
    return kept


def test_the_head_count_is_that_of_the_rows_after_each_kind_of_run(world: World) -> None:
    living, enrolled, deleted = require_head_count(world)
    assert (living, deleted) == (40, 0)
    first, second, third = sorted(world.upstream())[-3:]
    world.school.archive(first, withdrawn_on="2026-03-02")
    world.school.update(second, nickname="Changed")
    world.school.create()
    world.pass_time(minutes=5)
    assert world.sync().kind is RunKind.INCREMENTAL
    after = require_head_count(world)
    assert (after[0], after[2]) == (living + 1, 0)
    assert abs(after[1] - enrolled) <= 1
    world.school.delete(third)
    world.pass_time(minutes=5)
    assert world.sync().counts.deleted == 1
    assert require_head_count(world)[2] == 1
    world.school.restore(third)
    world.school.unarchive(first)
    world.pass_time(minutes=5)
    assert world.sync().counts.restored == 1
    assert require_head_count(world)[2] == 0
    world.pass_time(minutes=5)
    assert world.full().state is RunState.SUCCEEDED
    assert require_head_count(world)[0] == living + 1


def test_the_head_count_follows_each_status(world: World) -> None:
    key = next(key for key, row in sorted(world.upstream().items()) if row.status == "enrolled")
    before = require_head_count(world)
    world.school.archive(key, withdrawn_on="2026-03-02")
    world.pass_time(minutes=5)
    world.sync()
    assert require_head_count(world) == [before[0], before[1] - 1, before[2]]
    world.school.delete(key)
    world.pass_time(minutes=5)
    world.sync()
    assert require_head_count(world) == [before[0] - 1, before[1] - 1, 1]


def test_the_head_count_is_that_of_the_rows_after_a_hold_and_its_approval(world: World) -> None:
    delete(world, 6)
    world.school.create()
    held = world.sync()
    assert held.state is RunState.HELD
    assert require_head_count(world)[::2] == [41, 0]
    assert world.sync(held.kind, approves=held.run_id).counts.deleted == 6
    assert require_head_count(world)[::2] == [35, 6]


def test_the_head_count_is_that_of_the_rows_after_a_refresh_and_a_failed_run_and_a_dry_run(world: World) -> None:
    before = require_head_count(world)
    created = world.school.create()
    assert world.dry_run().counts.inserted == 1
    assert require_head_count(world) == before
    assert world.executor().refresh(SOURCE, [created], world.policy.overlap, world.scope) is not None
    assert require_head_count(world)[0] == before[0] + 1
    world.app.faults.add(make.http_status(502), times=None)
    assert world.sync().state is RunState.FAILED
    assert require_head_count(world)[0] == before[0] + 1


def test_the_head_count_of_a_neighbour_outlives_a_forgotten_source(world: World) -> None:
    neighbour = World(world.url, world.clock, seed=2, store=world.store, source="neighbour")
    neighbour.sync()
    with world.store.lease(SOURCE, "test") as lease:
        forget.forget(lease)
    assert require_head_count(neighbour)[0] == 12
    assert world.sync().counts.inserted == 40
    assert require_head_count(world)[0] == 40


def test_the_guard_and_the_view_have_the_number_of_students_from_the_head_count(world: World) -> None:
    with world.store.writing() as connection:
        connection.execute(text("UPDATE source SET living = 77, deleted = 7"))
    with world.store.reading() as connection:
        assert live_students(connection, SOURCE) == 77
        assert live_students(connection, "nowhere") == 0
        (row,) = health(connection)
    assert (row.live_students, row.deleted_students) == (77, 7)


def test_a_wrong_head_count_is_found_and_a_full_run_repairs_it(world: World) -> None:
    assert probe.miscounted(world.url) == []
    (kept, _) = world.head_count()
    with world.store.writing() as connection:
        connection.execute(text("UPDATE source SET enrolled = enrolled + 1"))
    rows = f"{kept[0]} living, {kept[1]} enrolled, {kept[2]} deleted"
    wrong = f"{kept[0]} living, {kept[1] + 1} enrolled, {kept[2]} deleted"
    assert probe.miscounted(world.url) == [f"the head count of source {SOURCE} is {wrong}, but its rows are {rows}"]
    world.sync()
    assert probe.miscounted(world.url) != []
    world.full()
    assert probe.miscounted(world.url) == []


def test_a_run_that_writes_no_student_does_not_count_them(world: World) -> None:
    world.sync()
    world.pass_time(minutes=5)
    with statements(world.store.engine) as made:
        assert world.sync().kind is RunKind.INCREMENTAL
    assert not [statement for statement, _ in made if "AS enrolled" in statement]


def test_a_run_that_writes_a_student_counts_none_of_the_others(world: World) -> None:
    copy_rows(world, student, {"id": "id + 100000 * i"})
    world.school.update(min(world.upstream()), nickname="Changed")
    world.pass_time(minutes=5)
    with statements(world.store.engine, student.name) as made:
        assert world.sync().counts.updated == 1
    counted = [found for statement, found in made if "AS enrolled" in statement]
    assert [len(found) for found in counted] == [1, 1]
    assert all(re.search(r"pk_student|sqlite_autoindex_student_1", access) for found in counted for access in found)


# An upgrade ------------------------------------------------------------------------------------------------------


def test_an_upgrade_counts_the_students_and_leaves_the_tables_of_a_new_database(world: World) -> None:
    world.school.archive(max(world.upstream()), withdrawn_on="2026-03-02")
    delete(world, 2)
    world.sync()
    neighbour = World(world.url, world.clock, seed=2, store=world.store, source="neighbour")
    neighbour.sync()
    expected, content = [require_head_count(world), require_head_count(neighbour)], world.snapshot()
    with world.store.reading() as connection, connection.begin():
        tables = tables_of(connection)
    with world.store.writing() as connection:
        insert = "INSERT INTO source (name, fence, deleted_feed_ignored, unknown_keys) VALUES ('empty', 1, FALSE, '[]')"
        connection.execute(text(insert))
        for statement in back_to("0008", connection.dialect.name):
            connection.execute(text(statement))
    world.store = neighbour.store = Store(world.url, world.clock, create=True, auto_upgrade=True)
    assert [require_head_count(world), require_head_count(neighbour)] == expected
    assert world.rows("SELECT living, enrolled, deleted FROM source WHERE name = 'empty'") == [
        {"living": 0, "enrolled": 0, "deleted": 0}
    ]
    assert world.snapshot() | {"watermarks": []} == content | {"watermarks": []}
    assert probe.differences(world.url) == probe.miscounted(world.url) == []
    with world.store.reading() as connection, connection.begin():
        assert tables_of(connection) == tables


def test_only_sqlite_looks_up_the_source_of_each_row_of_a_student(world: World) -> None:
    with world.store.reading() as connection, connection.begin():
        tables = tables_of(connection)
    checked = {name for name, table in tables.items() if table["references"]}
    others = {"run", "held_removal", "run_request", "quarantine"}
    students = {"student", "student_version", "student_detail"} if connection.dialect.name == "sqlite" else set()
    assert checked == others | students


# Plans -----------------------------------------------------------------------------------------------------------


@contextmanager
def statements(engine: Engine, *tables: str) -> Iterator[list[tuple[str, list[str]]]]:
    """Collect the statements that are executed, each with the ways by which it comes to rows of some tables."""
    tables = tables or (run.name, run_request.name)
    made: list[tuple[str, list[str]]] = []

    def explain(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", statement):
            one = parameters[0] if isinstance(parameters, list) else parameters
            made.append((statement, accesses(connection, statement, one, tables)))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield made
    finally:
        event.remove(engine, "before_cursor_execute", explain)


def accesses(connection: Connection, statement: str, parameters: Any, tables: tuple[str, ...]) -> list[str]:
    """Return the ways by which a statement comes to rows of `tables`, as its planner says."""
    cursor = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        details = [row[3] for row in cursor.fetchall()]
        return [detail for detail in details if re.match(rf"(SCAN|SEARCH) (r|{'|'.join(tables)})\b", detail)]
    cursor.execute(f"EXPLAIN (FORMAT JSON, ANALYZE {statement.lstrip().startswith('SELECT')}) {statement}", parameters)
    return list(scans(cursor.fetchone()[0][0]["Plan"], tables))


def scans(node: dict[str, Any], tables: tuple[str, ...]) -> Iterator[str]:
    kind, index = node["Node Type"], node.get("Index Name", "")
    if node.get("Relation Name") in tables and kind not in {"ModifyTable", "Bitmap Heap Scan"}:
        skipped = f", skipping {n}" if (n := node.get("Rows Removed by Filter", 0)) else ""
        yield f"{kind} {index} {node.get('Index Cond')}{skipped}"
    if kind == "Bitmap Index Scan" and re.match(rf"(ix|pk)_({'|'.join(tables)})", index):
        yield f"{kind} {index} {node.get('Index Cond')}"
    for child in node.get("Plans", ()):
        yield from scans(child, tables)


def passes_over_all(access: str) -> bool:
    """Return whether an access is to rows without bounds: by no partial index, and not by the number of a row."""
    if re.search(r"ix_run_(newest|success|open_plan|guarded|request_open)\b", access):
        return "skipping" in access
    by_number = r"^SEARCH \w+ USING INTEGER PRIMARY KEY \(rowid=\?\)|pk_run(_request)? \((run|request)_id = "
    return not re.search(by_number, access)


def fill(world: World) -> None:
    """Let the source look back on many runs that failed, on a refresh behind each, and on their requests."""
    kind = "CASE i & 1 WHEN 0 THEN 'incremental' ELSE 'refresh' END"
    copy_rows(world, run, {"kind": kind, "state": "'failed'", "guarded": "0", "run_id": "run_id + i"})
    copy_rows(world, run_request, {"state": "'done'", "request_id": "request_id + i"})


def copy_rows(world: World, table: Table, changes: dict[str, str]) -> None:
    """Copy the first row of a table `OLD` times; `changes` are expressions by column, with the copy's number `i`."""
    key = list(table.primary_key.columns)[-1].name
    names = [column.name for column in table.columns]
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(changes.get(name, f'"{name}"') for name in names)
    with world.store.writing() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({columns})"
            f" WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OLD})"
            f" SELECT {values} FROM {table.name}, n WHERE {key} = (SELECT min({key}) FROM {table.name})"
        )
        if connection.dialect.name == "postgresql":
            if len(table.primary_key.columns) == 1:
                connection.exec_driver_sql(f"SELECT setval('{table.name}_{key}_seq', {OLD} + 1)")
            connection.exec_driver_sql(f"ANALYZE {table.name}")


@pytest.fixture
def old_world(world: World) -> World:
    fill(world)
    return world


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_sqlite_takes_as_many_steps_for_status_after_years_as_before(world: World) -> None:
    """Its plan does not say how many rows of an index it passes over; PostgreSQL's does."""
    before = steps_of_status(world)
    fill(world)
    assert steps_of_status(world) <= 1.1 * before


def steps_of_status(world: World) -> int:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    with world.store.reading() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(step, 1)
        health(connection)
        requests.open_requests(connection, world.clock.now())
    return steps


def test_status_and_a_waiting_daemon_pass_over_no_old_run_and_no_old_request(old_world: World) -> None:
    with old_world.store.reading() as connection, statements(old_world.store.engine) as made:
        (row,) = health(connection)
        requests.open_requests(connection, old_world.clock.now())
        recent_removals(connection, SOURCE, old_world.clock.now())
    require_bounded(made)
    # The newest run that counts is one of the failed ones, and the newest success is the very first.
    assert row.last_state == "failed"
    assert (row.last_run_id or 0) > OLD
    assert row.last_success_at == old_world.reports[0].finished_at


def test_a_request_is_filed_and_joined_and_taken_without_passing_over_the_old_ones(old_world: World) -> None:
    now = old_world.clock.now()
    with statements(old_world.store.engine) as made, old_world.store.lease(SOURCE, "test") as lease:
        for _ in range(2):
            with old_world.store.writing() as connection:
                number = requests.file(connection, RunRequest(SOURCE, RunKind.FULL), now)
        taken = requests.take(lease, now, number)
        assert taken is not None
        assert requests.take(lease, now, number, refresh=True) is None
    require_bounded(made)


def test_a_run_passes_over_no_old_run(old_world: World) -> None:
    gone = delete(old_world, 6)
    with statements(old_world.store.engine) as made:
        held = old_world.sync()
        assert held.state is RunState.HELD
        assert runs_open(old_world) == [held.run_id]
        old_world.pass_time(minutes=5)
        assert old_world.sync(held.kind, approves=held.run_id).counts.deleted == len(gone)
        old_world.pass_time(minutes=5)
        assert old_world.full().state is RunState.SUCCEEDED
        old_world.pass_time(minutes=5)
        assert old_world.sync().state is RunState.SUCCEEDED
    require_bounded(made)


def runs_open(world: World) -> list[int | None]:
    with world.store.reading() as connection:
        return [row.held_run_id for row in health(connection)]


def require_bounded(made: list[tuple[str, list[str]]]) -> None:
    assert any(found for _, found in made)
    unbounded = [(list(filter(passes_over_all, found)), statement) for statement, found in made]
    assert [(found, statement) for found, statement in unbounded if found] == []
