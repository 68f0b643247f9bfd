"""A PostgreSQL that cannot be used says why: it is not there, or what it refuses, and what to do."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from conftest import running_postgres

from rostersync.errors import DatabaseUnreachable, StoreError
from rostersync.store import probe
from rostersync.store.database.connecting import no_connection
from rostersync.store.database.engine import open_engine
from rostersync.store.schema.rows import insert_all
from rostersync.store.stage import tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

ROLE = "invented_role"


class Server:
    """A server of these tests' own, whose pg_hba.conf and pg_ident.conf may be changed."""

    def __init__(self, folder: Path, admin: URL) -> None:
        self.data, self.admin = folder / "data", admin

    def admit(self, hba: str, ident: str = "") -> None:
        """Let sessions in as these files say; those of the administrator stay."""
        (self.data / "pg_ident.conf").write_text(ident)
        (self.data / "pg_hba.conf").write_text(f"local all postgres trust\n{hba}\n")
        with self.session() as connection:
            loaded = connection.execute("SELECT pg_conf_load_time()").fetchone()
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGHUP)
        while True:
            time.sleep(0.05)
            with self.session() as connection:
                if connection.execute("SELECT pg_conf_load_time()").fetchone() != loaded:
                    return

    def session(self) -> psycopg.Connection:
        return psycopg.connect(self.admin.set(drivername="postgresql").render_as_string(), autocommit=True)

    def url(self, role: str = ROLE, password: str | None = None, database: str = "postgres") -> str:
        url = self.admin.set(username=role, password=password, database=database)
        return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    temporary = tempfile.TemporaryDirectory(prefix="rs-pg-", ignore_cleanup_errors=True)
    with temporary as folder, running_postgres(Path(folder)) as admin:
        Path(folder).chmod(0o755)
        server = Server(Path(folder), admin)
        with server.session() as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'right'")
        yield server


def refused(url: str) -> DatabaseUnreachable:
    with pytest.raises(DatabaseUnreachable) as caught:
        probe.level(url)
    return caught.value


def test_a_role_that_is_not_there_is_told_with_the_statement_that_makes_it(server: Server) -> None:
    server.admit("local all all trust")
    error = refused(server.url(role="nobody-there"))
    assert error.message.endswith('refused the connection: role "nobody-there" does not exist')
    statement = error.hint.partition(": ")[2]
    assert statement == 'CREATE ROLE "nobody-there" LOGIN;'
    with server.session() as connection:
        connection.execute(statement.encode())
    assert probe.level(server.url(role="nobody-there"))


def test_a_role_that_may_not_log_in_is_told_with_the_statement_that_lets_it(server: Server) -> None:
    server.admit("local all all trust")
    with server.session() as connection:
        connection.execute("CREATE ROLE locked")
        error = refused(server.url(role="locked"))
        assert error.message.endswith('refused the connection: role "locked" is not permitted to log in')
        connection.execute(error.hint.partition(": ")[2].encode())
    assert probe.level(server.url(role="locked"))


def test_a_database_that_is_not_there_is_told_with_the_statement_that_makes_it(server: Server) -> None:
    server.admit("local all all trust")
    error = refused(server.url(database="nowhere"))
    assert error.message.endswith('refused the connection: database "nowhere" does not exist')
    statement = error.hint.partition(": ")[2]
    assert statement == f'CREATE DATABASE "nowhere" OWNER "{ROLE}";'
    with server.session() as connection:
        connection.execute(statement.encode())
    assert probe.level(server.url(database="nowhere"))


def test_a_server_that_is_not_there_is_no_role_that_is_not_there(server: Server) -> None:
    for host, where in (
        ("host=/nonexistent", '"/nonexistent/.s.PGSQL.5432"'),
        ("host=127.0.0.1&port=1", '"127.0.0.1", port 1 '),
        ("host=no-such-host.invalid&sslmode=disable", "'no-such-host.invalid'"),
    ):
        error = refused(f"postgresql+psycopg://{ROLE}@/postgres?{host}")
        assert "the server does not answer: " in error.message
        assert where in error.message
        assert "is the server running?" in error.hint


@pytest.mark.parametrize(
    ("hba", "password", "said", "hint"),
    [
        ("local all all peer", None, "Peer authentication failed", f'system user "{ROLE}"'),
        (
            "local all all scram-sha-256",
            None,
            "no password supplied",
            "requires a password: put ${",
        ),
        (
            "local all all scram-sha-256",
            "wrong",
            "password authentication failed",
            "check the password in database.url",
        ),
        ("local nowhere all trust", None, "no pg_hba.conf entry", "pg_hba.conf, and reload the server"),
    ],
)
def test_what_the_server_refuses_is_told_with_the_way_out(
    server: Server, hba: str, password: str | None, said: str, hint: str
) -> None:
    server.admit(hba)
    error = refused(server.url(password=password))
    assert f"refused the connection: {said}" in error.message
    assert hint in error.hint
    assert "wrong" not in error.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_services_user_and_root_are_the_role_by_peer_authentication_and_nobody_else_is(server: Server) -> None:
    """`daemon` stands for the service's user. Without such a user, as in a container, root is the role by a map."""
    server.admit("local all all peer map=roster", f"roster daemon {ROLE}\nroster root {ROLE}\n")
    assert probe.level(server.url())  # as root
    for user, right in (("daemon", True), ("nobody", False)):
        assert (_connects(user, server.url()) is None) == right


def _connects(user: str, url: str) -> str | None:
    """Return why `user` gets no session at `url`; None when they get one."""
    entry, (reader, writer) = pwd.getpwnam(user), os.pipe()
    child = os.fork()
    if not child:
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        try:
            probe.level(url)
        except BaseException as error:  # noqa: BLE001 - the child must end here
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        return said.read().decode() or None


TWO_ADDRESSES = (
    'connection failed: connection to server at "::1", port 5432 failed: Connection refused\n'
    'connection to server at "127.0.0.1", port 5432 failed: FATAL:  role "x" does not exist'
)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            TWO_ADDRESSES,
            'refused the connection: role "x" does not exist',
            'CREATE ROLE "x" LOGIN;',
        ),
        ("... failed: FATAL:  Rolle »x« existiert nicht", "refused the connection: Rolle »x« existiert nicht", "log"),
        ("... failed: FATAL:  the database system is starting up", "is starting up", "try again later"),
        ("... failed: FATAL:  sorry, too many clients already", "sorry, too many clients", "max_connections"),
        ("server closed the connection unexpectedly", "does not answer: server closed the connection", "running?"),
        ("", "does not answer: no reason given", "running?"),
    ],
)
def test_other_texts_are_told_apart_too(text: str, said: str, hint: str) -> None:
    error = no_connection(text, "PLACE", "x")
    assert said in error.message
    assert hint in error.hint


# Rows in bulk, which go past SQLAlchemy --------------------------------------------------------------------------


def test_a_session_that_ends_while_rows_are_copied_is_told_as_anywhere_else(server: Server) -> None:
    with open_engine(server.url("postgres")).connect() as connection:
        with connection.begin():
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with server.session() as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(DatabaseUnreachable, match=r"^cannot (use|reach) postgresql"), connection.begin():
            insert_all(connection, tables.deletions, [(1, 1, None)])
        connection.invalidate()


def test_rows_that_the_server_does_not_take_are_told_without_their_values(server: Server) -> None:
    engine = open_engine(server.url("postgres"))
    with engine.connect() as connection:
        tables.attach(connection, None)
        with connection.begin(), pytest.raises(StoreError, match="refused a statement") as caught:
            insert_all(connection, tables.deletions, [("Zorbella", 1, None)])
    assert "Zorbella" not in f"{caught.value} {caught.value.hint}"
