"""A file made by `students list --csv` can be edited and sent back: only what was edited is sent."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from school_site import Site, serve

from rostersync.simulator import Switches, faults
from rostersync.writing import single

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Rows = list[dict[str, str]]


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url, 40) as site:
        site.configure(allow_writes="true")
        yield site
        (tmp_path / "roster.csv").unlink(missing_ok=True)  # it holds students, which no other file may


def exported(site: Site, *words: str) -> Rows:
    return list(csv.DictReader(io.StringIO(site.ok("students", "list", "--csv", *words))))


def saved(site: Site, rows: Rows) -> tuple[str, ...]:
    """Write the rows to a file; return the command that sends it back."""
    path = site.folder / "roster.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return ("students", "update", "--from-csv", str(path), "--expect", str(len(rows)), "--yes")


def writes(site: Site) -> list[str]:
    return [path for method, path, _ in site.app.log if method != "GET"]


def row_of(rows: Rows, name: str = "city") -> dict[str, str]:
    """Return the first row with a value in this column."""
    return next(row for row in rows if row[name])


# Unchanged and edited cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--raw",)], ids=["guarded", "raw"])
def test_a_file_that_nobody_edited_is_unchanged_line_by_line(site: Site, form: tuple[str, ...]) -> None:
    keys = sorted(site.school.truth())
    site.school.update(keys[0], street_address="1 Road\nBack door", nickname="=1", city=" Piran ")
    site.school.update(keys[1], nickname="'=1", phone_number="+000 555 0101")
    site.school.archive(keys[2], withdrawn_on="2026-06-19")
    rows = exported(site, *form)
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 40}
    assert writes(site) == []


def test_only_the_edited_cells_are_sent(site: Site) -> None:
    rows = exported(site)
    row = row_of(rows, "phone_number")
    row["city"] = "  Piran "
    words = saved(site, rows)
    (request,) = site.json(*words, "--dry-run")["requests"]
    assert request["body"] == {"student": {"city": "Piran"}}
    assert site.json(*words)["counts"] == {"unchanged": 39, "done": 1}
    assert writes(site) == [f"/v2p1/students/{row['id']}"]
    assert site.school.truth()[int(row["id"])]["city"] == "Piran"


def test_an_emptied_cell_leaves_its_field_as_it_is(site: Site) -> None:
    rows = exported(site)
    row_of(rows)["city"] = ""
    row_of(rows, "created_at")["created_at"] = ""
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 40}


def test_a_value_that_would_be_a_mistake_is_none_in_a_cell_that_nobody_edited(site: Site) -> None:
    key = min(site.school.truth())
    site.school.update(key, email="nobody", homeroom_advisor_id=0)
    rows = exported(site)
    next(row for row in rows if row["id"] == str(key))["city"] = "Piran"
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 39, "done": 1}


def test_a_list_in_another_order_and_a_boolean_in_capitals_are_unchanged(site: Site) -> None:
    key = min(site.school.truth())
    site.school.update(key, languages=["en", "sl"])
    rows = exported(site, "--id", str(key))
    rows[0] |= {"languages": "sl,en", "archived": rows[0]["archived"].upper()}
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 1}


# Read-only columns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("archived", "true", "use archive or unarchive"),
        ("status", "graduated", "use archive or unarchive"),
        ("graduated_on", "2026-06-19", "use archive or unarchive"),
        ("role", "Teacher", "set by ManageBac itself"),
        ("account_uid", "1", "set by ManageBac itself"),
        ("created_at", "2020-01-01T00:00:00.000Z", "set by ManageBac itself"),
        ("updated_at", "2999-01-01T00:00:00.000Z", "set by ManageBac itself"),
        ("updated_at", "yesterday", "set by ManageBac itself"),
        ("last_accessed_at", "2999-01-01T00:00:00.000Z", "set by ManageBac itself"),
        ("photo_url", "https://example.org/me.png", "use set_avatar or delete_avatar"),
        ("extra", '{"house": "Yellow"}', "rostersync does not know these fields"),
        ("deleted_at", "2026-06-19T00:00:00.000Z", "set by ManageBac itself"),
    ],
)
def test_an_edited_read_only_cell_is_an_error_by_line_and_nothing_is_sent(
    site: Site, name: str, text: str, why: str
) -> None:
    rows = exported(site, "--no-archived")
    rows[1]["city"] = "Piran"
    rows[2][name] = text
    result = site.run(*saved(site, rows))
    assert result.exit_code == 2
    assert f"roster.csv: line 4: {name} differs from ManageBac, and cannot be written: {why}\n" in result.stderr
    assert "hint: nothing was sent" in result.stderr
    assert writes(site) == []


def test_what_changes_by_itself_after_the_export_is_no_error(site: Site) -> None:
    site.school.switches = Switches(login_bumps=False)
    keys = sorted(site.school.truth())
    site.school.update(
        keys[0], last_accessed_at="2026-03-01T08:00:00.000Z", photo_url="https://files.example.invalid/1?signature=1"
    )
    rows = exported(site)
    site.school.update(
        keys[0], last_accessed_at="2026-03-02T08:00:00.000Z", photo_url="https://files.example.invalid/1?signature=2"
    )
    site.school.set_photo(keys[1], "https://files.example.invalid/another.png")
    next(row for row in rows if row["id"] == str(keys[0]))["city"] = "Piran"
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 39, "done": 1}


def test_a_student_who_changed_after_the_export_is_warned_of_if_a_line_changes_them(site: Site) -> None:
    rows = exported(site)
    row = row_of(rows)
    row["updated_at"] = "2020-01-01T00:00:00.000Z"
    site.school.update(int(row["id"]), city="Ptuj")
    result = site.run(*saved(site, rows), "--dry-run")
    assert "1 line is older than its student's record in ManageBac" in result.stderr


# Fields that only one of the list and GET serves --------------------------------------------------------------------


def test_a_field_that_the_list_omits_is_confirmed_by_get(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "LOOKS", 1)
    site.school.switches = Switches(lists_omit=("city",))
    rows = exported(site)
    rows[0]["city"] = "Piran"
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 39, "done": 1}
    site.school.switches = Switches(lists_omit=("city",), ignored_fields=("city",))
    rows[0]["city"] = "Ptuj"
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 39, "not_taken": 1}


def test_a_student_whom_get_does_not_serve_changes_no_other_result(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "LOOKS", 2)
    site.school.switches = Switches(lists_omit=("city",))
    rows = exported(site)
    for row in rows[:2]:
        row["city"] = "Piran"
    site.faults.add(faults.http_status(404), faults.on_student(int(rows[1]["id"])), times=None)
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 38, "done": 1, "not_taken": 1}


def test_a_field_that_get_omits_is_confirmed_by_the_list_after_a_single_write(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "LOOKS", 1)
    site.school.switches = Switches(get_omits=("city",))
    words = ("students", "update", str(min(site.school.truth())), "--yes", "--set")
    assert site.json(*words, "city=Piran")["outcome"] == "done"
    site.school.switches = Switches(get_omits=("city",), ignored_fields=("city",))
    assert site.json(*words, "city=Ptuj")["outcome"] == "not_taken"


# Passwords and e-mail addresses -------------------------------------------------------------------------------------


def test_a_bulk_update_of_email_or_password_needs_allow_column(site: Site) -> None:
    rows = exported(site)
    for row in rows[:3]:
        row["email"] = f"new.{row['email']}"
    words = saved(site, [row | {"password": "opensesame" if n < 2 else ""} for n, row in enumerate(rows)])
    result = site.run(*words)
    assert result.exit_code == 2
    assert "column email: 3 lines would change it, which needs --allow-column email" in result.stderr
    assert "column password: 2 lines would change it, which needs --allow-column password" in result.stderr
    assert "hint: nothing was sent" in result.stderr
    assert site.run(*words, "--allow-column", "email").exit_code == 2
    assert writes(site) == []
    both = ("--allow-column", "email", "--allow-column", "password")
    assert site.json(*words, *both)["counts"] == {"unchanged": 37, "done": 3}


def test_an_email_that_stays_needs_no_permission_whatever_its_case(site: Site) -> None:
    rows = exported(site)
    rows[0] |= {"email": rows[0]["email"].upper(), "city": "Piran"}
    assert site.json(*saved(site, rows))["counts"] == {"unchanged": 39, "done": 1}


def test_allow_column_goes_with_a_file_and_knows_two_names(site: Site) -> None:
    one = ("students", "update", "20540001", "--set", "city=Piran", "--yes")
    assert "--allow-column can only be used with --from-csv" in site.run(*one, "--allow-column", "email").stderr
    assert site.run(*saved(site, exported(site)), "--allow-column", "city").exit_code == 2


# Deleted students ---------------------------------------------------------------------------------------------------


def test_the_table_and_the_csv_of_deleted_students_show_when_they_were_deleted(site: Site) -> None:
    site.school.switches = Switches(deleted_feed="full_deleted_at")
    gone = min(site.school.truth())
    site.school.delete(gone)
    (row,) = exported(site, "--deleted-since", "2026-01-01")
    assert row["deleted_at"].endswith("Z")
    header, line = site.ok("students", "list", "--deleted-since", "2026-01-01").splitlines()
    assert (header.split()[-1], line.split()[-1]) == ("deleted_at", row["deleted_at"])
    assert "deleted_at" not in site.ok("students", "list").splitlines()[0]
    assert site.ok("students", "list", "--csv").splitlines()[0].endswith(",extra,deleted_at")
    listed = json.loads(site.ok("students", "list", "--deleted-since", "2026-01-01", "--json"))["students"]
    assert listed[0]["deleted_at"] == row["deleted_at"]
