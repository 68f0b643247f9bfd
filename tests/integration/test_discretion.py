"""Troubles whose texts know too much: what is told of them, and stored, names nobody and gives no secret away.

That no student and no token is in it is found by canary.py, for these tests as for all; here it is given occasions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from canary import EAR
from harness import SOURCE, World
from steps import settled

from rostersync.errors import DatabaseUnreachable, StoreError
from rostersync.report import RunState
from rostersync.store.replica import state as source_states

if TYPE_CHECKING:
    from conftest import ManualClock

NAME = "Zorbella Quindlebrook"
ADDRESS = "zorbella.quindlebrook@example.invalid"


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    return settled(migrated_url, clock)


def change(world: World, *statements: str) -> None:
    with world.store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def times_told_of_keys(world: World) -> list[int]:
    """Have a run made; return the numbers of new keys that it logs."""
    EAR.last.clear()
    world.pass_time(hours=1)
    assert world.full().state is RunState.SUCCEEDED
    return [event["keys"] for event in map(json.loads, EAR.last) if event["event"] == "unknown_keys"]


def test_a_key_that_is_somebodys_address_is_kept_in_extra_and_told_once_by_its_number(world: World) -> None:
    world.school.update(min(world.upstream()), **{ADDRESS: {"bus": 7}, NAME: 1})
    assert times_told_of_keys(world) == [2]
    assert times_told_of_keys(world) == []
    (row,) = world.rows(f"SELECT unknown_keys FROM source WHERE name = '{SOURCE}'")
    assert ADDRESS not in str(row)
    assert any(ADDRESS in student.extra for student in world.replica().values())


def test_of_more_keys_than_anybody_reads_no_more_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_states, "MAX_REPORTED_KEYS", 3)
    keys = iter(range(9))
    told = []
    for _ in range(3):
        world.school.update(min(world.upstream()), **{f"key {next(keys)}": 1})
        told += times_told_of_keys(world)
    assert told == [1]  # beside the two that invented students have anyhow


def test_a_damaged_text_in_an_sqlite_file_is_told_without_it(sqlite_url: str, clock: ManualClock) -> None:
    world = settled(sqlite_url, clock)
    change(world, f"UPDATE student SET content_hash = x'00', first_name = CAST(x'{NAME.encode().hex()}ff' AS TEXT)")
    with pytest.raises(DatabaseUnreachable, match="OperationalError") as caught:
        world.full()
    assert "damaged" in caught.value.hint


def test_what_a_trigger_of_postgresql_says_of_a_row_is_not_repeated(postgres_url: str, clock: ManualClock) -> None:
    world = settled(postgres_url, clock)
    world.school.update(min(world.upstream()), nickname="Nick 1")
    for state in ("42501", "57P05", "P0001"):
        change(
            world,
            f"""CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'not %%', NEW.last_name USING ERRCODE = '{state}'; END $$""",
            "CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON student FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        with pytest.raises(StoreError, match=r"refused|cannot use"):
            world.sync()


def test_a_constraint_of_postgresql_whose_error_quotes_the_row_is_told_without_it(
    postgres_url: str, clock: ManualClock
) -> None:
    world = settled(postgres_url, clock)
    change(world, "ALTER TABLE student ADD CHECK (nickname <> 'Nick 1')")
    world.school.update(min(world.upstream()), nickname="Nick 1")
    with pytest.raises(StoreError, match="refused a statement"):
        world.sync()
