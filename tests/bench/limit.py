"""The bare limit: what it takes to fetch the pages over a raw socket, parse them and write the rows, and nothing more.

No retries, no history, no guard, one reading, nothing checked: nobody should use it.

`limit.py load PORT PER_PAGE DATABASE` does that. `limit.py requests PORT PER_PAGE TIMES` only fetches every page so
many times, over four connections at once.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
import threading
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator


class Client:
    """One connection, kept open."""

    def __init__(self, port: int, per_page: int) -> None:
        self._per_page = per_page
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(2**20)

    def page(self, number: int) -> bytes:
        """Return the body of one page of the roster."""
        ask = f"GET /v2p1/students?page={number}&per_page={self._per_page} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        self._socket.sendall(ask.encode())
        view, got = memoryview(self._buffer), 0
        end = length = -1
        while end < 0 or got < end + length:
            got += self._socket.recv_into(view[got:])
            if end < 0 and (blank := self._buffer.find(b"\r\n\r\n", 0, got)) >= 0:
                end = blank + 4
                at = self._buffer.index(b"Content-Length: ") + 16
                length = int(self._buffer[at : self._buffer.index(b"\r", at)])
        return bytes(view[end:got])


def pages(client: Client) -> Iterator[list[dict[str, Any]]]:
    number, total = 1, 1
    while number <= total:
        page = msgspec.json.decode(client.page(number))
        total = page["meta"]["total_pages"]
        yield page["students"]
        number += 1


def values(student: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        msgspec.json.encode(value).decode() if isinstance(value, list) else value for value in student.values()
    )


def load_sqlite(client: Client, path: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("BEGIN")
    insert = ""
    for students in pages(client):
        if not insert:
            names = list(students[0])
            database.execute(f"CREATE TABLE student (id INTEGER PRIMARY KEY, {', '.join(names[1:])})")
            insert = f"INSERT INTO student VALUES ({', '.join('?' * len(names))})"
        database.executemany(insert, map(values, students))
    database.execute("COMMIT")
    database.close()


def load_postgresql(client: Client, url: str) -> None:
    import psycopg  # noqa: PLC0415 - it must not cost the other database anything

    kinds = {int: "bigint", bool: "boolean", list: "jsonb"}
    with psycopg.connect(url) as database:
        pulled = iter(pages(client))
        first = next(pulled)
        columns = ", ".join(f"{name} {kinds.get(type(value), 'text')}" for name, value in first[0].items())
        database.execute(f"CREATE TABLE student ({columns}, PRIMARY KEY (id))")
        database.execute("CREATE TEMP TABLE staged (LIKE student)")
        with database.cursor().copy("COPY staged FROM STDIN") as copy:
            for students in chain([first], pulled):
                for student in students:
                    copy.write_row(values(student))
        database.execute("INSERT INTO student SELECT * FROM staged")


def fetch(port: int, per_page: int, times: int, connections: int = 4) -> None:
    """Fetch all pages so many times, over so many connections at once."""
    total = msgspec.json.decode(Client(port, per_page).page(1))["meta"]["total_pages"]
    numbers = iter([*range(2, total + 1)] + [*range(1, total + 1)] * (times - 1))
    lock = threading.Lock()

    def work() -> None:
        client = Client(port, per_page)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            client.page(number)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    verb, port, per_page, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if verb == "requests":
        fetch(port, per_page, int(what))
    elif what.startswith("postgresql"):
        load_postgresql(Client(port, per_page), what)
    else:
        load_sqlite(Client(port, per_page), what)
