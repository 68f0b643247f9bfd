"""Many writes from one CSV: checked whole, counted, told line by line, and safe to be run again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from many_lines import results, written
from school_site import Site, serve

from rostersync.simulator import Switches, faults
from rostersync.writing import single

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with serve(tmp_path, database_url, 120) as site:
        site.configure(allow_writes="true")
        yield site


@pytest.fixture
def quick_site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """For what does not depend on the kind of database."""
    with serve(tmp_path, sqlite_url, 120) as site:
        site.configure(allow_writes="true")
        yield site


def writes(site: Site) -> list[str]:
    return [path for method, path, _ in site.app.log if method != "GET"]


def somebody(site: Site, number: int) -> list[int]:
    return sorted(site.school.truth())[:number]


# Done ---------------------------------------------------------------------------------------------------------------


def test_a_csv_archives_everybody_it_lists_and_the_replica_and_the_audit_log_have_them(site: Site) -> None:
    site.ok("sync")
    keys = somebody(site, 40)
    file = written(site, "id,withdrawn_on,graduated_on", *(f"{key},,2026-06-19" for key in keys))
    site.app.log.clear()
    said = site.ok("students", "archive", "--from-csv", file, "--expect", "40", "--yes")
    assert said == f"main: 40 done; the result of each line is in {site.folder / 'many.result.csv'}\n"
    assert len(writes(site)) == len(set(writes(site))) == 40
    assert [(int(row["id"]), row["outcome"]) for row in results(site)] == [(key, "done") for key in keys]
    graduates = site.rows("SELECT id FROM current_student WHERE status = 'graduated' AND graduated_on IS NOT NULL")
    assert set(keys) <= {row.id for row in graduates}
    assert len(site.rows("SELECT 1 FROM audit_log WHERE verb = 'archive' AND outcome = 'done'")) == 40


def test_run_again_it_leaves_alone_those_who_are_as_asked_and_asks_the_list_for_them(quick_site: Site) -> None:
    keys = somebody(quick_site, 5)
    file = written(quick_site, "id;city;nickname", *(f"{key};Piran;" for key in keys))
    assert quick_site.json("students", "update", "--from-csv", file, "--yes")["counts"] == {"done": 5}
    quick_site.school.update(keys[2], city="Ptuj")
    quick_site.app.log.clear()
    assert quick_site.json("students", "update", "--from-csv", file, "--yes")["counts"] == {"unchanged": 4, "done": 1}
    assert writes(quick_site) == [f"/v2p1/students/{keys[2]}"]
    assert not [path for method, path, _ in quick_site.app.log if method == "GET" and not path.endswith("/students")]


@pytest.mark.parametrize(
    "switches", [Switches(ids_filter="ignored"), Switches(per_page_cap=50)], ids=["ignored", "cap"]
)
def test_a_server_that_treats_the_filter_by_ids_in_its_own_way_makes_no_difference(
    quick_site: Site, switches: Switches
) -> None:
    quick_site.school.switches = switches
    keys = somebody(quick_site, 60)
    file = written(quick_site, "id,city", *(f"{key},Piran" for key in keys))
    assert quick_site.json("students", "update", "--from-csv", file, "--expect", "60", "--yes")["counts"] == {
        "done": 60
    }
    assert quick_site.json("students", "update", "--from-csv", file, "--expect", "60", "--yes")["counts"] == {
        "unchanged": 60
    }


def test_an_empty_cell_leaves_its_field_as_it_is(quick_site: Site) -> None:
    (key,) = somebody(quick_site, 1)
    before = quick_site.school.truth()[key]
    file = written(quick_site, "id,city,first_name", f"{key},Piran,")
    quick_site.ok("students", "update", "--from-csv", file, "--yes")
    assert quick_site.school.truth()[key]["first_name"] == before["first_name"]


def test_a_line_that_the_api_refuses_does_not_keep_the_others_from_being_sent(quick_site: Site) -> None:
    first, second = somebody(quick_site, 2)
    file = written(quick_site, "id,parent_ids", f"{first},7", "999,30540001", f"{second},30540001")
    result = quick_site.run("students", "update", "--from-csv", file, "--yes")
    assert result.exit_code == 1
    assert [row["outcome"] for row in results(quick_site)] == ["refused", "refused", "done"]
    assert f"line 2: student {first}: refused: " in result.stderr
    assert "line 3: student 999: refused: there is no student 999" in result.stderr


def test_a_token_without_the_permission_is_told_what_to_do_once_and_the_rest_is_not_sent(quick_site: Site) -> None:
    quick_site.faults.add(faults.http_status(403, html=False), faults.on_method("PATCH"))
    file = written(quick_site, "id,city", *(f"{key},Piran" for key in somebody(quick_site, 3)))
    result = quick_site.run("students", "update", "--from-csv", file, "--yes")
    assert result.exit_code == 1
    assert [row["outcome"] for row in results(quick_site)] == ["refused", "not_sent", "not_sent"]
    assert result.stderr.count("hint: give the token the permission in ManageBac") == 1


def test_brackets_do_not_become_the_text_of_a_field(quick_site: Site) -> None:
    (key,) = somebody(quick_site, 1)
    file = written(quick_site, "id,nickname", f"{key},[]")
    result = quick_site.run("students", "update", "--from-csv", file, "--yes")
    assert (result.exit_code, writes(quick_site)) == (2, [])
    assert "line 2: nickname is not a list, and a CSV file can clear only lists" in result.stderr


def test_a_field_that_was_not_taken_is_told_by_line_and_in_the_audit_log(quick_site: Site) -> None:
    quick_site.ok("sync")
    quick_site.school.switches = Switches(ignored_fields=("city",))
    (key,) = somebody(quick_site, 1)
    result = quick_site.run("students", "update", "--from-csv", written(quick_site, "id,city", f"{key},Piran"), "--yes")
    assert result.exit_code == 1
    assert f"line 2: student {key}: not_taken: city" in result.stderr
    assert [row.outcome for row in quick_site.rows("SELECT outcome FROM audit_log")] == ["not_taken"]


@pytest.mark.parametrize("fault", [faults.forbidden, faults.unheard, lambda: faults.http_status(503)])
def test_where_going_on_makes_no_sense_the_rest_is_not_sent(
    quick_site: Site, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "LOOKS", 1)
    keys = somebody(quick_site, 6)
    quick_site.faults.add(fault(), faults.on_write, times=None, skip=1)
    file = written(quick_site, "id,withdrawn_on", *(f"{key},2026-06-19" for key in keys))
    counts = quick_site.json("students", "archive", "--from-csv", file, "--yes")["counts"]
    assert counts in ({"done": 1, "refused": 1, "not_sent": 4}, {"done": 1, "unknown": 3, "not_sent": 2})
    quick_site.faults.clear()
    assert set(quick_site.json("students", "archive", "--from-csv", file, "--yes")["counts"]) == {"done", "unchanged"}
    assert all(quick_site.school.truth()[key]["withdrawn_on"] == "2026-06-19" for key in keys)


# Counted ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lines", "many"), [(6, False), (7, True), (26, True)])
def test_more_than_25_lines_or_5_percent_must_be_counted(quick_site: Site, lines: int, many: bool) -> None:
    file = written(quick_site, "id,city", *(f"{key},Piran" for key in somebody(quick_site, lines)))
    result = quick_site.run("students", "update", "--from-csv", file, "--yes")
    assert result.exit_code == (2 if many else 0)
    if many:
        assert f"update {lines} students of 120: so many need --expect {lines}" in result.stderr
        assert writes(quick_site) == []
    result = quick_site.run("students", "update", "--from-csv", file, "--expect", str(lines + 1), "--yes")
    assert (result.exit_code, f"--expect {lines + 1}: " in result.stderr) == (2, True)


def test_a_dry_run_shows_every_request_and_sends_none(quick_site: Site) -> None:
    file = written(quick_site, "id,graduated_on", "7,2026-06-19", "8,2026-06-20")
    requests = quick_site.json("students", "archive", "--from-csv", file, "--dry-run")["requests"]
    assert [(request["url"].rpartition("/v2p1")[2], request["body"]) for request in requests] == [
        ("/students/7/archive", {"graduated_on": "2026-06-19"}),
        ("/students/8/archive", {"graduated_on": "2026-06-20"}),
    ]
    assert writes(quick_site) == []


def test_a_result_file_that_cannot_be_written_is_told_before_anything_is_sent(quick_site: Site) -> None:
    file = written(quick_site, "id,city", "7,Piran")
    result = quick_site.run("students", "update", "--from-csv", file, "--yes", "--result", "/nowhere/result.csv")
    assert result.exit_code == 2
    assert "cannot write /nowhere/result.csv: No such file or directory" in result.stderr
    assert writes(quick_site) == []


def test_a_result_never_takes_the_place_of_the_csv_or_of_another_file_and_an_earlier_one_is_kept(
    quick_site: Site,
) -> None:
    (key,) = somebody(quick_site, 1)
    file = written(quick_site, "id,city", f"{key},Piran")
    result = quick_site.run("students", "update", "--from-csv", file, "--yes", "--result", file)
    assert (result.exit_code, "that is the CSV itself" in result.stderr) == (2, True)
    other = quick_site.folder / "notes.txt"
    other.write_text("precious")
    result = quick_site.run("students", "update", "--from-csv", file, "--yes", "--result", str(other))
    assert (result.exit_code, "the file already exists and is not a result file" in result.stderr) == (2, True)
    assert (other.read_text(), writes(quick_site)) == ("precious", [])
    quick_site.ok("students", "update", "--from-csv", file, "--yes")
    quick_site.ok("students", "update", "--from-csv", file, "--yes")
    assert [row["outcome"] for row in results(quick_site)] == ["unchanged"]
    assert ",done," in (quick_site.folder / "many.result.csv.1").read_text()


def test_a_count_does_not_stand_in_for_a_yes(quick_site: Site) -> None:
    file = written(quick_site, "id,city", *(f"{key},Piran" for key in somebody(quick_site, 30)))
    result = quick_site.run("students", "update", "--from-csv", file, "--expect", "30")
    assert (result.exit_code, "without a terminal, a write needs --yes" in result.stderr) == (2, True)
    assert writes(quick_site) == []


@pytest.mark.parametrize("head", ["ID;City;;", "sep=;\nid;city;;", "id\tcity"], ids=["Excel", "sep", "tabs"])
def test_what_a_spreadsheet_makes_of_a_csv_is_understood(quick_site: Site, head: str) -> None:
    (key,) = somebody(quick_site, 1)
    line = f"{key}\tPiran\n" if "\t" in head else f"{key};Piran;;\n;;;\n"
    path = quick_site.folder / "many.csv"
    path.write_bytes(f"\ufeff{head}\n{line}".replace("\n", "\r\n").encode())
    assert quick_site.json("students", "update", "--from-csv", str(path), "--yes")["counts"] == {"done": 1}


# Checked whole ------------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, bytes, list[str]]] = [
    ("empty", b"", ["the file is empty"]),
    ("blank", b"\n\n", ["the file is empty"]),
    ("a header alone", b"id,city\n", ["the file has a header, but no line below it"]),
    ("a column twice", b"id,city,city\n1,a,b\n", ["the column city appears twice"]),
    ("no id", b"city\nPiran\n", ["there is no column id"]),
    ("an unknown column", b"id,citty\n1,a\n", ["column citty: is not a field; did you mean city?"]),
    ("the id alone", b"id\n1\n", ["there is no column besides id"]),
    ("a line too short", b"id,city\n1\n", ["line 2: 1 cell, but the header has 2"]),
    ("a line too long", b"id,city\n1,a,b\n", ["line 2: 3 cells, but the header has 2"]),
    ("an id twice", b"id,city\n1,a\n\n1,b\n", ["line 4: student 1 is already in line 2"]),
    ("no number", b"id,city\nfizz,a\n", ["line 2: id must be a whole number from 1, found 'fizz'"]),
    ("id 0", b"id,city\n0,a\n", ["line 2: id must be a whole number from 1"]),
    ("Latin-1", "id,city\n1,Škofja Loka\n2,Ljubljana\n".encode("iso8859-2"), ["line 2: not UTF-8"]),
    ("quotes", b'id,city\n1,"a\n', ["line 2: not CSV"]),
    (
        "a date",
        b"id,birthday\n1,19.06.2026\n",
        ["line 2: birthday must be a date such as 2026-08-24, found '19.06.2026'"],
    ),
    (
        "all mistakes at once",
        b"id,birthday,email\n1,soon,fizz\nx,,\n",
        [
            "line 2: birthday must be a date such as 2026-08-24; email must be an address with an @, found 'soon'",
            "line 3: id must be",
        ],
    ),
]


@pytest.mark.parametrize(("what", "content", "lines"), WRONG, ids=[wrong[0] for wrong in WRONG])
def test_every_mistake_of_a_file_is_told_by_line_and_nothing_is_sent(
    quick_site: Site, what: str, content: bytes, lines: list[str]
) -> None:
    path = quick_site.folder / "many.csv"
    path.write_bytes(content)
    result = quick_site.run("students", "update", "--from-csv", str(path), "--yes")
    assert result.exit_code == 2, what
    told = [line for line in result.stderr.splitlines() if line.startswith(str(path))]
    assert [line.startswith(f"{path}: {start}") for line, start in zip(told, lines, strict=True)] == [True] * len(lines)
    assert writes(quick_site) == []


def test_an_archive_takes_ids_and_dates_only_one_in_each_line(quick_site: Site) -> None:
    file = written(quick_site, "id,city", "1,Piran")
    assert (
        "column city: expected id, withdrawn_on or graduated_on"
        in quick_site.run("students", "archive", "--from-csv", file, "--yes").stderr
    )
    file = written(quick_site, "id,withdrawn_on,graduated_on", "1,2026-06-19,2026-06-19", "2,,", "3,soon,")
    told = quick_site.run("students", "archive", "--from-csv", file, "--yes").stderr
    assert [f"line {number}: " in told for number in (2, 3, 4)] == [True] * 3


def test_of_many_mistakes_the_first_are_told_and_the_number_of_the_others(quick_site: Site) -> None:
    result = quick_site.run("students", "update", "--from-csv", written(quick_site, "id,city", *["x,y"] * 60), "--yes")
    assert result.stderr.count("id must be") == 50
    assert "and 10 more" in result.stderr


def test_a_file_that_is_not_there_is_told(quick_site: Site) -> None:
    result = quick_site.run("students", "update", "--from-csv", "missing.csv", "--yes")
    assert (result.exit_code, "missing.csv: no such file or directory" in result.stderr) == (2, True)
