"""The stand-in answers as `simulator_table.toml` says, row by row, over real HTTP."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from canary import TOKEN

from rostersync.simulator import App, RateLimit, School, Server, Switches

if TYPE_CHECKING:
    from conftest import ManualClock

Row = dict[str, Any]

ROWS: list[Row] = tomllib.loads((Path(__file__).parent / "simulator_table.toml").read_text(encoding="utf-8"))["row"]
TOKENS = {"all": TOKEN, "read-only": f"{TOKEN}-reads", "unknown": f"{TOKEN}-unknown"}
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) + b"--boundary\n\r\r\n"

KEYS = {"shows", "tag", "source", "request", "send", "type", "file", "token", "shown", "switches", "limit", "before"}
KEYS |= {"status", "headers", "body", "has", "text", "then"}

ENDPOINTS = {
    "GET /students",
    "GET /students/ID",
    "POST /students",
    "PATCH /students/ID",
    "PUT /students/ID/archive",
    "PUT /students/ID/unarchive",
    "PUT /students/ID/avatar",
    "DELETE /students/ID/avatar",
}
DOCUMENTED_ERRORS = {
    "GET /students": {401},
    "GET /students/ID": {401, 404, 429},
    "POST /students": {400, 401, 403, 404, 422},
    "PATCH /students/ID": {400, 401, 403, 404, 422, 429},
    "PUT /students/ID/archive": {400, 401, 403, 404, 422},
    "PUT /students/ID/unarchive": {401, 403, 404},
    "PUT /students/ID/avatar": {400, 401, 403, 404, 422},
    "DELETE /students/ID/avatar": {401, 403, 404},
}


def a_school(row: Row, clock: ManualClock) -> School:
    """Return the school of which the head of the table tells, an hour before the request."""
    clock.advance(-3600)
    switches = row.get("switches", {}).items()
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in switches}
    school = School(7, 3, clock, Switches(**tuples))
    school.create(id=2054, **SOMEONE)
    school.create(id=2055, email="taken@example.invalid", photo_url=None)
    school.archive(2055, withdrawn_on="2026-01-31")
    school.create(id=2056, email="gone@example.invalid")
    school.delete(2056)
    clock.advance(3600)
    return school


SOMEONE = {
    "email": "someone@example.invalid",
    "nickname": "Plimsy",
    "birthday": "2011-05-06",
    "nationalities": ["GB"],
    "parent_ids": [30000001],
    "year_group_id": 10209272,
    "homeroom_advisor_id": 10752544,
    "graduating_year": 2030,
    "oa_id": "5",
    "photo_url": "https://files.example.invalid/avatars/2054?signature=00000000",
}


def send(row: Row, base_url: str) -> requests.Response:
    method, target = row["request"].split(" ")
    headers, params = shown(row)
    body = row["send"].encode() if "send" in row else None
    if body is not None:
        headers["Content-Type"] = row.get("type", "application/json")
    files = {row["file"]: ("image.png", IMAGE)} if "file" in row else None
    url = base_url + target
    return requests.request(method, url, params=params, data=body, files=files, headers=headers, timeout=5)


def shown(row: Row) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers and the parameters that show the row's token."""
    if row.get("token") == "none":
        return {}, {}
    token = TOKENS[row.get("token", "all")]
    match row.get("shown", "header"):
        case "query":
            return {}, {"auth_token": token}
        case "bearer":
            return {"Authorization": f"Bearer {token}"}, {}
        case _:
            return {"auth-token": token}, {}


def lacks(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Return where `found` is not what is wanted at least; null wants a key not to be there."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [line for key, value in wanted.items() for line in lacks(found.get(key), value, f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [line for turn, pair in pairs for line in lacks(*pair, f"{path}[{turn}]")]
    return [] if found == wanted else [f"{path}: {found!r} instead of {wanted!r}"]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['request'].replace('/', ' ')} {row['shows']}" for row in ROWS])
def test_the_simulator_answers_as_the_table_says(row: Row, clock: ManualClock) -> None:
    school = a_school(row, clock)
    limit = RateLimit(*row["limit"]) if "limit" in row else None
    with Server(App(school, TOKENS["all"], read_only_token=TOKENS["read-only"], rate_limit=limit)) as server:
        for _ in range(row.get("before", 0)):
            send(row, server.base_url)
        before = school.truth()
        response = send(row, server.base_url)
    assert response.status_code == row["status"], response.text
    assert lacks(dict(response.headers), row.get("headers", {})) == []
    check_body(row, response)
    if response.status_code >= 400:
        assert school.truth() == before
    if "then" in row:
        assert lacks(school.truth()[student_of(row, response)], json.loads(row["then"])) == []


def check_body(row: Row, response: requests.Response) -> None:
    if "text" in row:
        assert (response.text, response.headers["Content-Type"]) == (row["text"], "text/plain")
        return
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    if "body" in row:
        assert response.json() == json.loads(row["body"])
    assert lacks(response.json(), json.loads(row.get("has", "{}"))) == []


def student_of(row: Row, response: requests.Response) -> int:
    """Return the id in the path, or the one that the answer to a create names."""
    number = row["request"].split("/")[3:4]
    return int(number[0]) if number else response.json()["student"]["id"]


# The table itself ------------------------------------------------------------------------------------------------


def endpoint(row: Row) -> str:
    method, target = row["request"].split(" ")
    parts = target.partition("?")[0].split("/")[2:]
    return " ".join((method, "/" + "/".join("ID" if turn == 1 else part for turn, part in enumerate(parts))))


def test_every_row_says_how_far_it_is_known_and_where_from() -> None:
    for row in ROWS:
        assert row["tag"] in {"documented", "client", "assumed"}, row
        assert row["source"] != "-" or row["tag"] == "assumed", row
        assert row.keys() <= KEYS, row


def test_the_table_shows_all_eight_endpoints_succeed_and_fail_in_each_documented_way() -> None:
    successes = {endpoint(row) for row in ROWS if row["status"] < 400}
    assert successes >= ENDPOINTS
    for name, statuses in DOCUMENTED_ERRORS.items():
        assert {row["status"] for row in ROWS if endpoint(row) == name} >= statuses, name
