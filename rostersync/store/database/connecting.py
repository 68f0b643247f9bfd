"""Explain why a connection to PostgreSQL failed, and how to fix the problem.

A connection error has no SQLSTATE, so we have to recognise the error from its message. The messages of libpq are in
English, and the messages of the server are in the server's language. If we do not recognise a message, we show it
unchanged, because it contains only the host, the role and the database, and never a row.
"""

from __future__ import annotations

import re

from rostersync.errors import TRY_AGAIN_LATER, DatabaseUnreachable

_NAME = '"([^"]+)"'

_REFUSALS = (
    (f"role {_NAME} does not exist", 'let PostgreSQL\'s administrator create it: CREATE ROLE "{0}" LOGIN;'),
    (
        f"database {_NAME} does not exist",
        'let PostgreSQL\'s administrator create it: CREATE DATABASE "{0}" OWNER "{role}";',
    ),
    (f"role {_NAME} is not permitted to log in", 'let PostgreSQL\'s administrator permit it: ALTER ROLE "{0}" LOGIN;'),
    (
        f"[Pp]eer authentication failed for user {_NAME}",
        'run this as the system user "{0}", or map this user to that role in pg_ident.conf',
    ),
    (
        f"password authentication failed for user {_NAME}",
        "check the password in database.url or its passfile; to set a new one: ALTER ROLE \"{0}\" PASSWORD '...';",
    ),
    (
        "no password supplied",
        "the server requires a password: put ${{VARIABLE}} or the path of a passfile into database.url",
    ),
    ("no pg_hba.conf entry", "add a line for the role to pg_hba.conf, and reload the server"),
    ("permission denied for database", 'GRANT CONNECT ON DATABASE ... TO "{role}";'),
    ("(?:starting up|shutting down|not yet accepting connections)", TRY_AGAIN_LATER),
    ("(?:too many|connection slots are reserved)", "raise the server's max_connections, or close other sessions"),
)

_CERTIFICATE = (
    "the server must prove by TLS that it is the host in database.url; if you have your own certificate authority, add "
    "sslrootcert=FILE to the url"
)
_PROOF = (
    "a server on loopback must prove with scram-sha-256 that it knows the password; if this server is yours, set "
    "password_encryption = 'scram-sha-256', set the role's password again, and use scram-sha-256 in pg_hba.conf, or "
    "connect through the server's socket; if the server needs no password (trust), remove the password from "
    "database.url or ~/.pgpass"
)
_IS_IT_RUNNING = (
    "is the server running? see: systemctl status postgresql; if it is, check the host (or the socket's folder) and "
    "the port in database.url"
)


def no_connection(text: str, place: str, role: str | None) -> DatabaseUnreachable:
    """Return the error to raise if a connection to `place` as `role` failed. `text` is the error message of libpq."""
    lines = text.strip().splitlines() or ["no reason given"]
    refusal = next((line for line in lines if "FATAL:" in line or "no password supplied" in line), None)
    if unproved := next((line for line in lines if "authentication method requirement" in line), None):
        said = f"{place} did not prove by scram-sha-256 that it is yours: {_reason(unproved)}"
        return DatabaseUnreachable(said, _PROOF)
    if refusal is None and ("SSL" in lines[0] or "certificate" in lines[0]):
        return DatabaseUnreachable(f"cannot reach {place}: {_reason(lines[0])}", _CERTIFICATE)
    if refusal is None:  # the text has a line for each address of the host; we report the first line
        return DatabaseUnreachable(
            f"cannot reach {place}: the server does not answer: {_where_and_why(lines[0])}", _IS_IT_RUNNING
        )
    for pattern, hint in _REFUSALS:
        if found := re.search(pattern, refusal):
            fitting = hint.format(*found.groups(), role=role or "ROLE")
            return DatabaseUnreachable(f"{place} refused the connection: {_reason(refusal)}", fitting)
    return DatabaseUnreachable(f"{place} refused the connection: {_reason(refusal)}", "see the server's log")


def _where_and_why(line: str) -> str:
    """Return a line of a libpq error message without the prefix that announces the failure.

    The line contains the socket, or the host and the port, which might not be in the url.
    """
    return re.sub(r"^connection (?:failed|is bad): ", "", line.strip())


def _reason(line: str) -> str:
    """Return the reason in a line of a libpq error message, without the prefix that repeats the host and the port."""
    return re.sub(r"^.*(?:FATAL:\s+|fe_sendauth: |failed: )", "", line).strip()
