"""What the environment may say of the way to the API: a proxy where that is wanted, and whom to trust; no more."""

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
"""Where the environment may name certificates in place of those that come with this program; the first one counts."""


def proxies_for(base_url: str) -> dict[str, str]:
    """Return the proxies that the environment names for an address, by scheme; none for loopback."""
    return {} if is_loopback(urlsplit(base_url).hostname or "") else get_environ_proxies(base_url)


def tls_context() -> ssl.SSLContext:
    """Return what secures a connection: TLS 1.2 at least, a trusted certificate, and the right name in it.

    All clients share it until the file of certificates changes.

    Raises `ConfigError` if the certificates cannot be read.
    """
    named = next((name for name in _BUNDLES if os.environ.get(name)), "")
    path = os.environ[named] if named else DEFAULT_CA_BUNDLE_PATH
    try:
        if os.path.isdir(path):  # noqa: PTH112 - a text from the environment, which may name anything
            os.listdir(path)  # noqa: PTH208 - the same; OpenSSL says nothing of one that cannot be read
            return _context(capath=path)  # not shared: it costs little, and a shared one would miss changed files
        found = os.stat(path)  # noqa: PTH116 - the same
        with _loading:  # clients that are made at the same time would each load the file
            return _context_of(path, (found.st_ino, found.st_size, found.st_mtime_ns))
    except (OSError, ValueError) as error:
        reason = "it holds no certificates" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", error)
        hint = "correct the variable, or unset it" if named else "install the package certifi again"
        raise ConfigError([f"cannot read the certificates in {path} ({named or 'certifi'}): {reason}"], hint) from error


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _context_of(path: str, _version: tuple[int, ...]) -> ssl.SSLContext:
    return _context(cafile=path)


def _context(**certificates: str) -> ssl.SSLContext:
    # Neither the standard library's default nor urllib3's: both log the keys of each connection to SSLKEYLOGFILE.
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if sys.version_info >= (3, 13):  # as both do
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    ssl.SSLContext.set_alpn_protocols(context, ["http/1.1"])
    context.load_verify_locations(**certificates)
    return context


class _Context(ssl.SSLContext):
    """A context that urllib3 does not change.

    A change while another thread opens a connection may crash Python: https://github.com/python/cpython/issues/141012
    """

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Do nothing. urllib3 calls this for each connection, with the protocol that is set already."""
