"""The public client over real sockets: what it sends, what it makes of every answer, and what it never does twice."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from canary import TOKEN
from recorder import Answer, Recorder, answer

from rostersync.clock import SystemClock
from rostersync.managebac import (
    AccessDenied,
    ApiError,
    ConfigError,
    Forbidden,
    Invalid,
    Malformed,
    ManageBac,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Redirected,
    Refused,
    ServerFailed,
    Unauthorized,
    Unreachable,
)
from rostersync.simulator import App, School, Server

if TYPE_CHECKING:
    from collections.abc import Callable

NAIVE = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xae\x42\x60\x82"
DONE = answer(200, {"status": "ok"})
FIZZ = answer(200, {"student": {"id": 2054, "last_name": "Marrowgate"}})


def page(*ids: int, total: int | None = None, number: int = 1, pages: int = 1) -> Answer:
    meta = {"current_page": number, "total_pages": pages, "total_count": total or len(ids), "per_page": 100}
    return answer(200, {"students": [{"id": key} for key in ids], "meta": meta})


def client(recorder: Recorder, **settings: Any) -> ManageBac:
    return ManageBac(recorder.url, TOKEN, **({"retries": 0, "timeout": 5.0} | settings))


# The eight endpoints, as a capture shows them ----------------------------------------------------------------------

Row = tuple[str, "Callable[[ManageBac], object]", Answer, str, str, str | None, bytes]
EIGHT: list[Row] = [
    (
        "list",
        lambda api: list(api.students.list(status="enrolled", year_group_ids=[7, 8])),
        page(),
        "GET",
        "/v2p1/students?status=enrolled&year_group_ids%5B%5D=7&year_group_ids%5B%5D=8&page=1&per_page=200",
        None,
        b"",
    ),
    ("get", lambda api: api.students.get(2054), FIZZ, "GET", "/v2p1/students/2054", None, b""),
    (
        "create",
        lambda api: api.students.create(email="fizz@example.invalid", last_name="Marrowgate", nickname=None),
        answer(201, {"student": {"id": 2054}}),
        "POST",
        "/v2p1/students",
        "application/json",
        b'{"student":{"email":"fizz@example.invalid","last_name":"Marrowgate"}}',
    ),
    (
        "update",
        lambda api: api.students.update(2054, city="Ljubljana", nickname=None, languages=None, birthday=None),
        FIZZ,
        "PATCH",
        "/v2p1/students/2054",
        "application/json",
        b'{"student":{"city":"Ljubljana","nickname":"","languages":[],"birthday":null}}',
    ),
    (
        "archive",
        lambda api: api.students.archive(2054, graduated_on=date(2026, 6, 19)),
        DONE,
        "PUT",
        "/v2p1/students/2054/archive",
        "application/json",
        b'{"graduated_on":"2026-06-19"}',
    ),
    ("unarchive", lambda api: api.students.unarchive(2054), DONE, "PUT", "/v2p1/students/2054/unarchive", None, b""),
    (
        "set avatar",
        lambda api: api.students.set_avatar(2054, url="https://pictures.example.invalid/1.png"),
        DONE,
        "PUT",
        "/v2p1/students/2054/avatar",
        "application/json",
        b'{"avatar":{"remote_file_url":"https://pictures.example.invalid/1.png"}}',
    ),
    (
        "delete avatar",
        lambda api: api.students.delete_avatar(2054),
        DONE,
        "DELETE",
        "/v2p1/students/2054/avatar",
        None,
        b"",
    ),
]


@pytest.mark.parametrize("row", EIGHT, ids=[row[0] for row in EIGHT])
def test_each_endpoint_sends_what_the_vendor_documents(row: Row) -> None:
    _, call, reply, method, target, content_type, body = row
    with Recorder([reply]) as recorder, client(recorder) as api:
        call(api)
    [request] = recorder.requests
    assert (request.method, request.target, request.headers.get("content-type")) == (method, target, content_type)
    assert request.body == body
    assert request.headers["auth-token"] == TOKEN
    assert TOKEN not in request.target


def test_a_picture_goes_as_a_multipart_file_that_does_not_name_the_student(tmp_path: Path) -> None:
    portrait = tmp_path / "fizz-marrowgate.png"
    portrait.write_bytes(PNG)
    with Recorder([DONE]) as recorder, client(recorder) as api:
        api.students.set_avatar(2054, file=portrait)
        api.students.set_avatar(2054, file=PNG)
    for request in recorder.requests:
        assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="avatar[file]"; filename="avatar.png"' in request.body
        assert b"Content-Type: image/png" in request.body
        assert PNG in request.body
        assert b"fizz" not in request.body


@pytest.mark.parametrize("row", EIGHT, ids=lambda row: row[0])
def test_each_endpoint_takes_the_token_as_a_parameter(row: Row) -> None:
    _, call, answered, method, target, _, _ = row
    with Recorder([answered]) as recorder, client(recorder, auth="parameter") as api:
        call(api)
    [request] = recorder.requests
    separator = "&" if "?" in target else "?"
    assert (request.method, request.target) == (method, f"{target}{separator}auth_token={TOKEN}")
    assert "auth-token" not in request.headers


def test_every_filter_of_the_students_page_is_sent() -> None:
    with Recorder([page()]) as recorder, client(recorder, api_version="v2p3") as api:
        moment = datetime(2026, 3, 1, 8, tzinfo=UTC)
        found = api.students.list(
            ids=[1, 2],
            archived=False,
            status="graduated",
            modified_since=moment,
            deleted_since=moment,
            year_group_ids=[3],
            homeroom_advisor_ids=[4, 5],
            q="marrow & co",
            page=6,
            per_page=50,
        )
        assert list(found) == []
    assert recorder.requests[0].target == (
        "/v2p3/students?ids%5B%5D=1&ids%5B%5D=2&archived=0&status=graduated"
        "&modified_since=2026-03-01T08%3A00%3A00.000Z&deleted_since=2026-03-01T08%3A00%3A00.000Z"
        "&year_group_ids%5B%5D=3&homeroom_advisor_ids%5B%5D=4&homeroom_advisor_ids%5B%5D=5"
        "&q=marrow+%26+co&page=6&per_page=50"
    )


def test_a_welcome_mail_is_mentioned_only_where_the_caller_does() -> None:
    with Recorder([answer(201, {"student": {"id": 1}})]) as recorder, client(recorder) as api:
        api.students.create(email="fizz@example.invalid", last_name="Marrowgate", send_welcome_email=False)
    assert recorder.requests[0].json()["options"] == {"send_welcome_email": False}


# Lists -------------------------------------------------------------------------------------------------------------


def test_a_list_yields_all_pages_and_tells_the_totals() -> None:
    pages = [page(1, 2, total=3, pages=2), page(3, total=3, number=2, pages=2)]
    with Recorder(pages) as recorder, client(recorder) as api:
        students = api.students.list()
        assert recorder.requests == []
        assert (students.total_count, students.total_pages, students.per_page) == (3, 2, 100)
        assert [student.id for student in students] == [1, 2, 3]
    assert len(recorder.requests) == 2


def test_a_single_page_yields_that_page_only() -> None:
    with Recorder([page(3, total=3, number=2, pages=2)]) as recorder, client(recorder) as api:
        assert [student.id for student in api.students.list(page=2)] == [3]
    assert len(recorder.requests) == 1


def test_a_page_beyond_the_end_is_empty_and_still_tells_the_totals() -> None:
    missing = answer(404, {"error": "Record was not found"})
    with Recorder([missing, page(1, 2)]) as recorder, client(recorder) as api:
        students = api.students.list(page=9)
        assert list(students) == []
        assert students.total_count == 2


@pytest.mark.parametrize("left_out", ["per_page", "current_page", "total_pages", "all"])
def test_a_list_whose_meta_leaves_counts_out_is_read_to_its_end(left_out: str) -> None:
    pages = [page(1, 2, total=3, pages=2), page(3, total=3, number=2, pages=2)]
    names = {"per_page", "current_page", "total_pages"} if left_out == "all" else {left_out}
    for _, document, _ in (given for given in pages if given):
        document["meta"] = {name: count for name, count in document["meta"].items() if name not in names}
    size = 100 if left_out in {"current_page", "total_pages"} else 2
    with Recorder(list(pages)) as recorder, client(recorder) as api:
        students = api.students.list()
        assert (students.total_count, students.total_pages, students.per_page) == (3, 2, size)
        assert [student.id for student in students] == [1, 2, 3]
        recorder.answers = [pages[1], pages[0]]
        last = api.students.list(page=2)
        assert (last.total_count, last.total_pages, last.per_page) == (3, 2, size)
        assert [student.id for student in last] == [3]


def test_a_record_that_cannot_be_read_is_passed_over_and_kept_with_its_reason() -> None:
    meta = {"current_page": 1, "total_pages": 1, "total_count": 2, "per_page": 100}
    bad = answer(200, {"students": [{"id": 1, "archived": "perhaps"}, {"id": 2}], "meta": meta})
    with Recorder([bad]) as recorder, client(recorder) as api:
        students = api.students.list()
        assert [student.id for student in students] == [2]
        assert [(row.id, row.reason) for row in students.unreadable] == [
            (1, "archived: expected true or false, found a string")
        ]


# What comes back ---------------------------------------------------------------------------------------------------

LATER = {"X_RateLimit_Reset": "2026-03-01 07:30:13 UTC", "X_RateLimit_Limit": "50", "X_RateLimit_Period": "1"}

ERRORS: list[tuple[Answer, type[ApiError], str, dict[str, tuple[str, ...]]]] = [
    (answer(400, {"error": "Invalid payload data structure."}), Invalid, "does not accept the request", {
        "base": ("Invalid payload data structure.",)
    }),
    (answer(400, {"error": "Unpermitted parameter", "allowed_params": ["email", "city"]}), Invalid, "does not accept", {
        "base": ("Unpermitted parameter", "allowed fields: email, city")
    }),
    (answer(401, {"error": "Access Denied"}), Unauthorized, "rejected the token", {}),
    (answer(403, {"error": "Access Denied"}), Forbidden, "does not let this token change students", {}),
    (answer(404, {"error": "Record was not found"}), NotFound, "there is no student 2054", {}),
    (answer(405, {"error": "Method Not Allowed"}), Refused, "does not accept the request", {}),
    (answer(422, {"errors": {"email": ["can't be blank"]}}), Invalid, "does not accept email", {
        "email": ("can't be blank",)
    }),
    (answer(422, {"error": {"email": ["is taken", "is odd"]}}), Invalid, "does not accept email", {
        "email": ("is taken", "is odd")
    }),
    (answer(422, b"<html>"), Invalid, "does not accept the request", {}),
    (answer(429, b"Too Many Requests\n", **LATER), RateLimited, "keeps rate-limiting us", {}),
    (answer(302, b"", Location="https://elsewhere.example.invalid/"), Redirected, "redirects to elsewhere", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "kind", "message", "fields"), ERRORS, ids=[f"{e[0][0]}-{n}" for n, e in enumerate(ERRORS)]
)
def test_each_documented_error_becomes_its_exception(
    reply: Answer, kind: type[ApiError], message: str, fields: dict[str, tuple[str, ...]]
) -> None:
    with Recorder([reply]) as recorder, client(recorder) as api, pytest.raises(kind, match=message) as caught:
        api.students.update(2054, city="Ljubljana")
    error = caught.value
    assert type(error) is kind
    assert error.status == reply[0]
    assert error.request == "PATCH /v2p1/students/2054"
    assert getattr(error, "fields", {}) == fields
    shown = f"{error} {error.hint} {error!r} {vars(error)}"
    assert TOKEN not in shown
    assert "Ljubljana" not in shown
    assert len(recorder.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_without_access_is_one_kind_of_error(status: int) -> None:
    with Recorder([answer(status)]) as recorder, client(recorder) as api, pytest.raises(AccessDenied):
        api.students.get(1)
    assert len(recorder.requests) == 1


def test_a_student_who_is_not_there_is_not_found_and_one_who_cannot_be_read_is_malformed() -> None:
    bad = answer(200, {"student": {"id": 2054, "archived": "perhaps"}})
    with Recorder([answer(404, {"error": "Record was not found"}), bad]) as recorder, client(recorder) as api:
        with pytest.raises(NotFound, match="there is no student 2054"):
            api.students.get(2054)
        with pytest.raises(Malformed, match="student 2054 cannot be read: archived"):
            api.students.get(2054)


def test_the_text_of_an_error_shows_no_control_characters_and_has_an_end() -> None:
    nasty = answer(422, {"errors": {"email\x1b[2J": ["a\u202eb\n" + "x" * 5000]}})
    with Recorder([nasty]) as recorder, client(recorder) as api, pytest.raises(Invalid) as caught:
        api.students.unarchive(1)
    [(name, [text])] = caught.value.fields.items()
    assert name == "email [2J"
    assert (text[:4], len(text)) == ("a b ", 500)


# Reads are repeated, writes only where they were surely not carried out ---------------------------------------------


def test_a_read_is_repeated_until_it_succeeds() -> None:
    with Recorder([None, answer(503), answer(200, b"<html>"), FIZZ]) as recorder, client(recorder, retries=5) as api:
        assert api.students.get(2054).last_name == "Marrowgate"
        assert (api.requests, api.retries) == (4, 3)
    assert len(recorder.requests) == 4


WRITES: list[tuple[str, Callable[[ManageBac], object]]] = [(name, call) for name, call, *_ in EIGHT[2:]]
DOUBTS: list[tuple[str, Answer | None, int | None]] = [
    ("cut off", None, None),
    ("503", answer(503), 503),
    ("html", answer(200, b"<html>please sign in</html>"), None),
    ("half", answer(200, b'{"student": {"id": 20'), None),
]


@pytest.mark.parametrize(("name", "write"), WRITES)
@pytest.mark.parametrize(("how", "lost", "status"), DOUBTS)
def test_a_write_whose_outcome_is_unknown_is_never_repeated(
    name: str, write: Any, how: str, lost: Answer | None, status: int | None
) -> None:
    with Recorder([lost]) as recorder, client(recorder, retries=5) as api:
        with pytest.raises(OutcomeUnknown, match="may or may not have carried out") as caught:
            write(api)
        assert caught.value.status == status, (name, how)
    assert len(recorder.requests) == 1


@pytest.mark.parametrize(("name", "write"), WRITES)
def test_a_write_that_was_answered_by_a_429_is_sent_again(name: str, write: Any) -> None:
    done = next(reply for other, _, reply, *_ in EIGHT if other == name)
    with Recorder([answer(429, b""), done]) as recorder, client(recorder, retries=1) as api:
        write(api)
        assert api.retries == 1
    assert len(recorder.requests) == 2


def test_a_write_that_could_not_leave_is_sent_again_and_told_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with ManageBac(f"http://127.0.0.1:{port}", TOKEN, retries=1) as api:
        with pytest.raises(Unreachable, match="refused"):
            api.students.unarchive(1)
        assert (api.requests, api.retries) == (2, 1)


def test_a_write_that_gets_no_answer_in_time_is_in_doubt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with ManageBac(url, TOKEN, retries=5, timeout=0.2) as api:
            with pytest.raises(OutcomeUnknown, match="did not answer in full"):
                api.students.unarchive(1)
            assert api.requests == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"student": {"id": 1}}'])
def test_a_write_without_a_record_is_done_by_any_answer_of_the_apis(body: bytes) -> None:
    with Recorder([answer(200, body)]) as recorder, client(recorder) as api:
        api.students.unarchive(1)
    assert len(recorder.requests) == 1


def test_a_read_fails_as_what_it_is_when_its_retries_are_used_up() -> None:
    with Recorder([answer(503)]) as recorder, client(recorder) as api, pytest.raises(ServerFailed) as caught:
        api.students.get(1)
    assert (caught.value.status, caught.value.request) == (503, "GET /v2p1/students/1")


# What is never sent ------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Callable[[Any], object], str]] = [
    ("id 0", lambda s: s.get(0), "id must be a whole number from 1"),
    ("id too large", lambda s: s.get(2**63), "id must be a whole number from 1"),
    ("id true", lambda s: s.unarchive(True), "id must be a whole number from 1"),
    ("id a word", lambda s: s.delete_avatar("fizz"), "id must be a whole number from 1"),
    ("unknown field", lambda s: s.update(1, citty="Ljubljana"), "citty is not a field; did you mean city?"),
    ("nothing", lambda s: s.update(1), "there is nothing to change"),
    ("read-only", lambda s: s.update(1, archived=True), "archived cannot be written: use archive or unarchive"),
    ("date", lambda s: s.update(1, birthday="yesterday"), "birthday must be a date such as 2026-08-24"),
    ("datetime", lambda s: s.update(1, birthday=datetime(2026, 1, 1, tzinfo=UTC)), "birthday must be a date"),
    ("short date", lambda s: s.update(1, birthday="2026-2-3"), "birthday must be a date"),
    ("no such day", lambda s: s.update(1, birthday="2026-02-30"), "birthday must be a date"),
    ("number", lambda s: s.update(1, graduating_year="2026"), "graduating_year must be a whole number"),
    ("id field", lambda s: s.update(1, year_group_id=0), "year_group_id must be an id"),
    ("ids field", lambda s: s.update(1, parent_ids=[3, -1]), "parent_ids must be an id"),
    ("list", lambda s: s.update(1, languages="en"), "languages must be a list"),
    ("text", lambda s: s.update(1, city=5), "city must be a string"),
    ("NUL", lambda s: s.update(1, city="a\0b"), r"city must not contain U\+0000"),
    ("half a character", lambda s: s.update(1, city="\ud800"), "city must not contain half a character"),
    ("e-mail", lambda s: s.update(1, email="fizz"), "email must be an address with an @"),
    ("no e-mail", lambda s: s.update(1, email=None), "email cannot be empty"),
    ("no last name", lambda s: s.update(1, last_name=" "), "last_name cannot be empty"),
    ("password", lambda s: s.update(1, password="short"), "password must have at least 6 characters"),
    ("create", lambda s: s.create(email="fizz@example.invalid"), "last_name is required"),
    ("create nothing", lambda s: s.create(), "email is required; last_name is required"),
    ("both dates", lambda s: s.archive(1, withdrawn_on="2026-01-01", graduated_on="2026-01-01"), "exactly one"),
    ("no date", lambda s: s.archive(1), "exactly one of withdrawn_on and graduated_on"),
    ("archive date", lambda s: s.archive(1, withdrawn_on="soon"), "withdrawn_on must be a date"),
    ("both avatars", lambda s: s.set_avatar(1, url="https://a.invalid/", file=PNG), "exactly one of url and file"),
    ("no avatar", lambda s: s.set_avatar(1), "exactly one of url and file"),
    ("no address", lambda s: s.set_avatar(1, url="portrait.png"), "url must be an address"),
    ("no image", lambda s: s.set_avatar(1, file=b"GIF"), "file is not a PNG, JPEG, GIF or WebP image"),
    ("no file", lambda s: s.set_avatar(1, file="missing.png"), "file cannot be read: No such file"),
    ("huge", lambda s: s.set_avatar(1, file=PNG + b"\0" * (10 << 20)), "file is larger than 10 MiB"),
    ("status", lambda s: s.list(status="enroled"), "status must be one of enrolled, withdrawn, graduated"),
    ("page", lambda s: s.list(page=0), "page must be a whole number from 1"),
    ("per page", lambda s: s.list(per_page=201), "per_page must be from 1 to 200"),
    ("no ids", lambda s: s.list(ids=[]), "ids must be one or more ids"),
    ("no id", lambda s: s.list(ids=5), "ids must be one or more ids"),
    ("no year group", lambda s: s.list(year_group_ids=[0]), "year_group_ids must be one or more ids"),
    ("no flag", lambda s: s.list(archived=2), "archived must be True or False"),
    (
        "no mail flag",
        lambda s: s.create(email="a@b", last_name="c", send_welcome_email="no"),
        "send_welcome_email must",
    ),
    ("page text", lambda s: s.list(page="1"), "page must be a whole number from 1"),
    ("per page true", lambda s: s.list(per_page=True), "per_page must be from 1 to 200"),
    ("q", lambda s: s.list(q="\ud800"), "q must be a valid string"),
    ("since a day", lambda s: s.list(deleted_since=date(2026, 1, 1)), "deleted_since must be a datetime"),
    ("bytes", lambda s: s.update(1, parent_ids=b"12"), "parent_ids must be a list"),
    ("password cleared", lambda s: s.update(1, password=None), "password cannot be cleared"),
    ("file's name", lambda s: s.set_avatar(1, file="a\0b"), "file is not the name of a file"),
    ("user in an address", lambda s: s.set_avatar(1, url="https://u:p@a.invalid/"), "url must be an address"),
    (
        "since",
        lambda s: s.list(modified_since=NAIVE),
        "modified_since must be a datetime with a time zone",
    ),
]


@pytest.mark.parametrize(("what", "call", "message"), WRONG, ids=[wrong[0] for wrong in WRONG])
def test_what_cannot_be_right_is_refused_before_anything_is_sent(what: str, call: Any, message: str) -> None:
    with Recorder([DONE]) as recorder, client(recorder) as api:
        with pytest.raises(Invalid, match=message.replace("?", r"\?")) as caught:
            call(api.students)
        assert (caught.value.status, caught.value.request) == (None, ""), what
    assert recorder.requests == []


def test_every_mistake_is_told_at_once() -> None:
    with Recorder([DONE]) as recorder, client(recorder) as api, pytest.raises(Invalid) as caught:
        api.students.update(1, birthday="soon", city=5)  # type: ignore[arg-type] # the mistake
    assert caught.value.fields == {
        "birthday": ("must be a date such as 2026-08-24",),
        "city": ("must be a string",),
    }
    assert recorder.requests == []


@pytest.mark.parametrize("url", ["http://api.example.invalid", "api.example.invalid", "https://a.invalid/v2p1"])
def test_an_address_that_would_expose_the_token_or_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^base_url: found "):
        ManageBac(url, TOKEN)


@pytest.mark.parametrize(
    "settings",
    [{"concurrency": 0}, {"timeout": -1}, {"retries": -1}, {"api_version": "../x"}, {"timeout": "x"}, {"auth": "body"}],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ManageBac("https://api.example.invalid", TOKEN, **settings)


def test_no_token_is_no_token_and_one_is_in_no_attribute_that_can_be_shown() -> None:
    with pytest.raises(ConfigError, match="token: found none"):
        ManageBac("https://api.example.invalid", None)  # type: ignore[arg-type] # an unset variable
    with ManageBac("https://api.example.invalid", TOKEN) as api:
        assert TOKEN not in repr(vars(api))


def test_a_filter_may_be_anything_that_yields_ids() -> None:
    with Recorder([page(1)]) as recorder, client(recorder) as api:
        assert [student.id for student in api.students.list(ids=(key for key in [1]))] == [1]
    assert recorder.requests[0].target.startswith("/v2p1/students?ids%5B%5D=1&")


# As a library ------------------------------------------------------------------------------------------------------


def test_threads_may_share_a_client() -> None:
    with Recorder([FIZZ]) as recorder, client(recorder) as api, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: api.students.get(2054).id, range(40)))
    assert found == [2054] * 40
    assert api.requests == len(recorder.requests) == 40


SCRIPT = """
from datetime import date
from rostersync.managebac import Invalid, ManageBac, Student, StudentList

def graduates(api: ManageBac, year_group: int) -> list[int]:
    students: StudentList = api.students.list(status="graduated", year_group_ids=[year_group], per_page=50)
    return [student.id for student in students if student.birthday and student.birthday < date(2009, 1, 1)]

def move(api: ManageBac, key: int) -> str:
    try:
        student: Student = api.students.update(key, city="Ljubljana", nickname=None, parent_ids=[3])
    except Invalid as error:
        return ", ".join(text for texts in error.fields.values() for text in texts)
    return student.city or ""
"""

MISTAKES = """
from rostersync.managebac import ManageBac

def wrong(api: ManageBac) -> None:
    api.students.update(1, citty="Ljubljana")
    api.students.update(1, birthday=3)
    api.students.list(status="enroled")
    api.students.get("2054")
"""


def test_a_users_script_is_checked_by_mypy(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(SCRIPT)
    wrong.write_text(MISTAKES)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(": ")[0] for line in checked.stdout.splitlines() if ": error: " in line]
    assert lines == [f"wrong.py:{line}" for line in (5, 6, 7, 8)], checked.stdout


def test_the_client_alone_imports_neither_a_database_nor_a_scheduler() -> None:
    code = "import sys, rostersync.managebac; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"rostersync", "requests"} <= set(loaded)
    assert not {"sqlalchemy", "apscheduler", "alembic", "click", "pydantic", "psycopg"} & set(loaded)


def test_the_client_is_silent() -> None:
    code = f"""
from rostersync.managebac import ApiError, ManageBac
with ManageBac("http://127.0.0.1:9", {TOKEN!r}, retries=1) as api:
    try:
        api.students.get(1)
    except ApiError:
        pass
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("", "")


def test_the_ten_lines_of_the_readme_use_all_eight_endpoints() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    app = App(School(1, 30, SystemClock()), TOKEN)
    with Server(app) as server:
        script = script.replace("https://api.managebac.com", server.base_url).replace("token=...", f"token={TOKEN!r}")
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("Ljubljana 1\n", "")
    asked = Counter((method, re.sub(r"(?<=students/)\d+", "ID", path)) for method, path, _ in app.log)
    assert asked == {
        ("POST", "/v2p1/students"): 1,
        ("PATCH", "/v2p1/students/ID"): 1,
        ("PUT", "/v2p1/students/ID/avatar"): 1,
        ("DELETE", "/v2p1/students/ID/avatar"): 1,
        ("PUT", "/v2p1/students/ID/archive"): 1,
        ("PUT", "/v2p1/students/ID/unarchive"): 1,
        ("GET", "/v2p1/students/ID"): 1,
        ("GET", "/v2p1/students"): 1,
    }
