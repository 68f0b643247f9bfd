"""Writes from the command line: refused where they must be, noted, read back, and in the replica at once."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from school_site import Site, serve
from sqlalchemy import make_url

from rostersync.cli.students import carrying_out
from rostersync.simulator import Switches, faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xae\x42\x60\x82"
NEW = ("--set", "email=fizz.marrowgate@example.invalid", "--set", "last_name=Marrowgate")


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url, 12) as site:
        site.configure(allow_writes="true")
        yield site


@pytest.fixture
def quick_site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """For what does not depend on the kind of database."""
    with serve(tmp_path, sqlite_url, 12) as site:
        site.configure(allow_writes="true")
        yield site


def somebody(site: Site) -> int:
    return min(site.school.truth())


def sent(site: Site) -> list[str]:
    """Return the writes that the school has got."""
    return [f"{method} {path}" for method, path, _ in site.app.log if method != "GET"]


def audit(site: Site) -> list[tuple[Any, ...]]:
    rows = site.rows("SELECT verb, ids, fields, outcome FROM audit_log ORDER BY at")
    return [
        (row.verb, *(json.loads(v) if isinstance(v, str) else v for v in (row.ids, row.fields)), row.outcome)
        for row in rows
    ]


def replica(site: Site, key: int) -> Any:
    (row,) = site.rows(f"SELECT * FROM current_student WHERE id = {key}")
    return row


# Done, noted, and in the replica -----------------------------------------------------------------------------------


def test_every_write_is_in_the_replica_at_once_and_in_the_audit_log_by_names_only(site: Site, tmp_path: Path) -> None:
    site.ok("sync")
    before = site.rows("SELECT modified_watermark, deleted_watermark, last_success_at, last_run_id FROM sync_health")
    key = somebody(site)
    picture = tmp_path / "portrait.png"
    picture.write_bytes(PNG)

    created = site.json("students", "create", *NEW, "--yes")
    assert (created["outcome"], created["student"]["last_name"]) == ("done", "Marrowgate")
    assert replica(site, created["id"]).email == "fizz.marrowgate@example.invalid"

    assert site.ok("students", "update", str(key), "--set", "city=Piran", "--clear", "nickname", "--yes") == (
        f"main: student {key}: updated\n"
    )
    assert (replica(site, key).city, replica(site, key).nickname or "") == ("Piran", "")
    site.ok("students", "archive", str(key), "--graduated-on", "2026-06-19", "--yes")
    assert replica(site, key).status == "graduated"
    site.ok("students", "unarchive", str(key), "--yes")
    assert replica(site, key).status == "enrolled"
    site.ok("students", "set-avatar", str(key), "--file", str(picture), "--yes")
    assert replica(site, key).photo_url
    site.ok("students", "delete-avatar", str(key), "--yes")
    assert not replica(site, key).photo_url

    assert audit(site) == [
        ("create", [created["id"]], ["email", "last_name"], "done"),
        ("update", [key], ["city", "nickname"], "done"),
        ("archive", [key], ["graduated_on"], "done"),
        ("unarchive", [key], ["archived"], "done"),
        ("set-avatar", [key], [], "done"),
        ("delete-avatar", [key], [], "done"),
    ]
    (who,) = {
        (row.source, row.who != "", row.host != "") for row in site.rows("SELECT source, who, host FROM audit_log")
    }
    assert who == ("main", True, True)
    assert (
        site.rows("SELECT modified_watermark, deleted_watermark, last_success_at, last_run_id FROM sync_health")
        == before
    )
    assert site.json("sync")["runs"][0]["inserted"] == 0
    assert site.json("verify")["sources"][0]["state"] == "equal"


def test_without_a_database_a_write_is_sent_all_the_same_and_makes_none(site: Site) -> None:
    result = site.run("students", "update", str(somebody(site)), "--set", "city=Piran", "--yes")
    assert result.exit_code == 0
    assert "there is no database yet: only the system's journal has a record of this write" in result.stderr
    assert not site.has_database()
    assert len(sent(site)) == 1


def test_beside_a_full_run_a_write_is_sent_and_told_to_come_and_the_run_brings_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying_out, "PATIENCE", timedelta(seconds=1))
    site.configure('[sync]\ntimeout = "60s"\n', allow_writes="true")
    site.ok("sync")
    key = somebody(site)
    reached, go_on = threading.Event(), threading.Event()

    def wait_once(request: Any) -> None:
        if threading.current_thread() is not main and request.path.endswith("/students") and not reached.is_set():
            reached.set()
            go_on.wait(30)

    main = threading.current_thread()
    site.app.on_request = wait_once
    full = site.start("resync")
    try:
        assert reached.wait(20)
        site.app.on_request = None
        result = site.run("students", "update", str(key), "--set", "city=Piran", "--yes")
        assert result.exit_code == 0, result.output
        assert (
            "the replica will have the change after the next run of main, because another process is syncing it now"
            in result.stderr
        )
        assert replica(site, key).city != "Piran"
    finally:
        go_on.set()
    full.communicate(timeout=30)
    assert full.returncode == 0
    assert replica(site, key).city == "Piran"
    assert [row.kind for row in site.rows("SELECT kind FROM sync_run ORDER BY run_id")] == ["full", "full", "refresh"]


def test_two_writers_at_once_are_both_done_and_both_in_the_replica(site: Site) -> None:
    site.ok("sync")
    first, second = sorted(site.school.truth())[:2]
    writers = [
        site.start("students", "update", str(key), "--set", f"city={city}", "--yes")
        for key, city in ((first, "Piran"), (second, "Ptuj"))
    ]
    for writer in writers:
        writer.communicate(timeout=40)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert (replica(site, first).city, replica(site, second).city) == ("Piran", "Ptuj")
    assert [entry[-1] for entry in audit(site)] == ["done", "done"]


def test_where_no_run_has_read_the_school_yet_the_replica_is_not_made_of_one_student(site: Site) -> None:
    site.ok("db", "upgrade")
    result = site.run("students", "update", str(somebody(site)), "--set", "city=Piran", "--yes")
    assert result.exit_code == 0
    assert "the replica will have the change after the next run of main" in result.stderr
    assert site.rows("SELECT id FROM current_student") == []
    assert [entry[-1] for entry in audit(site)] == ["done"]


# Refused before anything is sent ------------------------------------------------------------------------------------

UPDATE = ("students", "update", "1")
ARCHIVE = ("students", "archive", "1")

WRONG: list[tuple[tuple[str, ...], str]] = [
    ((*UPDATE, "--set", "citty=x"), "citty is not a field; did you mean city?"),
    ((*UPDATE, "--set", "birthday=yesterday"), "birthday must be a date such as 2026-08-24"),
    ((*UPDATE, "--set", "graduating_year=soon"), "graduating_year must be a whole number"),
    ((*UPDATE, "--set", "languages=[1"), "languages must be a list, such as en,sl"),
    ((*UPDATE, "--set", "email=fizz"), "email must be an address with an @"),
    ((*UPDATE, "--set", "status=withdrawn"), "status cannot be written: use archive or unarchive"),
    ((*UPDATE, "--set", "city"), "--set takes KEY=VALUE"),
    ((*UPDATE, "--set", "city=x", "--clear", "city"), "city is both set and cleared"),
    ((*UPDATE, "--clear", "email"), "email cannot be empty"),
    (UPDATE, "there is nothing to change"),
    (("students", "update", "--set", "city=x"), "give an ID, or name a file with --from-csv"),
    (("students", "update", "0", "--set", "city=x"), "'0' is not a whole number from 1"),
    (("students", "update", "fizz", "--set", "city=x"), "'fizz' is not a whole number from 1"),
    (ARCHIVE, "archive needs exactly one of withdrawn_on and graduated_on"),
    ((*ARCHIVE, "--withdrawn-on", "2026-06-19", "--graduated-on", "2026-06-19"), "archive needs exactly one of"),
    ((*ARCHIVE, "--withdrawn-on", "2026-02-30"), "withdrawn_on must be a date such as 2026-08-24"),
    (("students", "create", "--set", "email=fizz@example.invalid"), "last_name is required"),
    (("students", "set-avatar", "1"), "an avatar needs exactly one of url and file"),
    (("students", "set-avatar", "1", "--file", "missing.png"), "file cannot be read: No such file"),
    (("students", "set-avatar", "1", "--url", "portrait.png"), "url must be an address"),
    (("students", "list", "--fields", "id,citty"), "--fields: citty is not a field; did you mean city?"),
    (("students", "list", "--status", "enroled"), "'enroled' is not one of"),
    ((*UPDATE, "--set", "city=x", "--set", "city=y"), "city is set twice"),
    ((*UPDATE, "--set", "citty=x", "--set", "graduating_year=soon"), "graduating_year must be a whole number"),
    ((*UPDATE, "--expect", "3"), "--expect and --result can only be used with --from-csv"),
    ((*UPDATE, "--from-csv", "x.csv"), "--from-csv reads everything from the file"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words[1:]) for words, _ in WRONG])
def test_what_is_wrong_is_one_clear_line_and_nothing_is_sent(
    quick_site: Site, words: tuple[str, ...], message: str
) -> None:
    result = quick_site.run(*words, *(("--yes",) if words[1] != "list" else ()))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(quick_site.app.log) == []


@pytest.mark.parametrize("size", [3, 10 << 20], ids=["no image", "huge"])
def test_a_file_that_is_no_picture_or_too_large_is_not_sent(quick_site: Site, tmp_path: Path, size: int) -> None:
    picture = tmp_path / "portrait.png"
    picture.write_bytes(b"%PDF" if size == 3 else PNG + b"\0" * size)
    result = quick_site.run("students", "set-avatar", "1", "--file", str(picture), "--yes")
    assert result.exit_code == 2
    assert ("is not a PNG" if size == 3 else "is larger than 10 MiB") in result.stderr
    assert list(quick_site.app.log) == []


def test_a_source_is_not_open_for_writes_unless_the_configuration_says_so(quick_site: Site) -> None:
    quick_site.configure()
    result = quick_site.run(*UPDATE, "--set", "city=Piran", "--yes")
    assert result.exit_code == 2
    assert "source main does not allow writes" in result.stderr
    assert f"set allow_writes = true for it in {quick_site.path}" in result.stderr
    assert list(quick_site.app.log) == []


def test_without_a_terminal_a_write_needs_yes(quick_site: Site) -> None:
    result = quick_site.run(*UPDATE, "--set", "city=Piran")
    assert result.exit_code == 2
    assert "without a terminal, a write needs --yes" in result.stderr
    assert list(quick_site.app.log) == []


def test_with_several_sources_one_must_be_named(quick_site: Site) -> None:
    quick_site.configure(sources=("main", "annex"), allow_writes="true")
    result = quick_site.run(*UPDATE, "--set", "city=Piran", "--yes")
    assert result.exit_code == 2
    assert "there are several sources: main, annex" in result.stderr
    key = str(somebody(quick_site))
    assert quick_site.run("students", "unarchive", key, "--source", "annex", "--yes").exit_code == 0


def test_a_dry_run_prints_the_request_without_token_or_password_and_sends_nothing(quick_site: Site) -> None:
    words = ("students", "create", *NEW, "--set", "password=opensesame", "--set", "languages=en,sl", "--dry-run")
    assert quick_site.ok(*words) == (
        f"POST {quick_site.base_url}/v2p1/students\nContent-Type: application/json\n\n"
        '{"student": {"email": "fizz.marrowgate@example.invalid", "last_name": "Marrowgate", "password": "***",'
        ' "languages": ["en", "sl"]}}\n\n'
    )
    assert quick_site.json(*UPDATE, "--clear", "city", "--dry-run") == {
        "requests": [
            {
                "method": "PATCH",
                "url": f"{quick_site.base_url}/v2p1/students/1",
                "content_type": "application/json",
                "body": {"student": {"city": ""}},
            }
        ]
    }
    assert list(quick_site.app.log) == []


def test_fields_may_come_from_a_json_file_and_set_counts_more(quick_site: Site, tmp_path: Path) -> None:
    file = tmp_path / "fields.json"
    file.write_text('{"city": "Ptuj", "parent_ids": [30540001], "birthday": null}')
    words = ("students", "update", "7", "--from-json", str(file), "--set", "city=Piran", "--dry-run")
    (request,) = quick_site.json(*words)["requests"]
    assert request["body"] == {"student": {"city": "Piran", "parent_ids": [30540001], "birthday": None}}
    file.write_text("[1]")
    assert "needs a file with one JSON object" in quick_site.run(*words).stderr


# What the API makes of it -------------------------------------------------------------------------------------------


def test_a_field_that_was_not_taken_is_named_and_fails_the_command(quick_site: Site) -> None:
    quick_site.ok("sync")
    quick_site.school.switches = Switches(ignored_fields=("city",))
    key = somebody(quick_site)
    result = quick_site.run("students", "update", str(key), "--set", "city=Piran", "--set", "state=7", "--yes")
    assert result.exit_code == 1
    assert f"student {key}: ManageBac accepted the write, but did not apply city" in result.stderr
    assert audit(quick_site) == [("update", [key], ["city", "state"], "not_taken")]
    assert replica(quick_site, key).state == "7"


def test_what_the_api_refuses_is_told_field_by_field_and_noted(quick_site: Site) -> None:
    quick_site.ok("sync")
    first, second = sorted(quick_site.school.truth())[:2]
    taken = quick_site.school.truth()[second]["email"]
    result = quick_site.run("students", "update", str(first), "--set", f"email={taken}", "--yes")
    assert result.exit_code == 1
    assert "does not accept email (422" in result.stderr
    assert "email: has already been taken" in result.stderr
    result = quick_site.run("students", "update", "999", "--set", "city=Piran", "--yes")
    assert (result.exit_code, "there is no student 999" in result.stderr) == (1, True)
    assert [entry[-1] for entry in audit(quick_site)] == ["refused", "refused"]


@pytest.mark.parametrize(("status", "message"), [(401, "rejected the token"), (403, "does not let this token change")])
def test_a_token_without_the_permission_is_told_so(quick_site: Site, status: int, message: str) -> None:
    quick_site.faults.add(faults.http_status(status, html=False), faults.on_method("PATCH"))
    result = quick_site.run("students", "update", str(somebody(quick_site)), "--set", "city=Piran", "--yes")
    assert result.exit_code == 1
    assert message in result.stderr


# Lost answers -------------------------------------------------------------------------------------------------------


LOST = {"before": faults.unheard, "after": faults.reset, "half": lambda: faults.cut_off(5)}
"""How the answer to a write is lost: before it was carried out, or after."""


@pytest.mark.parametrize("how", ["before", "after", "half"])
def test_a_lost_answer_of_a_create_never_makes_two_students(quick_site: Site, how: str) -> None:
    quick_site.ok("sync")
    quick_site.faults.add(LOST[how](), faults.on_method("POST"))
    result = quick_site.run("students", "create", *NEW, "--yes")
    done = how != "before"
    assert result.exit_code == (0 if done else 1), result.output
    if not done:
        assert "may or may not have carried out" in result.stderr
        assert "it is safe to try again" in result.stderr
        assert audit(quick_site)[0][-1] == "unknown"
    again = quick_site.run("students", "create", *NEW, "--yes")
    assert again.exit_code == (1 if done else 0), again.output
    named = [row for row in quick_site.school.truth().values() if row["email"].startswith("fizz.marrowgate@")]
    assert len(named) == 1
    assert replica(quick_site, named[0]["id"]).last_name == "Marrowgate"


@pytest.mark.parametrize("how", ["before", "after", "half"])
def test_a_lost_answer_of_an_update_is_settled_by_reading_the_student(quick_site: Site, how: str) -> None:
    quick_site.ok("sync")
    key = somebody(quick_site)
    quick_site.faults.add(LOST[how](), faults.on_method("PATCH"))
    result = quick_site.run("students", "update", str(key), "--set", "city=Piran", "--yes")
    assert result.exit_code == (1 if how == "before" else 0)
    assert len(sent(quick_site)) == 1
    if how == "before":
        assert f"look at student {key} before you try again" in result.stderr
    assert audit(quick_site)[0][-1] == ("unknown" if how == "before" else "done")


def test_what_no_record_shows_is_not_said_to_be_done_when_its_answer_was_lost(quick_site: Site, tmp_path: Path) -> None:
    quick_site.ok("sync")
    key = str(somebody(quick_site))
    file = tmp_path / "fields.json"
    file.write_text('{"password": "opensesame"}')
    for words in (("update", key, "--from-json", str(file)), ("delete-avatar", key)):
        quick_site.faults.add(faults.unheard(), faults.on_write)
        result = quick_site.run("students", *words, "--yes")
        assert (result.exit_code, "it is safe to send it again" in result.stderr) == (1, True)
    assert [entry[-1] for entry in audit(quick_site)] == ["unknown", "unknown"]


def test_a_date_from_an_earlier_archiving_does_not_show_that_a_student_is_archived(quick_site: Site) -> None:
    quick_site.ok("sync")
    key = somebody(quick_site)
    quick_site.school.update(key, graduated_on="2026-06-19", archived=False)
    quick_site.faults.add(faults.unheard(), faults.on_write)
    words = ("students", "archive", str(key), "--graduated-on", "2026-06-19", "--yes")
    assert quick_site.run(*words).exit_code == 1
    assert quick_site.run(*words).exit_code == 0
    assert quick_site.school.truth()[key]["archived"]


def test_a_write_that_was_sent_is_told_also_where_the_audit_log_cannot_be_completed(quick_site: Site) -> None:
    quick_site.ok("sync")
    database = make_url(quick_site.database_url).database or ""

    def drop(request: Any) -> None:
        if request.method == "PATCH":
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("DROP VIEW audit_log")
                connection.execute("DROP TABLE audit")

    quick_site.app.on_request = drop
    key = somebody(quick_site)
    result = quick_site.run("students", "update", str(key), "--set", "city=Piran", "--yes")
    assert f"student {key}: updated" in result.stdout
    assert "entry 1 of the audit log could not be completed" in result.stderr


def test_a_write_is_not_sent_where_the_audit_log_cannot_be_kept(quick_site: Site) -> None:
    quick_site.ok("sync")
    with closing(sqlite3.connect(make_url(quick_site.database_url).database or "")) as database:
        database.execute("DROP VIEW audit_log")
        database.execute("DROP TABLE audit")
    result = quick_site.run("students", "update", str(somebody(quick_site)), "--set", "city=Piran", "--yes")
    assert (result.exit_code, "Traceback" in result.stderr) == (1, False)
    assert sent(quick_site) == []
