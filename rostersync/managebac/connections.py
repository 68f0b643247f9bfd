"""Connections that can be ended from outside, at any instant, while a thread waits for their bytes.

A timeout of the HTTP library limits each wait for bytes, not their sum; and nothing but the end of its connection wakes
a thread that waits. So each connection tells the exchange of its thread which socket it uses.
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
    """One exchange while it goes on: whoever waits for it may end it, at any instant, from another thread.

    `secret` is a part of the query that is added only when the request goes out. So the HTTP library does not have it,
    which logs addresses, and quotes them in its errors.
    """

    def __init__(self, secret: Secret | None = None) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._ended = False
        self.sent = False
        """Whether anything may have gone out: an exchange that was ended before will send nothing any more."""

    def __enter__(self) -> None:
        _here.exchange = self

    def __exit__(self, *_: object) -> None:
        _here.exchange = None
        with self._lock:
            self._release()

    def target(self, url: str) -> str:
        """Return the target of the request line: `url` with the secret."""
        return f"{url}{'&' if '?' in url else '?'}{self._secret.reveal()}" if self._secret else url

    def uses(self, connection: socket.socket) -> None:
        """Keep a second handle to the connection, so that no close and reuse of the first can mislead `end`."""
        with self._lock:
            self._release()
            self._handle = socket.socket(fileno=os.dup(connection.fileno()))
            if self._ended:
                self._shut()

    def begin_to_send(self) -> None:
        """Note that the request goes out now. Raises `OSError` where the exchange was ended before."""
        with self._lock:
            if self._ended and not self.sent:
                raise ConnectionAbortedError(errno.ECONNABORTED, "ended before anything was sent")
            self.sent = True

    def end(self) -> None:
        """End the exchange; one that has ended by itself is not disturbed."""
        with self._lock:
            self._ended = True
            self._shut()

    def _shut(self) -> None:
        if self._handle is not None:
            with suppress(OSError):  # the other side was faster
                self._handle.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class _Here(threading.local):
    exchange: Exchange | None = None


_here = _Here()


class _Discretion(logging.Filter):
    """Removes the values from the library's messages about our exchanges, and drops messages below a warning.

    The library logs queries, which may name people. It also logs headers that it cannot read, in which a server may
    repeat the token.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _here.exchange is None:
            return True
        record.args, record.exc_info = (), None
        return record.levelno >= logging.WARNING


for _name in ("connection", "connectionpool", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_Discretion())


class _Told(HTTPConnection):
    """A connection that tells the exchange of its thread about its socket, from the first handshake on."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        if _here.exchange is not None:
            _here.exchange.uses(connection)
        return connection

    def request(self, *args: Any, **kwargs: Any) -> None:
        if _here.exchange is not None and self.sock is not None:  # kept open since an earlier exchange
            _here.exchange.uses(self.sock)
        super().request(*args, **kwargs)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        target = url if _here.exchange is None else _here.exchange.target(url)
        super().putrequest(method, target, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:  # here as the library does, so that a connection that fails has sent nothing
            self.connect()
        if _here.exchange is not None:
            _here.exchange.begin_to_send()
        super().send(data)


class _ToldSecurely(_Told, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Told


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _ToldSecurely


class Adapter(HTTPAdapter):
    """The library's adapter, over connections that can be ended. Its pools may be shared by threads.

    TLS is by the given context alone: one that the library made would be told by the environment to log its keys.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        # Without retries of its own an error is raised as it is, not wrapped in one whose text holds the query.
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
        """Leave the check of certificates to the context: the library would add its own bundle to those named."""


def _use_own_pools(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
