"""Creates and unarchivings from a CSV, and what a person is asked before a bulk write."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from many_lines import results, written
from school_site import ROOT, Site, serve

from rostersync.simulator import Switches, faults
from rostersync.writing import single

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEW = (
    "email,last_name,first_name,student_id",
    "fizz.marrowgate@example.invalid,Marrowgate,Fizz,Q1",
    "quill.marrowgate@example.invalid,Marrowgate,Quill,Q2",
    "wren.marrowgate@example.invalid,Marrowgate,Wren,",
)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url, 120) as site:
        site.configure(allow_writes="true")
        yield site
        (tmp_path / "many.csv").unlink(missing_ok=True)  # it holds students, which no other file may


def writes(site: Site) -> list[str]:
    return [f"{method} {path}" for method, path, _ in site.app.log if method != "GET"]


def marrowgates(site: Site) -> dict[str, int]:
    return {row["email"]: key for key, row in site.school.truth().items() if "marrowgate" in row["email"]}


# Creates ------------------------------------------------------------------------------------------------------------


def test_a_csv_creates_students_who_are_in_the_replica_and_are_not_created_again(site: Site) -> None:
    site.ok("sync")
    words = ("students", "create", "--from-csv", written(site, *NEW), "--yes")
    assert site.json(*words)["counts"] == {"done": 3}
    created = marrowgates(site)
    assert [int(row["id"]) for row in results(site)] == list(created.values())
    rows = site.rows("SELECT id FROM current_student WHERE last_name = 'Marrowgate'")
    assert {row.id for row in rows} == set(created.values())
    assert site.rows("SELECT count(*) AS n FROM audit_log WHERE verb = 'create' AND outcome = 'done'")[0].n == 3
    assert site.json(*words)["counts"] == {"unchanged": 3}
    assert [int(row["id"]) for row in results(site)] == list(created.values())
    assert writes(site) == ["POST /v2p1/students"] * 3


def test_somebody_who_has_the_email_or_the_student_id_is_named_and_nobody_is_created(site: Site) -> None:
    first, second = sorted(site.school.truth())[:2]
    site.school.update(first, email="Fizz.Marrowgate@example.invalid")
    site.school.update(second, student_id="Q2")
    result = site.run("students", "create", "--from-csv", written(site, *NEW), "--yes")
    assert result.exit_code == 1
    assert [(row["id"], row["outcome"]) for row in results(site)][:2] == [
        (str(first), "refused"),
        (str(second), "refused"),
    ]
    assert f"line 2: student {first}: refused: email already belongs to student {first}" in result.stderr
    assert f"line 3: student {second}: refused: student_id already belongs to student {second}" in result.stderr
    assert writes(site) == ["POST /v2p1/students"]


def test_a_dry_run_names_the_lines_that_would_be_refused(site: Site) -> None:
    first, second = sorted(site.school.truth())[:2]
    site.school.update(first, email="Fizz.Marrowgate@example.invalid")
    site.school.update(second, student_id="Q2")
    result = site.run("students", "create", "--from-csv", written(site, *NEW), "--dry-run")
    assert f"line 2: student {first}: refused: email already belongs to student {first}" in result.stderr
    assert f"line 3: student {second}: refused: student_id already belongs to student {second}" in result.stderr
    assert result.output.count("POST ") == 1
    assert writes(site) == []


def test_a_single_create_is_refused_where_somebody_has_the_student_id(site: Site) -> None:
    key = min(site.school.truth())
    site.school.update(key, student_id="Q1")
    fields = ("--set", "email=fizz.marrowgate@example.invalid", "--set", "last_name=Marrowgate")
    result = site.run("students", "create", *fields, "--set", "student_id=Q1", "--yes")
    assert (result.exit_code, f"student_id already belongs to student {key}" in result.stderr) == (1, True)
    assert writes(site) == []


@pytest.mark.parametrize("fault", [faults.reset, faults.unheard], ids=["done", "not done"])
def test_a_lost_answer_of_a_create_never_makes_two_students_in_bulk(site: Site, fault: object) -> None:
    words = ("students", "create", "--from-csv", written(site, *NEW), "--yes")
    site.faults.add(fault(), faults.on_method("POST"), skip=1)  # type: ignore[operator]
    site.run(*words)
    site.faults.clear()
    assert site.run(*words).exit_code == 0
    assert len(marrowgates(site)) == 3
    assert {row["outcome"] for row in results(site)} <= {"done", "unchanged"}


def test_a_create_whose_fields_the_list_omits_is_unchanged_when_it_is_sent_again(site: Site) -> None:
    site.school.switches = Switches(lists_omit=("first_name",))
    words = ("students", "create", "--from-csv", written(site, *NEW), "--yes")
    assert site.json(*words)["counts"] == {"done": 3}
    assert site.json(*words)["counts"] == {"unchanged": 3}


def test_a_server_that_shows_a_new_student_late_makes_no_second_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "LOOKS", 1)
    site.faults.add(faults.reset(), faults.on_method("POST"))
    words = ("students", "create", "--from-csv", written(site, *NEW), "--yes")
    site.run(*words)
    assert site.run(*words).exit_code == 0
    assert len(marrowgates(site)) == 3


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("email,last_name", "a@x.invalid,A", "A@X.invalid ,B"), "line 3: email is already in line 2"),
        (
            ("email,last_name,student_id", "a@x.invalid,A,1", "b@x.invalid,B, 1"),
            "line 3: student_id is already in line 2",
        ),
        (("id,email,last_name", "7,a@x.invalid,A"), "line 2: id cannot be written: set by ManageBac itself"),
        (
            ("email,last_name,archived", "a@x.invalid,A,true"),
            "line 2: archived cannot be written: use archive or unarchive",
        ),
        (("email,last_name", "a@x.invalid,"), "line 2: last_name is required"),
        (("email,first_name", "a@x.invalid,A"), "line 2: last_name is required"),
        (("email,last_name,citty", "a@x.invalid,A,B"), "column citty: is not a field; did you mean city?"),
        (("email,last_name,birthday", "a@x.invalid,A,soon"), "line 2: birthday must be a date"),
    ],
)
def test_a_mistake_in_a_file_of_creates_is_told_and_nothing_is_asked(
    site: Site, lines: tuple[str, ...], told: str
) -> None:
    result = site.run("students", "create", "--from-csv", written(site, *lines), "--yes")
    assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
    assert list(site.app.log) == []


def test_a_create_may_have_an_empty_id_column_and_a_password(site: Site) -> None:
    file = written(site, "id,email,last_name,password,archived", ",a@example.invalid,Marrowgate,opensesame,")
    assert site.json("students", "create", "--from-csv", file, "--yes")["counts"] == {"done": 1}


def test_creates_in_bulk_may_ask_for_no_welcome_mail(site: Site) -> None:
    file = written(site, *NEW)
    words = ("students", "create", "--from-csv", file, "--no-welcome-mail", "--dry-run")
    bodies = [request["body"] for request in site.json(*words)["requests"]]
    assert [body["options"] for body in bodies] == [{"send_welcome_email": False}] * 3


# Unarchive ----------------------------------------------------------------------------------------------------------


def test_a_csv_unarchives_students_and_leaves_alone_those_who_are_not_archived(site: Site) -> None:
    keys = [key for key, row in sorted(site.school.truth().items()) if not row["archived"]][:3]
    for key in keys[:2]:
        site.school.archive(key, graduated_on="2026-06-19")
    file = written(site, "id", *map(str, keys))
    assert site.json("students", "unarchive", "--from-csv", file, "--yes")["counts"] == {"done": 2, "unchanged": 1}
    assert not any(site.school.truth()[key]["archived"] for key in keys)
    assert len(writes(site)) == 2
    result = site.run("students", "unarchive", "--from-csv", written(site, "id,city", "7,Piran"), "--yes")
    assert "column city: expected only id" in result.stderr


# The question -------------------------------------------------------------------------------------------------------


def asked(site: Site, *words: str, answer: str) -> tuple[int, str]:
    """Run the command on a terminal of its own; return the exit status and what it wrote there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rostersync", *words, "-c", str(site.path)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=os.environ | site.environ | {"TERM": "dumb"}
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    told = b""
    try:
        while part := os.read(ours, 4096):
            told += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    return process.wait(20), re.sub(r"\s+", " ", told.decode())


def test_the_question_names_the_columns_and_the_number_of_lines(site: Site) -> None:
    site.ok("sync")  # a process of its own finds no journal
    keys = sorted(site.school.truth())[:3]
    site.school.update(keys[0], city="Piran", nickname="Nick")
    file = written(site, "id,city,nickname,state", *(f"{key},Piran,Nick," for key in keys))
    status, told = asked(site, "students", "update", "--from-csv", file, answer="n")
    assert "update 2 of 3 students of source main (columns: city, nickname)?" in told
    assert (status, writes(site)) == (130, [])
    status, told = asked(site, "students", "create", "--from-csv", written(site, *NEW), answer="y")
    assert "create 3 students of source main (columns: email, last_name, first_name, student_id)?" in told
    assert "welcome mail" in told
    assert (status, len(marrowgates(site))) == (0, 3)


def test_of_many_lines_the_number_is_to_be_typed_below_the_columns(site: Site) -> None:
    site.ok("sync")  # a process of its own finds no journal
    file = written(site, "id,city", *(f"{key},Piran" for key in sorted(site.school.truth())[:30]))
    status, told = asked(site, "students", "update", "--from-csv", file, answer="29")
    assert "update 30 students of source main (columns: city)" in told
    assert "Type the number of lines to continue" in told
    assert (status, writes(site)) == (1, [])
    assert asked(site, "students", "update", "--from-csv", file, answer="30")[0] == 0
    assert len(writes(site)) == 30


def test_a_file_that_changes_nothing_is_not_asked_about(site: Site) -> None:
    key = min(site.school.truth())
    site.school.update(key, city="Piran")
    result = site.run("students", "update", "--from-csv", written(site, "id,city", f"{key},Piran"))
    assert (result.exit_code, "1 unchanged" in result.stdout) == (0, True)


def test_the_help_shows_that_a_file_can_stand_in_for_the_id(site: Site) -> None:
    for verb in ("update", "archive", "unarchive"):
        assert f"students {verb} [OPTIONS] [ID]" in site.run_bare("students", verb, "--help").stdout
    assert "--from-csv" in site.run_bare("students", "create", "--help").stdout
    assert "students set-avatar [OPTIONS] ID" in site.run_bare("students", "set-avatar", "--help").stdout


def test_a_server_that_ignores_the_search_creates_nobody_twice(site: Site) -> None:
    site.school.switches = Switches(partial_write_answers=True)
    words = ("students", "create", "--from-csv", written(site, *NEW), "--yes")
    assert site.json(*words)["counts"] == {"done": 3}
    assert site.json(*words)["counts"] == {"unchanged": 3}
