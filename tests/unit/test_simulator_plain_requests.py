"""All eight endpoints, asked by a plain script that knows nothing but the vendor's documents and `requests`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests
from canary import TOKEN

from rostersync.clock import SystemClock
from rostersync.simulator import App, School, Server

if TYPE_CHECKING:
    from collections.abc import Iterator


def script(base_url: str) -> Iterator[object]:
    """Yield, call by call, what a reader of the documents would look at."""
    session = requests.Session()
    session.headers["auth-token"] = TOKEN
    students = f"{base_url}/v2p1/students"

    page = session.get(students, params={"archived": "0", "per_page": 5}, timeout=5).json()
    yield len(page["students"]), page["meta"]["per_page"]

    sent = {"email": "zorbela.brinquay@example.invalid", "first_name": "Zorbela", "last_name": "Brinquay"}
    created = session.post(students, json={"student": sent}, timeout=5)
    student = f"{students}/{created.json()['student']['id']}"
    yield created.status_code, created.json()["student"]["last_name"]

    yield session.patch(student, json={"student": {"city": "Ljubljana"}}, timeout=5).json()["student"]["city"]

    avatar = {"avatar": {"remote_file_url": "https://images.example.invalid/1.png"}}
    yield session.put(f"{student}/avatar", json=avatar, timeout=5).json()
    first = session.get(student, timeout=5).json()["student"]["photo_url"]
    yield session.put(f"{student}/avatar", files={"avatar[file]": ("1.png", b"\x89PNG")}, timeout=5).json()
    second = session.get(student, timeout=5).json()["student"]["photo_url"]
    yield first != second

    yield session.delete(f"{student}/avatar", timeout=5).json()
    yield "photo_url" in session.get(student, timeout=5).json()["student"]

    yield session.put(f"{student}/archive", json={"graduated_on": "2026-06-30"}, timeout=5).json()
    record = session.get(student, timeout=5).json()["student"]
    yield record["archived"], record["graduated_on"]

    yield session.put(f"{student}/unarchive", timeout=5).json()
    record = session.get(student, timeout=5).json()["student"]
    yield record["archived"], record.get("graduated_on"), record["city"]
    session.close()


def test_a_plain_script_uses_all_eight_endpoints() -> None:
    ok = {"status": "ok"}
    with Server(App(School(1, 20, SystemClock()), TOKEN)) as server:
        assert list(script(server.base_url)) == [
            (5, 5),
            (201, "Brinquay"),
            "Ljubljana",
            *(ok, ok, True),
            *(ok, False),
            *(ok, (True, "2026-06-30")),
            *(ok, (False, None, "Ljubljana")),
        ]
