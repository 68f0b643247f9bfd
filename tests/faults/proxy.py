"""A way to a PostgreSQL server on which the connection breaks where a test says: at the COMMIT that records a run."""

from __future__ import annotations

import enum
import socket
import struct
import tempfile
import threading
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer
from typing import TYPE_CHECKING

from sqlalchemy import make_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL


class Cut(enum.Enum):
    """When the connection breaks."""

    BEFORE = "before the server gets the COMMIT"
    AMID = "while the server commits"
    AFTER = "when the server has committed, and before its answer arrives"
    UNSEEN = "before the server gets the COMMIT, and it does not notice"


class Proxy(ThreadingUnixStreamServer):
    """Passes on what clients and server say to each other; `cut` is carried out once, at the next run's COMMIT."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: str, server: URL) -> None:
        self.server_url = server
        self.cut: Cut | None = None
        self.open: list[socket.socket] = []
        super().__init__(f"{folder}/.s.PGSQL.5432", _Handler)

    def hang_up(self) -> None:
        """Let the server know that everybody has left."""
        for connection in self.open:
            _end(connection)
            connection.close()

    def connect(self) -> socket.socket:
        """Connect to the server, by its Unix socket or by TCP, as libpq would."""
        host = str(self.server_url.host or self.server_url.query.get("host", "/var/run/postgresql"))
        port = self.server_url.port or int(str(self.server_url.query.get("port", 5432)))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server


class _Handler(BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.upstream = self.server.connect()
        self.server.open.append(self.upstream)
        self.mute = False
        self.answers = threading.Thread(target=self._answer, daemon=True)
        self.answers.start()
        records_a_run = False
        for message in _messages(self.request):
            records_a_run = records_a_run or b"INSERT INTO rostersync.run " in message
            if records_a_run and b"COMMIT" in message and (cut := self.server.cut):
                self.server.cut = None
                self._break(cut, message)
                return
            self.upstream.sendall(message)
        _end(self.upstream)

    def _break(self, cut: Cut, commit: bytes) -> None:
        self.mute = True
        if cut in {Cut.AMID, Cut.AFTER}:
            self.upstream.sendall(commit)
        if cut is Cut.AFTER:
            self.answers.join()
        if cut is not Cut.UNSEEN:
            _end(self.upstream)
        _end(self.request)

    def _answer(self) -> None:
        with suppress(OSError):
            while (said := self.upstream.recv(65536)) and not self.mute:
                self.request.sendall(said)
        if not self.mute:
            _end(self.request)


def _messages(client: socket.socket) -> Iterator[bytes]:
    """Yield what a client says, message by message: only the first of them does not name its type."""
    with suppress(OSError), client.makefile("rb") as stream:
        head = stream.read(4)
        while len(head) > 3:
            (length,) = struct.unpack("!I", head[-4:])
            yield head + stream.read(length - 4)
            head = stream.read(5)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Proxy]]:
    """Lend a proxy to the server of `url`, and the url that leads through it."""
    server = make_url(url)
    with tempfile.TemporaryDirectory(prefix="rs-proxy-") as folder, Proxy(folder, server) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        through = server.set(host=None, port=None, query={"host": folder})
        try:
            yield through.render_as_string(hide_password=False), proxy
        finally:
            proxy.shutdown()
            proxy.hang_up()
