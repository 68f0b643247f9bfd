"""Why there is no connection to PostgreSQL: the server does not answer, or what it refuses, and how to fix it.

A connection that is refused has no SQLSTATE, only a text: libpq's own is English, the server's in its own language. A
text that is not recognised is passed on as it is; it names host, role and database, and never a row.
"""

from __future__ import annotations

import re

from rostersync.errors import TRY_AGAIN_LATER, DatabaseUnreachable

_NAME = '"([^"]+)"'

_REFUSALS = (
    (f"role {_NAME} does not exist", 'create it, as PostgreSQL\'s administrator: CREATE ROLE "{0}" LOGIN;'),
    (
        f"database {_NAME} does not exist",
        'create it, as PostgreSQL\'s administrator: CREATE DATABASE "{0}" OWNER "{role}";',
    ),
    (f"role {_NAME} is not permitted to log in", 'let it, as PostgreSQL\'s administrator: ALTER ROLE "{0}" LOGIN;'),
    (
        f"[Pp]eer authentication failed for user {_NAME}",
        'run this as the system user "{0}", or let this user be that role by a line in pg_ident.conf',
    ),
    (
        f"password authentication failed for user {_NAME}",
        "check the password in database.url or its passfile; a new one: ALTER ROLE \"{0}\" PASSWORD '...';",
    ),
    ("no password supplied", "the server wants a password: name one in database.url as ${{VARIABLE}}, or a passfile"),
    ("no pg_hba.conf entry", "let the role in by a line in pg_hba.conf, and reload the server"),
    ("permission denied for database", 'GRANT CONNECT ON DATABASE ... TO "{role}";'),
    ("(?:starting up|shutting down|not yet accepting connections)", TRY_AGAIN_LATER),
    ("(?:too many|connection slots are reserved)", "raise max_connections of the server, or close other sessions"),
)

_CERTIFICATE = (
    "the server must prove by TLS that it is the host in database.url; for an authority of your own add "
    "sslrootcert=FILE to the url"
)
_PROOF = (
    "a server on loopback must prove by scram-sha-256 that it knows the password; if this one is yours: set "
    "password_encryption = 'scram-sha-256', then the role's password again, then scram-sha-256 in pg_hba.conf; or use "
    "its socket; if it lets you in without a password (trust), take the password out of database.url or ~/.pgpass"
)
_IS_IT_RUNNING = (
    "is the server running? see: systemctl status postgresql; if it is, check host (a socket's folder) and port in "
    "database.url"
)


def no_connection(text: str, place: str, role: str | None) -> DatabaseUnreachable:
    """Return the error for libpq's `text` about a connection to `place` as `role`."""
    lines = text.strip().splitlines() or ["no reason given"]
    refusal = next((line for line in lines if "FATAL:" in line or "no password supplied" in line), None)
    if unproved := next((line for line in lines if "authentication method requirement" in line), None):
        said = f"{place} did not prove by scram-sha-256 that it is yours: {_reason(unproved)}"
        return DatabaseUnreachable(said, _PROOF)
    if refusal is None and ("SSL" in lines[0] or "certificate" in lines[0]):
        return DatabaseUnreachable(f"cannot reach {place}: {_reason(lines[0])}", _CERTIFICATE)
    if refusal is None:  # of several addresses, each has a line
        return DatabaseUnreachable(
            f"cannot reach {place}: the server does not answer: {_where_and_why(lines[0])}", _IS_IT_RUNNING
        )
    for pattern, hint in _REFUSALS:
        if found := re.search(pattern, refusal):
            fitting = hint.format(*found.groups(), role=role or "ROLE")
            return DatabaseUnreachable(f"{place} refused the connection: {_reason(refusal)}", fitting)
    return DatabaseUnreachable(f"{place} refused the connection: {_reason(refusal)}", "see the server's log")


def _where_and_why(line: str) -> str:
    """Return a line of libpq with the socket, or host and port: the url may name neither."""
    return re.sub(r"^connection (?:failed|is bad): ", "", line.strip())


def _reason(line: str) -> str:
    """Return what is new in a line of libpq: its beginning repeats host and port."""
    return re.sub(r"^.*(?:FATAL:\s+|fe_sendauth: |failed: )", "", line).strip()
