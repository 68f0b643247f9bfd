"""A school for the benchmark: a process that serves students so fast that it is never what a client waits for.

Unlike the simulator it varies in nothing: records are made once as text, pages are cut out of them. It honours the
filters, counts requests and bytes, and does as it is told under /control/. `upstream.py SIZE LATENCY [CERTIFICATE]`
prints its port; with a certificate it serves HTTPS.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

FIRST_ID = 10_000_001
LONG_AGO = "2024-09-01T08:00:00.000Z"


def record(number: int, updated_at: str = LONG_AGO) -> bytes:
    """Return the JSON of an invented student: 34 fields and some 850 bytes, as documented."""
    grade = number % 12 + 1
    return json.dumps(
        {
            "id": FIRST_ID + number,
            "email": f"zorbella.{number}@example.invalid",
            "first_name": f"Zorbella{number}",
            "last_name": f"Quandlewick{number % 977}",
            "middle_name": "",
            "nickname": f"Zorb{number % 31}",
            "preferred_name": f"Zorbella {number}",
            "archived": False,
            "ui_language": "en",
            "created_at": "2021-06-28T12:40:05.000Z",
            "updated_at": updated_at,
            "last_accessed_at": "2024-08-31T17:03:22.000Z",
            "student_id": f"S{number:06}",
            "identifier": f"u-{number}",
            "gender": "Non-binary",
            "birthday": f"20{10 + number % 9}-0{number % 9 + 1}-1{number % 9}",
            "timezone": "Europe/Kyiv",
            "phone_number": f"+000 55 {number:07}",
            "mobile_phone_number": f"+000 77 {number:07}",
            "street_address": f"{number} Imaginary Lane",
            "city": "Nowhereton",
            "state": "Fableshire",
            "zipcode": f"{number % 99_999:05}",
            "country": "SI",
            "nationalities": ["SI", "UA"],
            "languages": ["ENG", "SLV"],
            "parent_ids": [30_000_000 + number, 35_000_000 + number],
            "role": "Student",
            "year_group_id": 11_000_000 + grade,
            "homeroom_advisor_id": 12_000_000 + number % 97,
            "graduating_year": 2038 - grade,
            "attendance_start_date": "2021-09-01",
            "class_grade": f"Grade {grade}",
            "class_grade_number": grade,
        },
        separators=(",", ":"),
    ).encode()


class School:
    """Who is there, who has changed, who has left; and what was asked since that was last told."""

    def __init__(self, size: int) -> None:
        self.living = {FIRST_ID + number: record(number) for number in range(size)}
        self.roster = list(self.living.values())
        self.changed: list[bytes] = []
        self.left: list[int] = []
        self.last_event = LONG_AGO
        self.asked: list[str] = []
        self.sent = 0

    def change(self, changed: int, left: int) -> None:
        """Let the first students change, and the last ones leave."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for number in range(changed):
            text = record(number, now).replace(b'"city":"Nowhereton"', b'"city":"Mythwich"')
            self.living[FIRST_ID + number] = text
            self.changed.append(text)
        for key in list(self.living)[len(self.living) - left :]:
            del self.living[key]
            self.left.append(key)
        self.roster = list(self.living.values())
        self.last_event = now

    def answer(self, target: str) -> tuple[int, bytes]:
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path.startswith("/control/"):
            return 200, self.control(url.path, query)
        self.asked.append(target)
        status, body = self.student(url.path) if url.path.count("/") > 2 else (200, self.page(url.query, query))
        self.sent += len(body)
        return status, body

    def control(self, path: str, query: dict[str, str]) -> bytes:
        if path == "/control/change":
            self.change(int(query["changed"]), int(query["left"]))
        told = {
            "requests": len(self.asked),
            "bytes": self.sent,
            "asked": self.asked if path == "/control/asked" else [],
        }
        self.asked, self.sent = [], 0
        return json.dumps(told).encode()

    def student(self, path: str) -> tuple[int, bytes]:
        text = self.living.get(int(path.rsplit("/", 1)[1]))
        return (404, b'{"error":"Not found"}') if text is None else (200, b'{"student":' + text + b"}")

    def page(self, raw: str, query: dict[str, str]) -> bytes:
        rows = self.rows(raw, query)
        number, size = int(query.get("page", 1)), int(query.get("per_page", 100))
        meta = {
            "current_page": number,
            "total_pages": -(-len(rows) // size) or 1,
            "total_count": len(rows),
            "per_page": size,
        }
        cut = rows[(number - 1) * size : number * size]
        return b'{"students":[' + b",".join(cut) + b'],"meta":' + json.dumps(meta).encode() + b"}"

    def rows(self, raw: str, query: dict[str, str]) -> list[bytes]:
        if "modified_since" in query:
            return self.changed if self.last_event >= query["modified_since"] else []
        if "deleted_since" in query:
            return [b'{"id":%d}' % key for key in self.left] if self.last_event >= query["deleted_since"] else []
        if "ids[]" in query:
            asked = [int(key) for key in parse_qs(raw)["ids[]"]]
            return [self.living[key] for key in asked if key in self.living]
        return self.roster


class Connection(asyncio.Protocol):
    """One connection, kept open; each request gets its answer after the latency."""

    def __init__(self, school: School, latency: float) -> None:
        self._school, self._latency = school, latency
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, self._received = self._received.split(b"\r\n\r\n", 1)
            target = head.split(b" ", 2)[1].decode()
            if self._latency and not target.startswith("/control/"):
                asyncio.get_running_loop().call_later(self._latency, self._send, target)
            else:
                self._send(target)

    def _send(self, target: str) -> None:
        status, body = self._school.answer(target)
        head = f"HTTP/1.1 {status} OK\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def main(size: int, latency: float, certificate: str | None) -> None:
    school, secured = School(size), None
    if certificate:
        secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secured.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(school, latency), "127.0.0.1", 0, ssl=secured)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
