"""Serve the stand-in on a socket, with HTTP/1.1, keep-alive and one thread for each connection."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any, Self

from rostersync.simulator.messages import Manner, Request, Response

if TYPE_CHECKING:
    from types import TracebackType

    from rostersync.simulator.app import App

_LOOK_ROUND = 0.02  # seconds between two checks whether the server must stop
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0, so that close() resets the connection


class Server:
    """A server that serves an app in daemon threads until `close` is called. The server is also a context manager."""

    def __init__(self, app: App, host: str = "127.0.0.1", port: int = 0) -> None:
        """Start to serve `app`.

        Args:
            app: The API to serve.
            host: The address to listen on. The default is the loopback address.
            port: The port, 0 to 65535. The default 0 means any free port. `base_url` contains its number.

        Raises:
            OSError: The address or the port is not available.

        """
        self._listener = _Listener((host, port), app)
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(_LOOK_ROUND,), name="simulator", daemon=True
        )
        self._thread.start()

    @property
    def base_url(self) -> str:
        """The address without a path, such as `http://127.0.0.1:40123`."""
        host, port = self._listener.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop at once. Accept no new connections, and close all open ones. This method may be called twice."""
        self._listener.stopping.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        self._listener.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Listener(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: App) -> None:
        self.app = app
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Shut all open connections down, so that threads that wait for a client wake up."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not print errors, because clients may close their connections at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def serve(self) -> None:
        """Answer one request, and deliver the response in the manner that the response specifies."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request.to(self.path, dict(self.headers.items()), self.command, body)
        response = self.server.app.handle(request)
        body = b"" if self.command == "HEAD" else response.body
        self._deliver(_head(response), body, response)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Do not print requests."""

    def _deliver(self, head: bytes, body: bytes, response: Response) -> None:
        delivery = response.delivery
        match delivery.manner:
            case Manner.WHOLE:
                self.wfile.write(head + body)
            case Manner.TRUNCATED:
                self.wfile.write(head + body[: delivery.after])
                self.close_connection = True
            case Manner.RESET:
                if delivery.after:
                    self.wfile.write(head + body[: delivery.after])
                self._reset()
            case Manner.DRIP:
                whole = (b"", head + body) if delivery.with_headers else (head, body)
                self._drip(*whole, chunk=delivery.chunk, seconds=delivery.seconds)
            case Manner.NEVER:
                self._wait_for_leave()

    def _drip(self, at_once: bytes, slowly: bytes, *, chunk: int, seconds: float) -> None:
        self.wfile.write(at_once)
        for start in range(0, len(slowly), chunk):
            if self.server.stopping.wait(seconds):
                self.close_connection = True
                return
            self.wfile.write(slowly[start : start + chunk])

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        # Close the connection here, because the server would otherwise first shut the connection down normally.
        self.rfile.close()
        self.connection.close()

    def _wait_for_leave(self) -> None:
        self.close_connection = True
        while not self.server.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], _LOOK_ROUND)
            if readable and not self.connection.recv(1):
                return


def _head(response: Response) -> bytes:
    """Return the status line and the headers as bytes."""
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [f"Content-Length: {len(response.body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1")
