"""Provide HTTP connections that another thread can end at any time, even while their own thread waits for data.

The HTTP library's timeout limits each wait for data, but not the sum of all waits. If a thread is waiting, we can wake
it only by shutting down its connection. So each connection passes its socket to the exchange that its thread is
carrying out.
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

    Use an exchange as a context manager in the thread that sends the request. `secret` is a part of the query that is
    added only when the request line is written. The upper layers of the HTTP library never get this secret, because
    they write addresses to logs and repeat addresses in errors.
    """

    def __init__(self, secret: Secret | None = None) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._ended = False
        self.sent = False
        """Whether any part of the request may have been sent. If `end` is called while this is False, nothing will be
        sent."""

    def __enter__(self) -> None:
        _thread.exchange = self

    def __exit__(self, *_: object) -> None:
        _thread.exchange = None
        with self._lock:
            self._release()

    def target(self, url: str) -> str:
        """Return the target for the request line, which is `url`, followed by the secret if there is one."""
        return f"{url}{'&' if '?' in url else '?'}{self._secret.reveal()}" if self._secret else url

    def uses(self, connection: socket.socket) -> None:
        """Duplicate the connection's file descriptor, so that `end` can shut down the connection.

        We do not use the library's own descriptor, because the library may close it, and the system may then use the
        same number for another connection.
        """
        with self._lock:
            self._release()
            self._handle = socket.socket(fileno=os.dup(connection.fileno()))
            if self._ended:
                self._shut()

    def begin_to_send(self) -> None:
        """Record that the request is being sent now. Raises `OSError` if the exchange has already been ended."""
        with self._lock:
            if self._ended and not self.sent:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the exchange was ended before anything was sent")
            self.sent = True

    def end(self) -> None:
        """End the exchange. This has no effect if the exchange is already complete."""
        with self._lock:
            self._ended = True
            self._shut()

    def _shut(self) -> None:
        if self._handle is not None:
            with suppress(OSError):  # this happens if the server has already closed the connection
                self._handle.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class _ThreadLocal(threading.local):
    exchange: Exchange | None = None


_thread = _ThreadLocal()


class _LogFilter(logging.Filter):
    """Reduces the library's log messages about our exchanges to warnings and errors, and removes the values in them.

    The library logs queries, which may contain names of people. It also logs headers that it cannot parse, and a server
    may repeat the token in such a header.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _thread.exchange is None:
            return True
        record.args, record.exc_info = (), None
        return record.levelno >= logging.WARNING


for _name in ("connection", "connectionpool", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_LogFilter())


class _Connection(HTTPConnection):
    """A connection that passes its socket to the exchange of its thread before the TLS handshake begins."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        if _thread.exchange is not None:
            _thread.exchange.uses(connection)
        return connection

    def request(self, *args: Any, **kwargs: Any) -> None:
        if _thread.exchange is not None and self.sock is not None:  # the connection was kept open for reuse
            _thread.exchange.uses(self.sock)
        super().request(*args, **kwargs)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        target = url if _thread.exchange is None else _thread.exchange.target(url)
        super().putrequest(method, target, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:  # connect before `begin_to_send`, so that nothing counts as sent if the connection fails
            self.connect()
        if _thread.exchange is not None:
            _thread.exchange.begin_to_send()
        super().send(data)


class _SecureConnection(_Connection, HTTPSConnection):
    """A connection like `_Connection`, but with TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Adapter(HTTPAdapter):
    """An adapter for `requests`, with connections that can be ended. Several threads may share an adapter.

    The adapter uses only the given TLS context. The library's own context would write the TLS keys to a file if the
    environment variable SSLKEYLOGFILE is set.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        # The library must not repeat requests, because the message of the final error would contain the query.
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
        """Do nothing, because the TLS context checks certificates.

        The library's own method would also trust the certificates that come with the library.
        """


def _use_own_pools(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
