"""What protects the way to a PostgreSQL server: TLS or SCRAM prove who it is, unless the url says otherwise.

A server off this machine gets `sslmode=verify-full` and the authorities that the system trusts, which is what libpq
calls `sslrootcert=system`. They are named by the path of the system's bundle: a libpq before 16 does not know that
word, and the one of psycopg[binary] has an OpenSSL of its own, which looks for them where no system has them.

Local is what cannot lead off this machine: sockets, `localhost` and loopback addresses only, in a list of hosts each of
them, as `host` and as `hostaddr`. Where the url names neither, PGHOST and PGHOSTADDR count. A service file may name any
host, so with one nothing is local. What the url does not say of TLS, the environment (PGSSLMODE, PGSSLROOTCERT) and a
service file do not say either: they could weaken it unseen.

Any user of this machine can listen on a loopback address while the server is down. So we use a password there only for
SCRAM, in which the server proves that it knows the password too, and never receives it. Without a password nothing is
proved. A socket is in a folder that only the server's account can write, so libpq's own rules apply there.
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
    "disable": "students and password travel in plain text, to any server that answers in its place",
    "require": "encrypted, but any server may answer in its place, and is given the password",
    "verify-ca": "any server with a certificate of the same authority may answer in its place",
}
_PROOF = "scram-sha-256"
_FIRST_WITH_SYSTEM = _FIRST_WITH_REQUIRE_AUTH = 160000
_USE_SOCKET = "connect by the server's socket: ?host=/run/postgresql in the url (docs/operations.md)"


def parameters(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the parameters of libpq to add to those that the url gives.

    Raises `ConfigError` for a mode that may end in plain text, if nobody knows whom the system trusts, and if libpq is
    too old to demand the proof of a server on loopback.
    """
    if _is_local(given, environ):
        needs_proof = _others_may_listen(given, environ) and _has_password(given, environ)
        return _demand_proof() if needs_proof and "require_auth" not in given else {}
    mode = str(given.get("sslmode", _VERIFIED))
    if mode in _MAYBE_PLAIN:
        hint = (
            "remove sslmode from the url, so that the server must prove who it is; or, if the network is yours alone, "
            "say sslmode=disable"
        )
        raise ConfigError([f"database.url: sslmode={mode} would send students and password in plain text"], hint)
    added = {} if "sslmode" in given else {"sslmode": _VERIFIED}
    if mode == _VERIFIED and given.get("sslrootcert", "system") == "system":
        added["sslrootcert"] = _system_authorities()
    return added


def require(url: str) -> None:
    """Raise `ConfigError` if the way to the server of `url` is not protected; see `parameters`."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        with suppress(ImportError):  # without a driver the way is not used; the engine says so
            parameters(url_parameters(parsed))


def weakness(url: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return what is wrong with the way to the server of a PostgreSQL url that can be used, and a hint; or None."""
    parsed = make_url(url)
    given = url_parameters(parsed)
    if _is_local(given, environ):
        return _weakness_on_loopback(given, environ) if _others_may_listen(given, environ) else None
    mode = str(given.get("sslmode", _VERIFIED))
    if mode not in _WEAKER:
        return None
    hint = "remove sslmode from database.url; for an authority of your own add sslrootcert=FILE"
    return f"sslmode={mode} to {given.get('host') or 'a server off this machine'}: {_WEAKER[mode]}", hint


def url_parameters(url: URL) -> dict[str, Any]:
    """Return what a PostgreSQL url tells libpq."""
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
    """Return whether libpq may find a password; a file of passwords counts, whatever it contains."""
    if given.get("password") or given.get("passfile") or environ.get("PGPASSWORD") or environ.get("PGPASSFILE"):
        return True
    try:
        return (Path.home() / ".pgpass").is_file()
    except RuntimeError:  # this user has no home
        return False


def _demand_proof() -> dict[str, str]:
    from psycopg import pq  # noqa: PLC0415 - installed for PostgreSQL only

    if pq.version() >= _FIRST_WITH_REQUIRE_AUTH:
        return {"require_auth": _PROOF}
    message = "database.url: this libpq cannot make a server on loopback prove that it knows the password"
    raise ConfigError([message], f"{_USE_SOCKET}, or install libpq 16 or later")


def _weakness_on_loopback(given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, str] | None:
    method = given.get("require_auth", _PROOF if _has_password(given, environ) else None)
    if method == _PROOF:
        return None
    how = f"require_auth={method}" if method else "a loopback address without a password"
    given_away = "the students, and perhaps the password" if method else "the students"
    return f"{how}: any user of this machine who listens there first is given {given_away}", _USE_SOCKET


def _system_authorities() -> str:
    from psycopg import pq  # noqa: PLC0415 - installed for PostgreSQL only

    if (bundle := next(_bundles(), None)) is not None:
        return bundle
    if pq.version() >= _FIRST_WITH_SYSTEM:
        return "system"
    hint = "install ca-certificates, or add sslrootcert=FILE to the url, the certificate of the server's authority"
    raise ConfigError(["database.url: found no certificates of authorities to verify the server with"], hint)


def _bundles() -> Iterator[str]:
    """Yield the files of authorities that the system trusts: OpenSSL's as Python knows it, then the usual places."""
    known = ssl.get_default_verify_paths().cafile
    yield from (path for path in (known, *_BUNDLES) if path and Path(path).is_file())
