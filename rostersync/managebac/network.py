"""What the environment may say of the way to the API: a proxy where that is wanted, and whom to trust; no more."""

from __future__ import annotations

import os
import ssl
import sys
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from rostersync.address import is_loopback
from rostersync.errors import ConfigError

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where the environment may name certificates in place of those that come with this program; the first one counts."""


def proxies_for(base_url: str) -> dict[str, str]:
    """Return the proxies that the environment names for an address, by scheme; none for loopback."""
    return {} if is_loopback(urlsplit(base_url).hostname or "") else get_environ_proxies(base_url)


def tls_context() -> ssl.SSLContext:
    """Return what secures a connection: TLS 1.2 at least, a certificate that is trusted, and the right name in it.

    Raises `ConfigError` where the certificates to trust cannot be read.
    """
    # Neither the standard library's default nor urllib3's: both log the keys of each connection to SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if sys.version_info >= (3, 13):  # as both do
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    _trust(context)
    return context


def _trust(context: ssl.SSLContext) -> None:
    named = next((name for name in _BUNDLES if os.environ.get(name)), "")
    path = os.environ[named] if named else DEFAULT_CA_BUNDLE_PATH
    try:
        if os.path.isdir(path):  # noqa: PTH112 - a text from the environment, which may name anything
            os.listdir(path)  # noqa: PTH208 - the same; OpenSSL says nothing of one that cannot be read
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        reason = "it holds no certificates" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", error)
        hint = "correct the variable, or unset it" if named else "install the package certifi again"
        raise ConfigError([f"cannot read the certificates in {path} ({named or 'certifi'}): {reason}"], hint) from error
