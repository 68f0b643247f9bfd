"""What a user does to ManageBac or the database is recorded in the system's journal, and in the audit log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from roles import roles_on, set_up
from school_site import Site, serve

from rostersync.store import audit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import PostgresServer
    from journal import Journal


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url, 12) as site:
        site.configure(allow_writes="true")
        yield site


def told(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("event", "source", "verb", "ids", "fields", "outcome")
    return [tuple(event[name] for name in names) for event in events]


def update(site: Site, key: int) -> Any:
    return site.run("students", "update", str(key), "--set", "city=Piran", "--yes")


def test_a_write_is_in_the_journal_before_it_is_sent_and_with_its_outcome(site: Site, journal: Journal) -> None:
    site.ok("sync")
    key = min(site.school.truth())
    assert update(site, key).exit_code == 0
    events = journal.events(2)
    assert told(events) == [
        ("audit", "main", "update", [key], ["city"], "sending"),
        ("audit", "main", "update", [key], ["city"], "done"),
    ]
    assert events[0]["who"] == audit.caller().who
    assert "Piran" not in json.dumps(events)
    assert len(site.rows("SELECT * FROM audit_log")) == 1


@pytest.mark.usefixtures("no_journal")
def test_a_write_that_nothing_records_is_not_sent(site: Site) -> None:
    key = min(site.school.truth())
    result = update(site, key)
    assert result.exit_code == 1
    assert "the action cannot be recorded" in result.stderr
    assert not [call for call in site.app.log if call[0] != "GET"]


def test_without_a_database_the_journal_is_enough(site: Site, journal: Journal) -> None:
    key = min(site.school.truth())
    assert update(site, key).exit_code == 0
    assert [event["outcome"] for event in journal.events(2)] == ["sending", "done"]
    assert not site.has_database()


def test_many_writes_are_in_the_journal(site: Site, journal: Journal) -> None:
    keys = sorted(site.school.truth())[:2]
    file = site.folder / "many.csv"
    file.write_text("id,city\n" + "".join(f"{key},Piran\n" for key in keys), encoding="utf-8")
    site.ok("students", "update", "--from-csv", str(file), "--expect", "2", "--yes")
    assert [(event["ids"], event["outcome"]) for event in journal.events(4)] == [
        ([key], outcome) for key in keys for outcome in ("sending", "done")
    ]


def test_an_approval_is_recorded(site: Site, journal: Journal) -> None:
    site.ok("sync")
    for key in sorted(site.school.truth())[:5]:
        site.school.delete(key)
    assert site.run("sync").exit_code == 3
    site.ok("sync", "--approve", "2")
    assert told(journal.events(2)) == [("audit", "main", "approve", [], [], outcome) for outcome in ("sending", "done")]
    ((verb, counts, outcome),) = site.rows("SELECT verb, counts, outcome FROM audit_log")
    assert (verb, json.loads(counts), outcome) == ("approve", {"run": 2, "removals": 5}, "done")


def test_an_approval_that_fails_is_recorded_as_refused(site: Site, journal: Journal) -> None:
    site.ok("sync")
    for key in sorted(site.school.truth())[:5]:
        site.school.delete(key)
    site.run("sync")
    site.environ["ROSTERSYNC_TOKEN"] = "another-token-of-nobody"
    assert site.run("sync", "--approve", "2").exit_code == 1
    assert [event["outcome"] for event in journal.events(2)] == ["sending", "refused"]


def test_a_purge_is_recorded(site: Site, journal: Journal) -> None:
    site.ok("sync")
    site.configure(sources=("other",))
    site.ok("source", "forget", "main", "--yes")
    first, last = journal.events(2)
    assert (first["verb"], first["source"], first["outcome"]) == ("forget", "main", "sending")
    assert last["outcome"] == "done"
    assert "12 student" in last["counts"]
    assert [row.outcome for row in site.rows("SELECT outcome FROM audit_log")] == ["done"]


def test_an_export_is_recorded_with_its_columns_and_how_many_it_had(site: Site, journal: Journal) -> None:
    site.ok("sync")
    site.ok("students", "list", "--csv", "--fields", "id,email")
    last = journal.events(2)[-1]
    assert (last["verb"], last["fields"], last["outcome"]) == ("list-csv", ["id", "email"], "done")
    assert last["counts"] == ["12 students"]
    assert [tuple(row) for row in site.rows("SELECT verb, outcome FROM audit_log")] == [("list-csv", "done")]


@pytest.mark.usefixtures("no_journal")
def test_an_export_that_nothing_records_says_so(site: Site) -> None:
    result = site.run("students", "list", "--csv", "--fields", "id")
    assert result.exit_code == 0
    assert "not recorded" in result.stderr


def test_a_name_in_the_environment_is_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "operator")
    assert audit.caller().who.endswith(" (claimed: sudo by operator)")


def test_a_grant_and_its_end_are_recorded(postgres_server: PostgresServer, tmp_path: Path, journal: Journal) -> None:
    with roles_on(postgres_server, tmp_path) as roles:
        set_up(roles)
        roles.ok("grant-reader", roles.reader, "--view", "sync_health")
        roles.ok("revoke-reader", roles.reader)
        rows = roles.ask("", "SELECT verb, fields, outcome FROM audit_log ORDER BY at")
    assert rows == [
        ("grant-reader", [roles.reader, "sync_health"], "done"),
        ("revoke-reader", [roles.reader], "done"),
    ]
    assert [event["verb"] for event in journal.events(4)] == ["grant-reader"] * 2 + ["revoke-reader"] * 2
