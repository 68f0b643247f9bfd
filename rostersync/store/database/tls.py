"""Protect the connection to a PostgreSQL server. The server must prove its identity by TLS or SCRAM.

Only the url in the configuration can select weaker protection.

**A server on another machine.** We use `sslmode=verify-full` and the certificate authorities that the system trusts. In
libpq, `sslrootcert=system` selects the system's certificate authorities, but we pass the path of the system's
certificate bundle instead, for two reasons. First, libpq versions before 16 do not know the value `system`. Second, the
libpq in psycopg[binary] comes with its own OpenSSL, which looks for the certificate bundle in a folder that does not
exist on any system. If the url does not set `sslmode`, we set it, and for `verify-full` we also set `sslrootcert`. So
neither the environment (PGSSLMODE, PGSSLROOTCERT) nor a service file can weaken the protection.

**A local server.** A server is local if every host in the lists `host` and `hostaddr` is a socket, `localhost` or a
loopback address. If the url does not contain a host, the variables PGHOST and PGHOSTADDR are used. If a service file is
in use, the server is not considered local, because the service file may contain any host.

While the server is down, any user of this machine can listen on a loopback address. So on loopback we use a password
only with SCRAM. With SCRAM, the server also proves that it knows the password, and never receives the password itself.
If libpq has no password, the server does not have to prove anything. For a socket, we require nothing beyond libpq's
defaults, because only the server's account can write to the socket's folder.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

from rostersync.address import is_loopback
from rostersync.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import URL

_VERIFIED = "verify-full"
_MAYBE_PLAIN = ("allow", "prefer")
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)
_WEAKER = {
    "disable": "student data and the password are sent in plain text, and any machine can pose as the server",
    "require": "the connection is encrypted, but any machine can pose as the server and receive the password",
    "verify-ca": "any machine with a certificate from the server's authority can pose as the server",
}
_PROOF = "scram-sha-256"
_FIRST_WITH_SYSTEM = _FIRST_WITH_REQUIRE_AUTH = 160000
_USE_SOCKET = "connect through the server's socket, with ?host=/run/postgresql in the url (docs/operations.md)"


def parameters(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the parameters to pass to libpq in addition to the parameters of the url.

    Args:
        given: The parameters of the url, as `url_parameters` returns them.
        environ: The environment variables. Default: the environment of this process.

    Raises:
        ConfigError: The given `sslmode` allows plain text, the system's certificate authorities were not found, or
            libpq is too old to demand SCRAM from a server on loopback.

    """
    if _is_local(given, environ):
        needs_proof = _others_may_listen(given, environ) and _has_password(given, environ)
        return _demand_proof() if needs_proof and "require_auth" not in given else {}
    mode = str(given.get("sslmode", _VERIFIED))
    if mode in _MAYBE_PLAIN:
        hint = (
            "remove sslmode from the url, so that the server must prove its identity; or, if no one else can use the "
            "network, set sslmode=disable"
        )
        raise ConfigError([f"database.url: sslmode={mode} may send student data and the password in plain text"], hint)
    added = {} if "sslmode" in given else {"sslmode": _VERIFIED}
    if mode == _VERIFIED and given.get("sslrootcert", "system") == "system":
        added["sslrootcert"] = _system_authorities()
    return added


def require(url: str) -> None:
    """Raise `ConfigError` if the connection to a server would not be protected, in the same cases as `parameters`."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        with suppress(ImportError):  # the driver is missing, which the engine reports later
            parameters(url_parameters(parsed))


def weakness(url: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return why the connection to a PostgreSQL server is not fully protected, and a hint.

    Returns None if the connection is fully protected.

    Call this function only for a url that `parameters` has accepted.
    """
    parsed = make_url(url)
    given = url_parameters(parsed)
    if _is_local(given, environ):
        return _weakness_on_loopback(given, environ) if _others_may_listen(given, environ) else None
    mode = str(given.get("sslmode", _VERIFIED))
    if mode not in _WEAKER:
        return None
    hint = "remove sslmode from database.url; if you have your own certificate authority, add sslrootcert=FILE"
    return f"sslmode={mode} to {given.get('host') or 'a server on another machine'}: {_WEAKER[mode]}", hint


def url_parameters(url: URL) -> dict[str, Any]:
    """Return the parameters that a PostgreSQL url passes to libpq."""
    _, given = url.get_dialect()().create_connect_args(url)
    return dict(given)


def _is_local(given: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    if given.get("service") or environ.get("PGSERVICE"):
        return False
    hosts = str(given.get("host") or environ.get("PGHOST", ""))
    addresses = str(given.get("hostaddr") or environ.get("PGHOSTADDR", ""))
    return all(
        not host or host.startswith(("/", "@")) or is_loopback(host)
        for host in [*hosts.split(","), *addresses.split(",")]
    )


def _others_may_listen(given: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Return whether another user of this machine could answer in place of a local server."""
    hosts = str(given.get("host") or environ.get("PGHOST", "")).split(",")
    address = given.get("hostaddr") or environ.get("PGHOSTADDR")
    return given.get("sslmode") != _VERIFIED and bool(
        address or any(host and not host.startswith(("/", "@")) for host in hosts)
    )


def _has_password(given: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Return whether libpq may find a password. If a password file exists, we assume that one of its lines applies."""
    if given.get("password") or given.get("passfile") or environ.get("PGPASSWORD") or environ.get("PGPASSFILE"):
        return True
    try:
        return (Path.home() / ".pgpass").is_file()
    except RuntimeError:  # this user has no home folder
        return False


def _demand_proof() -> dict[str, str]:
    from psycopg import pq  # noqa: PLC0415 - installed for PostgreSQL only

    if pq.version() >= _FIRST_WITH_REQUIRE_AUTH:
        return {"require_auth": _PROOF}
    message = "database.url: libpq is too old to check that a server on loopback knows the password"
    raise ConfigError([message], f"{_USE_SOCKET}, or install libpq 16 or later")


def _weakness_on_loopback(given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, str] | None:
    method = given.get("require_auth", _PROOF if _has_password(given, environ) else None)
    if method == _PROOF:
        return None
    how = f"require_auth={method}" if method else "a loopback address without a password"
    given_away = "the student data, and perhaps the password" if method else "the student data"
    return f"{how}: any user of this machine who listens there first gets {given_away}", _USE_SOCKET


def _system_authorities() -> str:
    from psycopg import pq  # noqa: PLC0415 - installed for PostgreSQL only

    if (bundle := next(_bundles(), None)) is not None:
        return bundle
    if pq.version() >= _FIRST_WITH_SYSTEM:
        return "system"
    hint = (
        "install ca-certificates, or add sslrootcert=FILE to the url, where FILE contains the certificate of the "
        "authority that signed the server's certificate"
    )
    raise ConfigError(["database.url: found no certificates to verify the server with"], hint)


def _bundles() -> Iterator[str]:
    """Yield the paths of existing certificate bundles: first Python's default path, and then the usual paths."""
    known = ssl.get_default_verify_paths().cafile
    yield from (path for path in (known, *_BUNDLES) if path and Path(path).is_file())
