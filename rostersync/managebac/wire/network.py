"""Read proxies and trusted certificates from environment variables. No other environment variable affects a request."""

from __future__ import annotations

import os
import ssl
import sys
import threading
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from rostersync.address import is_loopback
from rostersync.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables that may contain the path of the certificates to trust.

The certificates in the first variable that is set replace the certificates of the package certifi.
"""


def proxies_for(base_url: str) -> dict[str, str]:
    """Return the proxies that environment variables define for an address, by scheme.

    The result is empty for a loopback address.
    """
    return {} if is_loopback(urlsplit(base_url).hostname or "") else get_environ_proxies(base_url)


def tls_context() -> ssl.SSLContext:
    """Return a TLS context that requires TLS 1.2 or later, and a trusted certificate with the right host name.

    If the certificates are in a file, all clients share one context until this file changes. If the certificates are in
    a folder, each call creates a new context.

    Raises `ConfigError` if the certificates cannot be read.
    """
    named = next((name for name in _BUNDLES if os.environ.get(name)), "")
    path = os.environ[named] if named else DEFAULT_CA_BUNDLE_PATH
    try:
        if os.path.isdir(path):  # noqa: PTH112 - the environment may contain a string that is not a valid path
            os.listdir(path)  # noqa: PTH208 - as above; OpenSSL does not report that it cannot read a folder
            return _context(capath=path)  # not shared, because a shared context would miss changed files
        found = os.stat(path)  # noqa: PTH116 - as above
        with _loading:  # without the lock, clients that are created at the same time would each load the file
            return _context_of(path, (found.st_ino, found.st_size, found.st_mtime_ns))
    except (OSError, ValueError) as error:
        reason = "it contains no certificates" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", error)
        hint = "correct the variable, or unset it" if named else "reinstall the package certifi"
        raise ConfigError([f"cannot read the certificates in {path} ({named or 'certifi'}): {reason}"], hint) from error


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _context_of(path: str, _version: tuple[int, ...]) -> ssl.SSLContext:
    return _context(cafile=path)


def _context(**certificates: str) -> ssl.SSLContext:
    # We do not use the default context of the standard library or of urllib3. If the environment variable
    # SSLKEYLOGFILE is set, both contexts write the keys of each connection to that file.
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if sys.version_info >= (3, 13):  # both default contexts have these flags too
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    ssl.SSLContext.set_alpn_protocols(context, ["http/1.1"])
    context.load_verify_locations(**certificates)
    return context


class _Context(ssl.SSLContext):
    """A TLS context that urllib3 cannot change.

    If a context is changed while another thread opens a connection with it, Python may crash:
    https://github.com/python/cpython/issues/141012
    """

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Do nothing. urllib3 calls this method for each connection, with the protocol that is already set."""
