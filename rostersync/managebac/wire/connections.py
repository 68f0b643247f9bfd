"""Provide HTTP connections that another thread can end at any time, even while their own thread waits for bytes.

A timeout of the HTTP library limits each wait for bytes, but not their sum. A waiting thread can be woken only if its
connection is shut down. So each connection passes its socket to the current exchange of its thread.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    import ssl

    from rostersync.secret import Secret


class Exchange:
    """One request and its response. Another thread may end it at any time.

    Use it as a context manager in the thread that sends the request. `secret` is a part of the query, which is added
    only when the request line is written. The upper layers of the HTTP library never get it, because they log addresses
    and repeat them in errors.
    """

    def __init__(self, secret: Secret | None = None) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._ended = False
        self.sent = False
        """Whether any part of the request may have been sent. If `end` is called before that, nothing will be sent."""

    def __enter__(self) -> None:
        _thread.exchange = self

    def __exit__(self, *_: object) -> None:
        _thread.exchange = None
        with self._lock:
            self._release()

    def target(self, url: str) -> str:
        """Return the target of the request line: `url`, with the secret if there is one."""
        return f"{url}{'&' if '?' in url else '?'}{self._secret.reveal()}" if self._secret else url

    def uses(self, connection: socket.socket) -> None:
        """Keep a duplicate of the connection's file descriptor for `end`.

        The library may close its own descriptor, and the system may then reuse the number for another connection.
        """
        with self._lock:
            self._release()
            self._handle = socket.socket(fileno=os.dup(connection.fileno()))
            if self._ended:
                self._shut()

    def begin_to_send(self) -> None:
        """Note that the request is being sent now. Raises `OSError` if the exchange was ended before."""
        with self._lock:
            if self._ended and not self.sent:
                raise ConnectionAbortedError(errno.ECONNABORTED, "ended before anything was sent")
            self.sent = True

    def end(self) -> None:
        """End the exchange. This has no effect if it is already complete."""
        with self._lock:
            self._ended = True
            self._shut()

    def _shut(self) -> None:
        if self._handle is not None:
            with suppress(OSError):  # the server has already closed the connection
                self._handle.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class _ThreadLocal(threading.local):
    exchange: Exchange | None = None


_thread = _ThreadLocal()


class _LogFilter(logging.Filter):
    """Filter the library's log messages about our exchanges: keep warnings and errors, and remove their values.

    The library logs queries, which may name people. It also logs headers that it cannot read, and a server may repeat
    the token in a header.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _thread.exchange is None:
            return True
        record.args, record.exc_info = (), None
        return record.levelno >= logging.WARNING


for _name in ("connection", "connectionpool", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_LogFilter())


class _Connection(HTTPConnection):
    """A connection that passes its socket to the exchange of its thread, even before the TLS handshake."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        if _thread.exchange is not None:
            _thread.exchange.uses(connection)
        return connection

    def request(self, *args: Any, **kwargs: Any) -> None:
        if _thread.exchange is not None and self.sock is not None:  # kept open since an earlier exchange
            _thread.exchange.uses(self.sock)
        super().request(*args, **kwargs)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        target = url if _thread.exchange is None else _thread.exchange.target(url)
        super().putrequest(method, target, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:  # connect before `begin_to_send`, so that a failed connection counts as nothing sent
            self.connect()
        if _thread.exchange is not None:
            _thread.exchange.begin_to_send()
        super().send(data)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same as `_Connection`, over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Adapter(HTTPAdapter):
    """The `requests` adapter, with connections that can be ended. Several threads may share it.

    It uses only the given TLS context. The library's own context would log its keys if SSLKEYLOGFILE is set.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        # The library must not retry, because the message of its error would then contain the query.
        super().__init__(pool_connections=2, pool_maxsize=32, max_retries=urllib3.Retry(total=False))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._tls)
        _use_own_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = self._tls
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, ssl_context=self._tls, **kwargs)
        _use_own_pools(manager)
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing, because the TLS context checks certificates. The library would also trust its own bundle."""


def _use_own_pools(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
