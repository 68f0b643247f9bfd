"""A school's bad week, by real processes that log at level debug: nothing that they write names a student or the token.

Nearly all that can go wrong goes wrong, and every answer, text and value that might be quoted on the way is a canary.
What was written is searched by canary.py; what is asserted here is that each trouble happened.
"""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING

import pytest
from canary import TOKEN
from daemons import wait_until
from school_site import Site, serve

from rostersync.simulator import churn, faults
from rostersync.simulator.messages import json_response, text_response
from rostersync.store.database.engine import open_engine, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from canary import Process

    from rostersync.simulator.faults import Fault

NAME = "Zorbella Quindlebrook"
ADDRESS = "zorbella.quindlebrook@example.invalid"
TALKATIVE = f"{NAME} <{ADDRESS}>, {TOKEN}"


ANSWERS: dict[str, Fault] = {
    "401": lambda _: json_response(401, {"error": TALKATIVE}, {"X": f"no header follows\r\n{TALKATIVE}"}),
    "500": lambda _: json_response(500, {"error": TALKATIVE}),
    "400": lambda _: json_response(400, {"errors": [TALKATIVE]}),
    "a web page": lambda _: text_response(200, f"<html>{TALKATIVE}</html>", "text/html"),
    "incomplete, or followed by something else": faults.truncated_json(),
    "redirects to": faults.redirect(f"https://{TOKEN}.example.invalid/?q={NAME}"),
}
"""What a source is answered instead of its first page, by a part of what is told of it."""

# The program with a mistake in it: an error that nobody foresaw, and whose text holds all of a student.
BROKEN = f"""
from rostersync.store.replica import students

def changed_fields(stored, received):
    try:
        return {{}}[stored.last_name]
    except KeyError as error:
        raise ValueError(f"{{stored}}, {TOKEN}") from error

students.changed_fields = changed_fields
from rostersync.__main__ import main
main()
"""


class Week:
    """A site, and its commands. One writes its log as JSON, the next for eyes: on the other database vice versa.

    The token is sent in a header on one database, and in the address on the other.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.is_sqlite = sqlite_path(site.database_url) is not None
        self.json = ("--json",) if self.is_sqlite else ()
        self._forms = itertools.cycle(["json", "console"] if self.is_sqlite else ["console", "json"])

    def start(self, *words: str, more: str = "", program: str = "", sources: tuple[str, ...] = ("main",)) -> Process:
        form = next(self._forms)
        auth = "header" if self.is_sqlite else "parameter"
        self.site.configure(f'{more}[logging]\nlevel = "debug"\nformat = "{form}"\n', sources=sources, auth=auth)
        return self.site.start(*words, **({"program": ("-c", program)} if program else {}))

    def run(self, status: int, *words: str, **how: str) -> str:
        """Run a command, which must end with this status; return what it wrote to both streams."""
        process = self.start(*words, **how)
        out, told = process.communicate(timeout=30)
        assert process.returncode == status, told
        return out + told


@pytest.fixture
def week(tmp_path: Path, database_url: str) -> Iterator[Week]:
    with serve(tmp_path, database_url) as site:
        yield Week(site)


def damage(week: Week) -> str:
    """See to it that the database's next error quotes a row; return what is told of it."""
    statement, told = "ALTER TABLE student ADD CHECK (nickname <> 'Nick 1') NOT VALID", "refused a statement"
    if week.is_sqlite:
        statement, told = f"UPDATE student SET city = CAST(x'{NAME.encode().hex()}ff' AS TEXT)", "is damaged"
    with open_engine(week.site.database_url).begin() as connection:
        connection.exec_driver_sql(statement)
    return told


@pytest.mark.timeout(180)
def test_nothing_that_is_written_in_a_bad_week_names_a_student_or_the_token(week: Week) -> None:
    site, school = week.site, week.site.school
    first, second, third, *_ = sorted(school.truth())

    # a bad record, a date that cannot be read, a value that its field cannot hold, keys that nobody knows
    school.inject(first, {"id": first, "archived": NAME, "first_name": NAME})
    school.update(third, class_grade_number=NAME)
    school.update(second, birthday=f"the day of {NAME}", **{ADDRESS: {NAME: TALKATIVE.replace(TOKEN, "")}})
    told = week.run(0, "sync")
    assert "request" in told
    assert "unknown_keys" in told
    assert "records by field: birthday 1, class_grade_number 1" in told
    assert site.rows("SELECT reason FROM quarantine")
    assert site.rows(f"SELECT id FROM current_student WHERE last_name = '{school.truth()[third]['last_name']}'")

    churn(school, school.rng, 20)
    assert '"updated"' in week.run(0, "sync", "--json")

    for answer in ANSWERS.values():
        site.faults.add(answer, times=1)
    names = tuple(f"source{number}" for number in range(len(ANSWERS)))
    told = week.run(1, "sync", more="[sync]\nretries = 0\nsources_at_once = 1\n", sources=names)
    assert [part for part in (*ANSWERS, "Failed to parse headers") if part not in told] == []

    for key in sorted(school.truth())[2:8]:
        school.delete(key)
    assert "more removals than the guard allows" in week.run(3, "sync")
    (held,) = site.rows("SELECT held_run_id FROM sync_health WHERE source = 'main'")
    week.run(0, "sync", "--approve", str(held[0]), "--json")

    school.change_unnoticed(max(school.truth()), last_name=NAME)
    assert "last_name" in week.run(1, "verify", *week.json)

    for words in (["status"], ["runs"], ["check"], ["db", "check"]):
        assert site.ok(*words)  # they only look: in this process, which need not load the program first
    assert all(map(site.json, ("status", "runs", "check")))

    school.update(max(school.truth()), nickname=NAME)
    told = week.run(1, "sync", program=BROKEN)
    assert "unexpected: ValueError" in told
    assert "in changed_fields" in told  # the traceback

    site.app.log.clear()
    site.faults.add(ANSWERS["500"], times=1)
    daemon = week.start("run", more='[schedule]\nincremental = "1s"\njitter = "0s"\n', program=BROKEN)
    wait_until(lambda: len(site.app.log) >= 5)
    daemon.send_signal(signal.SIGTERM)
    _, told = daemon.communicate(timeout=20)
    assert "run_failed" in told
    assert "in changed_fields" in told

    told_of_it = damage(week)
    school.update(max(school.truth()), nickname="Nick 1")
    assert told_of_it in week.run(1, "sync")
