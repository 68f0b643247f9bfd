"""The audit log keeps who wrote what, when, and how it ended, and no value of any field."""

from __future__ import annotations

import json
import os
import pwd
import socket
from typing import TYPE_CHECKING, Any

import pytest
from conftest import see_views
from harness import SOURCE, World
from sqlalchemy import inspect, text

from rostersync.clock import to_text
from rostersync.store import audit
from rostersync.store.audit import Entry, Outcome
from rostersync.store.forget import forget
from rostersync.store.store import Store

if TYPE_CHECKING:
    from conftest import ManualClock

COLUMNS = ["source", "at", "who", "host", "verb", "ids", "fields", "counts", "outcome"]
"""What reporting tools rely on."""


@pytest.fixture
def store(migrated_url: str, clock: ManualClock) -> Store:
    return Store(migrated_url, clock)


def begin(store: Store, *ids: int, source: str = SOURCE, fields: tuple[str, ...] = ("city",)) -> int:
    with store.writing() as connection:
        entry = Entry(source, "update", ids, fields)
        return audit.begin(connection, entry, who="operator", host="desk.invalid", now=store.clock.now())


def finish(store: Store, audit_id: int, outcome: Outcome, *ids: int) -> None:
    with store.writing() as connection:
        audit.finish(connection, audit_id, outcome, Entry(SOURCE, "update", ids))


def log(store: Store) -> list[dict[str, Any]]:
    """Return the view's rows, its JSON read, in the order in which they were begun."""
    with store.reading() as connection, connection.begin():
        see_views(connection)
        rows = connection.execute(text("SELECT * FROM audit_log ORDER BY at")).mappings().all()
    as_json = ("ids", "fields", "counts")
    return [
        {
            name: json.loads(value) if name in as_json and isinstance(value, str) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def test_a_write_is_on_record_before_it_is_sent_and_its_outcome_afterwards(store: Store, clock: ManualClock) -> None:
    number = begin(store, 2054, fields=("city", "nickname"))
    (row,) = log(store)
    at = row.pop("at")
    assert (at if isinstance(at, str) else to_text(at)) == to_text(clock.now())
    assert row == {
        "source": SOURCE,
        "who": "operator",
        "host": "desk.invalid",
        "verb": "update",
        "ids": [2054],
        "fields": ["city", "nickname"],
        "counts": {},
        "outcome": "sending",
    }
    finish(store, number, Outcome.DONE, 2054)
    assert [(row["ids"], row["outcome"]) for row in log(store)] == [([2054], "done")]


def test_a_student_who_was_created_is_named_afterwards(store: Store) -> None:
    finish(store, begin(store), Outcome.NOT_TAKEN, 10_342_450_537)
    assert [(row["ids"], row["outcome"]) for row in log(store)] == [([10_342_450_537], "not_taken")]


def test_the_outcome_of_one_write_is_not_that_of_another(store: Store, clock: ManualClock) -> None:
    first = begin(store, 1)
    clock.advance(1)
    begin(store, 2)
    finish(store, first, Outcome.REFUSED, 1)
    assert [row["outcome"] for row in log(store)] == ["refused", "sending"]


def test_the_view_has_the_columns_of_the_contract(store: Store) -> None:
    with store.reading() as connection, connection.begin():
        see_views(connection)
        assert list(connection.execute(text("SELECT * FROM audit_log")).keys()) == COLUMNS


def test_postgresql_describes_each_column_of_the_view(postgres_url: str, clock: ManualClock) -> None:
    with Store(postgres_url, clock, create=True).reading() as connection:
        assert all(column["comment"] for column in inspect(connection).get_columns("audit_log", schema="public"))


def test_the_log_outlives_the_source(migrated_url: str, clock: ManualClock) -> None:
    world = World(migrated_url, clock)
    world.sync()
    begin(world.store, 2054)
    with world.store.lease(SOURCE, "test") as lease:
        forget(lease)
    assert [row["source"] for row in log(world.store)] == [SOURCE]


def test_a_write_can_be_logged_for_a_source_that_was_never_synced(store: Store) -> None:
    begin(store, 2054, source="elsewhere")
    assert [row["source"] for row in log(store)] == ["elsewhere"]


# Who it was ------------------------------------------------------------------------------------------------------


def test_the_caller_is_the_account_of_the_process_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("USER", "somebody-else")  # it says what its user likes
    assert audit.caller() == (pwd.getpwuid(os.getuid()).pw_name, socket.gethostname())


def test_whoever_uses_sudo_is_named_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "operator")
    assert audit.caller().who == f"{pwd.getpwuid(os.getuid()).pw_name} (claimed: sudo by operator)"


def test_an_account_without_a_name_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999)
    assert audit.caller().who == "uid 3999999"
