"""What hostile answers cost: `rostersync sync` as a real process against a server that answers like an attacker.

`.venv/bin/python tests/security/hostile_figures.py [NAME...]` prints seconds, peak memory and outcome of each.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "synthetic-token-of-the-hostile-server"
MIB = 2**20

# An answer is written to the connection as it is, chunk by chunk, status line and headers included.
Answer = Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Attack:
    """An answer to each page of the roster, and what a run makes of it."""

    name: str
    answer: Answer
    state: str = "failed"
    """How a run against it ends."""
    stored: int = 0
    slow: bool = False
    """Whether the suite leaves it out: it is too slow, or is as good as another."""


@dataclass(frozen=True)
class Figures:
    """What a process took that synced from hostile servers, and how its runs ended."""

    seconds: float
    cpu_seconds: float
    """Of the process alone, whatever else the machine does."""
    peak_mib: float
    disk_mib: float
    """The most that its open files took, the stage's included, which has no name."""
    reports: list[dict[str, Any]]
    servers: list[HostileServer]


# Answers ---------------------------------------------------------------------------------------------------------


def response(body: bytes, status: str = "200 OK", *headers: str) -> Iterator[bytes]:
    head = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    yield "\r\n".join((*head, _date(), "Connection: close", "", "")).encode()
    yield body


def _date() -> str:
    return time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime())


def meta(rows: int, **changes: Any) -> bytes:
    known = {"current_page": 1, "total_pages": 1, "total_count": rows, "per_page": 100}
    return json.dumps(known | changes).encode()


def page(rows: bytes, count: int, more: bytes = b"", **changes: Any) -> bytes:
    return b'{"students": [' + rows + b'], "meta": ' + meta(count, **changes) + more + b"}"


def student(key: int, **fields: Any) -> bytes:
    names = {"first_name": "Zorbella", "last_name": "Quindlebrook", "email": f"z{key}@example.invalid"}
    return json.dumps({"id": key, "updated_at": "2026-02-03T11:05:44.000Z"} | names | fields).encode()


def always(body: bytes, status: str = "200 OK", *headers: str) -> Answer:
    return lambda: response(body, status, *headers)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def filled(size: int, element: bytes) -> bytes:
    """Return elements of an array, `size` bytes of them."""
    return b",".join([element] * (size // (len(element) + 1)))


def with_value(value: bytes, key: int = 2) -> bytes:
    """Return a page of three good students and one who bears `value` under an unknown key."""
    hostile = b'{"id": %d, "house": %s}' % (key, value)
    return page(b",".join((student(1), hostile, student(3), student(4))), 4)


def pages_of(body: bytes, number_of_pages: int) -> Answer:
    """Answer each page with the same body, and say that there are so many."""
    return always(body.replace(b'"total_pages": 1', b'"total_pages": %d' % number_of_pages))


def records_of(size: int, value: bytes) -> bytes:
    """Return records that together have `size` bytes, 60,000 each, with `value` again and again under a key."""
    one = b'{"id": %d, "house": [' + filled(60_000, value) + b"]}"
    count = size // len(one)
    return page(b",".join(one % key for key in range(1, count + 1)), count)


def bomb(size: int) -> bytes:
    return gzip.compress(b" " * size)


def in_chunks(body: bytes, size: int) -> Answer:
    """Answer with a body that comes in tiny pieces."""

    def answer() -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{_date()}\r\n\r\n".encode()
        piece = b"%x\r\n%s\r\n"
        for start in range(0, len(body), size * 4096):
            block = body[start : start + size * 4096]
            pieces = [block[at : at + size] for at in range(0, len(block), size)]
            yield b"".join(piece % (len(one), one) for one in pieces)
        yield b"0\r\n\r\n"

    return answer


def drip(seconds: float) -> Answer:
    """Answer a byte at a time, for ever."""

    def answer() -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n{_date()}\r\n\r\n".encode()
        while True:
            time.sleep(seconds)
            yield b" "

    return answer


def headers_without_end() -> Answer:
    def answer() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Long: "
        while True:
            yield b"a" * MIB

    return answer


def endless(number_of_pages: int) -> Answer:
    """Answer each page with other students, whose records are as large as any may be."""
    numbers = itertools.count()
    total = number_of_pages * _ON_A_PAGE

    def answer() -> Iterator[bytes]:
        first = 1 + _ON_A_PAGE * next(numbers)
        rows = b",".join(student(key, house="a" * 60_000) for key in range(first, first + _ON_A_PAGE))
        return response(page(rows, total, total_pages=number_of_pages))

    return answer


_ON_A_PAGE = 33

GOOD = page(b",".join(student(key) for key in range(1, 101)), 100)
GOOD_200 = page(b",".join(student(key) for key in range(1, 201)), 200, per_page=200)


SIZE = 2_000_000  # bytes: just below what is read of an answer


def _too_many() -> Iterator[Attack]:
    yield Attack("(a good page of 200)", always(GOOD_200), "succeeded", 200)
    yield Attack("8,000 equal records without an id", always(page(filled(8_000 * 3, b"{}"), 8_000)))
    yield Attack("1,000 equal records without an id", always(page(filled(1_000 * 3, b"{}"), 1_000, per_page=1_000)))
    yield Attack("150,000 tiny records", always(page(_tiny(150_000), 150_000)))
    yield Attack("1,000,000 rows that are numbers", always(page(filled(SIZE, b"1"), MIB)))
    yield Attack("300 rows on a page of 100", always(page(b",".join(student(n) for n in range(1, 301)), 300)))
    yield Attack("total_pages of 2^63 - 1", pages_of(GOOD.replace(b'count": 100', b'count": 999'), 2**63 - 1))
    total = GOOD.replace(b'count": 100', b'count": %d' % (2**63 - 1))
    yield Attack("total_count of 2^63 - 1", always(total), "incomplete", 100)
    keys = b"0" + b"".join(b', "k%d": 1' % n for n in range(100_000))
    yield Attack("a record of 100,000 keys", always(with_value(keys)), "succeeded", 3)


def _too_large() -> Iterator[Attack]:
    lists = b"[" + filled(SIZE, b"[]") + b"]"
    yield Attack("15 MiB of [] under an unknown key", always(page(student(1), 1, _unknown(15 * MIB, b"[]"))))
    yield Attack("2 MB of [] under an unknown key", always(page(student(1), 1, _unknown(SIZE, b"[]"))), "succeeded", 1)
    yield Attack("2 MB of [] in the meta", always(_meta_of(lists)))
    yield Attack("15 MiB of [] in one record", always(with_value(b"[" + filled(15 * MIB, b"[]") + b"]")), slow=True)
    yield Attack("2 MB of [] in one record", always(with_value(lists)), "succeeded", 3)
    yield Attack("2 MB of [] in records of 60 kB", always(records_of(SIZE, b"[]")), "succeeded", 33)
    yield Attack("2 MB of {} in records of 60 kB", always(records_of(SIZE, b"{}")), "succeeded", 33, slow=True)
    yield Attack("2 MB of 1.0 in records of 60 kB", always(records_of(SIZE, b"1.0")), "succeeded", 33, slow=True)
    ten = records_of(SIZE, b"{}").replace(b'"total_count": 33', b'"total_count": 330')
    yield Attack("ten such pages, 4 at a time", pages_of(ten, 10), "incomplete", 33)
    yield Attack("2 MB of [] as an id", always(page(b'{"id": ' + lists + b"}", 1)), "succeeded", 0)
    yield Attack("a text of 2 MB", always(with_value(b'"' + b"a" * SIZE + b'"')), "succeeded", 3)
    yield Attack("a number of 2,000,000 digits", always(with_value(b"9" * SIZE)), "succeeded", 3, slow=True)
    digits = with_value(b"1").replace(b'"id": 2', b'"id": "' + b"9" * SIZE + b'"')
    yield Attack("an id of 2,000,000 digits", always(digits), "succeeded", 3, slow=True)


def _too_deep() -> Iterator[Attack]:
    yield Attack("a value nested 5,000 deep", always(with_value(nested(5_000))), "succeeded", 3)
    yield Attack("a value nested 990,000 deep", always(with_value(nested(990_000))), "succeeded", 3)
    yield Attack(
        "1,980,000 [ that are never closed", always(page(student(1) + b', {"id": 2, "x": ' + b"[" * 1_980_000, 2))
    )
    yield Attack("a meta nested 5,000 deep", always(b'{"students": [], "meta": %s}' % nested(5_000)))
    yield Attack("2 MB of escaped quotes", always(b'{"students": [NaN, "' + rb"\"" * (SIZE // 2)))


def _over_http() -> Iterator[Attack]:
    packed = bomb(1024 * MIB)
    yield Attack("2 MB in chunks of one byte", in_chunks(page(b" " * SIZE, 0), 1), "succeeded", slow=True)
    chunks = in_chunks(page(b",".join(student(n) for n in range(1, 101)) + b" " * SIZE, 400, total_pages=4), 1)
    yield Attack("the same on 4 pages", chunks, "incomplete", 100, slow=True)
    yield Attack("a gzip bomb of 1 GiB", always(packed, "200 OK", "Content-Encoding: gzip"))
    yield Attack("the same with a 404", always(packed, "404 Not Found", "Content-Encoding: gzip"), slow=True)
    yield Attack("the same with a 422", always(packed, "422 No", "Content-Encoding: gzip"), slow=True)
    yield Attack("the same with a 500", always(packed, "500 Oops", "Content-Encoding: gzip"))
    yield Attack("2 MB of [] with a 422", always(b'{"errors": [' + filled(SIZE, b"[]") + b"]}", "422 No"))
    yield Attack("headers without end", headers_without_end())
    yield Attack("10,000 headers", always(GOOD, "200 OK", *("X-Many: 1" for _ in range(10_000))))
    many = [f"X-Many-{n}: " + "a" * 60_000 for n in range(90)]
    yield Attack("90 headers of 60,000 bytes", always(GOOD, "200 OK", *many), "succeeded", 100)
    yield Attack("a byte every 50 ms", drip(0.05), slow=True)


def _tiny(count: int) -> bytes:
    return b",".join(b'{"id":%d}' % key for key in range(1, count + 1))


def _unknown(size: int, element: bytes) -> bytes:
    return b', "unknown": [' + filled(size, element) + b"]"


def _meta_of(elements: bytes) -> bytes:
    return page(student(1), 1).replace(b'"total_pages"', b'"unknown": ' + elements + b', "total_pages"')


ENDLESS = Attack("10,000 pages of students of 60 kB", endless(10_000))

GROUPS = (_too_many, _too_large, _too_deep, _over_http)


# Running ---------------------------------------------------------------------------------------------------------

_CONFIG = """
[database]
url = "sqlite:///roster.db"
[sync]
sources_at_once = 1
timeout = "20s"
retries = 0
run_deadline = "60s"
crawl_attempts = 1
"""

_SOURCE = """
[[sources]]
name = "source-{number}"
base_url = "http://127.0.0.1:{port}"
token_env = "ROSTERSYNC_TOKEN"
"""

# The peak is that of the process itself: what getrusage tells begins with the memory of whoever started it.
_PROGRAM = """
import re, runpy, sys
sys.argv[0] = "rostersync"
try:
    runpy.run_module("rostersync", run_name="__main__", alter_sys=True)
finally:
    print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


class HostileServer:
    """Answers every request for a page of the roster by an attack; its deleted feed is empty."""

    def __init__(self, answer: Answer) -> None:
        self.requests = self.size = 0
        counting = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                counting.requests += 1
                query = parse_qs(urlsplit(self.path).query)
                chunks = response(page(b"", 0)) if "deleted_since" in query else answer()
                with suppress(OSError):  # the client has had enough
                    counting.size = max(counting.size, sum(self.wfile.write(chunk) for chunk in chunks))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    @contextmanager
    def serving(self) -> Iterator[None]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()


def run(attacks: Sequence[Attack], more: str = "") -> Figures:
    """Have one process sync from one hostile server after the other, with `more` settings of `[sync]`."""
    servers = [HostileServer(attack.answer) for attack in attacks]
    with _configured(servers, more) as folder:
        figures, out, told = _measured(folder, "sync", "--json")
    reports = json.loads(out or "{}").get("runs") or [{"state": "crashed", "error": told[-1:], "inserted": 0}]
    return replace(figures, reports=reports, servers=servers)


def listed(number_of_pages: int, form: str) -> Figures:
    """Have one process list the students of a hostile server that has so many pages."""
    servers = [HostileServer(endless(number_of_pages))]
    with _configured(servers) as folder:
        figures, out, _ = _measured(folder, "students", "list", form)
    assert out.count("a" * 60_000) == number_of_pages * _ON_A_PAGE
    return replace(figures, servers=servers)


@contextmanager
def _configured(servers: Sequence[HostileServer], more: str = "") -> Iterator[Path]:
    """Lend a folder with a configuration for the servers, which serve meanwhile."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for server in servers:
            stack.enter_context(server.serving())
        sources = [_SOURCE.format(number=number, port=server.port) for number, server in enumerate(servers)]
        (folder / "config.toml").write_text(_CONFIG + more + "".join(sources))
        (folder / "config.toml").chmod(0o600)
        yield folder


def _measured(folder: Path, *words: str) -> tuple[Figures, str, list[str]]:
    """Run the program, and return what it took, what it printed, and the lines of its standard error."""
    started, cpu_before, disk = time.monotonic(), _cpu_of_children(), 0.0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words, "-c", str(folder / "config.toml")],
            env=os.environ | {"ROSTERSYNC_TOKEN": TOKEN},
            cwd=folder,
            stdout=out,
            stderr=told,
        )
        while process.poll() is None:
            disk = max(disk, _disk_mib(process.pid, {os.fstat(file.fileno()).st_ino for file in (out, told)}))
            time.sleep(0.02)
        seconds, cpu_seconds = time.monotonic() - started, _cpu_of_children() - cpu_before
        out.seek(0)
        told.seek(0)
        *lines, peak = told.read().splitlines()
        return Figures(seconds, cpu_seconds, int(peak) / 1024, disk, [], []), out.read(), lines


def _disk_mib(pid: int, but: set[int]) -> float:
    sizes: dict[int, int] = {}
    with suppress(OSError):  # it has ended
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found = handle.stat()
                if stat.S_ISREG(found.st_mode) and found.st_ino not in but:
                    sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values()) / MIB


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


ATTACKS = {attack.name: attack for attack in (*itertools.chain.from_iterable(group() for group in GROUPS), ENDLESS)}


def main() -> None:
    heads = f"{'bytes':>10} {'requests':>8} {'seconds':>7} {'of CPU':>7} {'peak MiB':>8} {'disk MiB':>8}"
    print(f"{'answer':<36} {heads}  outcome")
    for name, attack in ATTACKS.items():
        if sys.argv[1:] and not any(wanted in name for wanted in sys.argv[1:]):
            continue
        figures = run([attack])
        (server,), (report,) = figures.servers, figures.reports
        taken = f"{figures.seconds:>7.1f} {figures.cpu_seconds:>7.1f} {figures.peak_mib:>8.0f} {figures.disk_mib:>8.0f}"
        ended = f"{report['state']}, {report['inserted']} stored" + (f": {report['error']}" if report["error"] else "")
        print(f"{name:<36} {server.size:>10,} {server.requests:>8} {taken}  {ended[:150]}", flush=True)
    for form in ("--csv", "--json", "--fields=id,extra"):
        if not sys.argv[1:] or "list" in sys.argv[1:]:
            figures = listed(200, form)
            print(f"list {form}, 400 MB: {figures.seconds:.1f} s, {figures.peak_mib:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
