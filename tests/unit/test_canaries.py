"""The canaries: what sets them off, what does not, and that a leak fails the test that made it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from canary import KINDS, TOKEN, Search

from rostersync.config import TEMPLATE
from rostersync.simulator.people import Population

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = (
    "email",
    "first_name",
    "last_name",
    "middle_name",
    "nickname",
    "other_name",
    "student_id",
    "identifier",
    "birthday",
    "phone_number",
    "mobile_phone_number",
    "street_address",
    "city",
    "national_id",
    "uniq_student_id",
    "photo_url",
)

# Each but the last writes a canary to another place; put together in two parts, or this file's text would be one.
LEAKY = """
import sys
import pytest
from canary import TOKEN, Process
from rostersync.clock import SystemClock
from rostersync.errors import RunFailed
from rostersync.logger import get_logger
from rostersync.store.store import Store
from sqlalchemy import text

NAME = "Zor" + "bella"

def test_output():
    print(NAME)

def test_standard_error():
    print(TOKEN, file=sys.stderr)

def test_log():
    get_logger("rostersync.test").debug("seen", student=NAME)

def test_error():
    RunFailed("nothing of " + NAME)

def test_command():
    Process(("sync",), [sys.executable, "-c", f"print({NAME!r})"]).communicate()

def test_file(tmp_path):
    (tmp_path / "file").write_text(NAME)

def test_row(migrated_url):
    with Store(migrated_url, SystemClock()).engine.begin() as connection:
        connection.execute(text("INSERT INTO source (name, fence, deleted_feed_ignored,"
            " unknown_keys) VALUES (:name, 0, false, '[]')"), {"name": NAME})

def test_file_of_rows(sqlite_url):
    with Store(sqlite_url, SystemClock(), create=True).engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE token AS SELECT '{TOKEN}' AS first_name"))

def test_data_by_design(capfd):
    Process(("students",), [sys.executable, "-c", f"print({NAME!r})"]).communicate()
"""


def told(text: str) -> list[str]:
    search = Search()
    search.text(text, "a place")
    return search.leaks


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_that_tells_who_somebody_is_sets_a_canary_off(field: str) -> None:
    now = datetime.now(UTC)
    values = [Population(seed, now.date()).person(seed, now, now).get(field) for seed in range(500)]
    assert [value for value in values if value and not told(value)] == []


@pytest.mark.parametrize(
    "text",
    [
        rf"{{'event': '\\u0417\\u043e\\u0440', 'name': '{'Плімка'.encode('unicode_escape').decode()}'}}",
        r'{"name": "\u041f\u043b\u0456\u043c\u043a\u0430"}',
        "GET /v2p1/students?q=%D0%9F%D0%BB%D1%96%D0%BC%D0%BA%D0%B0",
        "GET /v2p1/students?q=zor%40example.invalid",
        "GET /v2p1/students?q=%2B000+555+1234",
        f"auth-token: {TOKEN}",
    ],
)
def test_a_canary_is_known_in_the_spellings_of_json_python_and_addresses(text: str) -> None:
    assert told(text)


@pytest.mark.parametrize("text", [TEMPLATE, "2015-03-01T08:00:00.000Z", "https://example.invalid/v2p1/students"])
def test_what_the_program_says_by_itself_sets_none_off(text: str) -> None:
    assert told(text) == []


def test_a_leak_is_told_without_what_leaked() -> None:
    (leak,) = told("first line\nseen Plimgletash, 3 fields: Plimgletash again")
    assert leak == "name in a place: seen ***"
    assert list(KINDS)[1] == "name"


def test_a_leak_fails_its_test_wherever_it_is_and_all_workers_figures_come_together(tmp_path: Path) -> None:
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    options = ["-p", "conftest", "-p", "no:logging", "-p", "no:cacheprovider", "-n", "1", "-rE", "--color=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, tmp_path],
        # compiled, the tests' own text would be a file that they left behind
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    failed = set(re.findall(r"^ERROR \S+::test_(\S+)", done.stdout, re.MULTILINE))
    expected = {"output", "standard_error", "log", "error", "command", "file", "row[sqlite]", "row[postgresql]"}
    assert failed == expected | {"file_of_rows"}, done.stdout
    assert re.search(r"canaries: (\d+) leaks in .* MB written, among it \d+ lines", done.stdout), done.stdout
    assert told(done.stdout) == []
