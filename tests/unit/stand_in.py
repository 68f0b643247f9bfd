"""A client of the simulator in process, for the simulator's own tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from canary import TOKEN

from rostersync.simulator import App, Request, Response, School, Switches

if TYPE_CHECKING:
    from conftest import ManualClock

HEADERS = {"auth-token": TOKEN}

Pairs = tuple[str, object]


class Client:
    """A school, the app in front of it, and short words for asking it."""

    def __init__(self, clock: ManualClock, size: int = 12, seed: int = 7, **switches: Any) -> None:
        self.clock = clock
        self.school = School(seed, size, clock, Switches(**switches))
        self.app = App(self.school, TOKEN)

    def send(self, path: str, *query: Pairs, method: str = "GET", headers: dict[str, str] | None = None) -> Response:
        pairs = [(name, str(value)) for name, value in query]
        return self.app.handle(Request(method, path, pairs, HEADERS if headers is None else headers))

    def page(self, *query: Pairs) -> dict[str, Any]:
        response = self.send("/v2p1/students", *query)
        assert response.status == 200, response
        return msgspec.json.decode(response.body)

    def ids(self, *query: Pairs) -> list[int]:
        return [int(row["id"]) for row in self.page(("per_page", 200), *query)["students"]]

    def crawl(self, *query: Pairs) -> list[dict[str, Any]]:
        first = self.page(*query, ("page", 1))
        rows = first["students"]
        for number in range(2, first["meta"]["total_pages"] + 1):
            rows += self.page(*query, ("page", number))["students"]
        return rows

    def student(self, student_id: int) -> dict[str, Any]:
        response = self.send(f"/v2p1/students/{student_id}")
        assert response.status == 200, response
        return msgspec.json.decode(response.body)["student"]
