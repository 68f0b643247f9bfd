"""The way to a PostgreSQL server: no password and no student leaves for a server that has not proved who it is."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from canary import heard
from click.testing import CliRunner
from conftest import postgres_of_this_machine, running_postgres
from psycopg import pq

from rostersync.cli.program import program
from rostersync.clock import SystemClock
from rostersync.errors import ConfigError, DatabaseUnreachable, StoreError
from rostersync.store.backup.postgresql_programs import find, running, way_to_server
from rostersync.store.database import tls
from rostersync.store.database.engine import open_engine
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

PASSWORD = "opensesame-for-nobody"  # of no database
REMOTE = "db.school.example"


class FakeServer:
    """Says that it is PostgreSQL, has no TLS, and asks for the password in clear; it keeps what it is told."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rwb", buffering=0) as stream:
                self._talk(stream)

    def _talk(self, stream: BinaryIO) -> None:
        while len(head := stream.read(8)) == 8:
            length, code = struct.unpack("!II", head)
            if code == 80877103:  # may I use TLS?
                stream.write(b"N")
                continue
            self.heard += stream.read(length - 8)
            stream.write(b"R" + struct.pack("!II", 8, 3))  # your password, please, in clear
            self.heard += stream.read(200)
            return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


def url_of(port: int, *more: str, host: str = REMOTE) -> str:
    """Return the url of a server on this machine's loopback that goes by another machine's name."""
    return f"postgresql+psycopg://u:{PASSWORD}@{host}:{port}/d?" + "&".join(["hostaddr=127.0.0.1", *more])


def try_it(url: str) -> Exception:
    with pytest.raises((StoreError, ConfigError)) as caught:
        open_engine(url).connect()
    return caught.value


@pytest.mark.parametrize("more", ["", "sslmode=verify-full", "sslmode=verify-ca", "sslmode=require"])
def test_a_server_without_tls_is_not_told_the_password(fake: FakeServer, more: str) -> None:
    assert isinstance(try_it(url_of(fake.port, more)), DatabaseUnreachable)
    assert fake.heard == b""


@pytest.mark.parametrize("variable", ["PGSSLMODE", "PGHOSTADDR"])
def test_the_environment_does_not_weaken_it(fake: FakeServer, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, {"PGSSLMODE": "disable", "PGHOSTADDR": "192.0.2.1,127.0.0.1"}[variable])
    monkeypatch.setenv("PGPORT", str(fake.port))
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    host = REMOTE if variable == "PGSSLMODE" else "localhost"
    given = "hostaddr=127.0.0.1" if variable == "PGSSLMODE" else "host=localhost,localhost"
    try_it(f"postgresql+psycopg://u:{PASSWORD}@{host}/d?{given}&connect_timeout=2")
    assert fake.heard == b""


def test_a_service_file_does_not_weaken_it(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tmp_path / "pg_service.conf"
    services.write_text(f"[school]\nhost={REMOTE}\nhostaddr=127.0.0.1\nport={fake.port}\nsslmode=disable\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    try_it(f"postgresql+psycopg://u:{PASSWORD}@/d?service=school")
    assert fake.heard == b""


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_a_mode_that_may_end_in_plain_text_is_refused(fake: FakeServer, mode: str) -> None:
    error = try_it(url_of(fake.port, f"sslmode={mode}"))
    assert isinstance(error, ConfigError)
    assert f"sslmode={mode}" in str(error)
    assert PASSWORD not in f"{error}{error.hint}"
    assert "sslmode=disable" in error.hint
    assert fake.heard == b""


def test_an_explicit_disable_is_served_in_plain_text(fake: FakeServer) -> None:
    try_it(url_of(fake.port, "sslmode=disable"))
    assert PASSWORD.encode() in fake.heard


@pytest.mark.parametrize(
    ("parameters", "local"),
    [
        ({"host": "localhost"}, True),
        ({"host": "127.0.0.1,::1"}, True),
        ({"host": "/run/postgresql"}, True),
        ({"host": "@abstract"}, True),
        ({}, True),  # libpq's default: the socket
        ({"host": "db.school.example"}, False),
        ({"host": "localhost,db.school.example"}, False),  # the second is asked when the first does not answer
        ({"host": "localhost", "hostaddr": "192.0.2.1"}, False),
        ({"host": "db.school.example", "hostaddr": "127.0.0.1"}, False),  # a tunnel: the far end is asked to prove it
        ({"host": "localhost", "service": "school"}, False),  # whose file may say where it is
        ({"host": "localhost.school.example"}, False),
        ({"host": "127.0.0.1.school.example"}, False),
    ],
)
def test_local_is_what_cannot_lead_off_this_machine(parameters: dict[str, str], *, local: bool) -> None:
    assert ("sslmode" not in tls.parameters(parameters, {})) is local


@pytest.mark.parametrize("environ", [{"PGHOST": REMOTE}, {"PGHOSTADDR": "192.0.2.1"}, {"PGSERVICE": "school"}], ids=str)
def test_where_the_url_names_no_host_the_environment_decides_what_is_local(environ: dict[str, str]) -> None:
    assert tls.parameters({}, environ)["sslmode"] == "verify-full"


def test_what_the_url_says_of_tls_stays(tmp_path: Path) -> None:
    own = {"host": REMOTE, "sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem")}
    assert tls.parameters(own, {}) == {}
    assert tls.parameters({"host": REMOTE, "sslmode": "require"}, {}) == {}
    assert tls.parameters({"host": REMOTE, "sslrootcert": "/ca.pem"}, {}) == {"sslmode": "verify-full"}


def test_a_system_without_authorities_is_told_so_by_an_older_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_bundles", lambda: iter(()))
    assert tls.parameters({"host": REMOTE}, {})["sslrootcert"] == "system"
    monkeypatch.setattr(pq, "version", lambda: 150004)
    with pytest.raises(ConfigError) as caught:
        tls.parameters({"host": REMOTE}, {})
    assert "sslrootcert=" in caught.value.hint


# A server on loopback, where any user of the machine can listen while ours is down ---------------------------------


def without_password(port: int, *more: str) -> str:
    return url_of(port, *more, host="localhost").replace(f":{PASSWORD}@", "@")


@pytest.mark.parametrize("more", ["", "sslmode=prefer", "sslmode=require"])
def test_a_false_server_on_loopback_is_not_told_the_password(fake: FakeServer, more: str) -> None:
    error = try_it(url_of(fake.port, more, host="localhost"))
    assert PASSWORD.encode() not in fake.heard
    assert PASSWORD not in f"{error}{error.__dict__}"


@pytest.mark.parametrize("place", ["PGPASSWORD", "PGPASSFILE", "passfile", "home"])
def test_nor_is_it_told_a_password_that_is_not_in_the_url(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = tmp_path / ".pgpass"
    file.write_text(f"*:*:*:*:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path if place == "home" else tmp_path / "none"))
    if place.isupper():
        monkeypatch.setenv(place, {"PGPASSWORD": PASSWORD, "PGPASSFILE": str(file)}[place])
    try_it(without_password(fake.port, f"passfile={file}" if place == "passfile" else ""))
    assert fake.heard
    assert PASSWORD.encode() not in fake.heard


@pytest.fixture(scope="module")
def on_loopback() -> Iterator[tuple[int, Path]]:
    """A PostgreSQL that listens on loopback: its port, and the file that says how it authenticates."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="rs-tcp-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with running_postgres(folder, f"-c listen_addresses=127.0.0.1 -c port={port}") as admin:
            with psycopg.connect(host=name, port=port, user="postgres", autocommit=True) as connection:
                for method in ("md5", "scram-sha-256"):
                    connection.execute(f"SET password_encryption = '{method}'")
                    connection.execute(f"CREATE ROLE \"{method}\" LOGIN PASSWORD '{PASSWORD}'")
            assert admin.host is None
            yield port, folder / "data" / "pg_hba.conf"


def authenticate(on_loopback: tuple[int, Path], method: str, role: str) -> str:
    """Have the server authenticate in a way, and return the url for a role with the password."""
    port, hba = on_loopback
    hba.write_text(f"local all all trust\nhost all all 127.0.0.1/32 {method}\n")
    with psycopg.connect(host=str(hba.parent.parent), port=port, user="postgres", autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")
        with psycopg.connect(host=str(hba.parent.parent), port=port, user="postgres"):
            pass  # a session that began behind the reload
    return url_of(port, host="localhost").replace("u:", f"{role}:").replace("/d?", "/postgres?")


def test_a_server_on_loopback_that_knows_the_password_is_used(on_loopback: tuple[int, Path]) -> None:
    url = authenticate(on_loopback, "scram-sha-256", "scram-sha-256")
    assert uses_tls(url) is False


@pytest.mark.parametrize("method", ["trust", "password"])
def test_one_that_lets_everybody_in_or_asks_for_the_password_in_clear_gets_nothing(
    on_loopback: tuple[int, Path], method: str
) -> None:
    error = try_it(authenticate(on_loopback, method, "scram-sha-256"))
    assert isinstance(error, DatabaseUnreachable)
    assert "remove the password from database.url" in error.hint


def test_one_that_still_uses_md5_is_told_how_to_change_that(on_loopback: tuple[int, Path]) -> None:
    error = try_it(authenticate(on_loopback, "md5", "md5"))
    assert isinstance(error, DatabaseUnreachable)
    assert "scram-sha-256" in error.message
    assert "password_encryption" in error.hint
    assert "\n" not in error.message + error.hint


def test_without_a_password_a_server_on_loopback_that_lets_everybody_in_is_used_and_check_warns(
    on_loopback: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = authenticate(on_loopback, "trust", "postgres").replace(f":{PASSWORD}@", "@")
    assert uses_tls(url) is False
    _, output = check(tmp_path, url)
    (line,) = [line for line in output.splitlines() if line.startswith("warn  database")]
    assert "any user of this machine" in line


def test_a_method_that_the_url_names_stays_and_check_warns_of_a_weaker_one(
    on_loopback: tuple[int, Path], tmp_path: Path
) -> None:
    url = authenticate(on_loopback, "md5", "md5") + "&require_auth=md5"
    assert uses_tls(url) is False
    warning = "warn  database: require_auth=md5: any user of this machine who listens there first gets"
    assert f"{warning} the student data, and perhaps the password" in check(tmp_path, url)[1]
    url = authenticate(on_loopback, "scram-sha-256", "scram-sha-256")
    assert "warn  database: " not in check(tmp_path, url)[1]


@pytest.mark.parametrize(
    "given",
    [{"host": "/run/postgresql"}, {}, {"host": "localhost", "sslmode": "verify-full"}],
    ids=["socket", "the default socket", "a verified certificate"],
)
def test_what_no_other_user_can_stand_in_for_may_authenticate_as_it_likes(given: dict[str, str]) -> None:
    assert tls.parameters({**given, "password": PASSWORD}, {}) == {}


def test_an_older_libpq_that_cannot_demand_the_proof_sends_no_password(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pq, "version", lambda: 150004)
    error = try_it(url_of(fake.port, host="localhost"))
    assert isinstance(error, ConfigError)
    assert "socket" in error.hint
    assert fake.heard == b""


# `check` ---------------------------------------------------------------------------------------------------------


def check(folder: Path, url: str) -> tuple[int, str]:
    path = folder / "config.toml"
    path.write_text(
        f'[database]\nurl = "{url}"\n[[sources]]\nname = "main"\nbase_url = "http://127.0.0.1:1"\n', encoding="utf-8"
    )
    words = ("check", "-c", str(path))
    result = heard(words, CliRunner().invoke(program, list(words), env={"ROSTERSYNC_TOKEN": ""}))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("mode", "says"), [("require", "any machine"), ("verify-ca", "any machine"), ("disable", "plain")]
)
def test_check_warns_of_a_weaker_mode(fake: FakeServer, tmp_path: Path, mode: str, says: str) -> None:
    _, output = check(tmp_path, url_of(fake.port, f"sslmode={mode}"))
    (line,) = [line for line in output.splitlines() if line.startswith("warn  database")]
    assert f"sslmode={mode}" in line
    assert says in line


def test_check_refuses_what_may_be_plain_text(fake: FakeServer, tmp_path: Path) -> None:
    status, output = check(tmp_path, url_of(fake.port, "sslmode=prefer"))
    assert status == 2
    assert "fail  database: " in output
    assert fake.heard == b""


# A real server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[int, str]]:
    """A PostgreSQL on loopback with a certificate for REMOTE: its port, and the certificate of its authority."""
    programs = postgres_of_this_machine()  # that of the development dependencies knows no TLS
    if programs is None or shutil.which("openssl") is None:
        pytest.skip("needs an installed PostgreSQL, and openssl to make certificates")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="rs-tls-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        make_certificates(folder)
        files = f"-c ssl=on -c ssl_cert_file={folder}/server.pem -c ssl_key_file={folder}/server.key"
        with running_postgres(folder, f"-c listen_addresses=127.0.0.1 -c port={port} {files}", programs):
            yield port, str(folder / "ca.pem")


def make_certificates(folder: Path) -> None:
    """Make an authority, and the server's certificate by it."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    san = ("-addext", f"subjectAltName=DNS:{REMOTE}")
    make = ("openssl", "req", "-x509", *key)
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE")
    commands = [
        (*make, "-subj", "/CN=an invented authority", "-keyout", "ca.key", "-out", "ca.pem"),
        (*make, "-subj", f"/CN={REMOTE}", *san, *by, "-keyout", "server.key", "-out", "server.pem"),
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (folder / "server.key").chmod(0o600)


def uses_tls(url: str) -> bool:
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    with open_engine(url).connect() as connection, connection.begin():
        return bool(connection.exec_driver_sql(query).scalar())


def url_at(port: int, *more: str, host: str = REMOTE) -> str:
    return url_of(port, *more, host=host).replace("u:", "postgres:").replace("/d?", "/postgres?")


def test_a_server_whose_authority_the_system_trusts_is_reached_by_tls(
    secured: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, authority = secured
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    assert uses_tls(url_at(port))
    assert uses_tls(url_at(port, "sslrootcert=system"))


def test_a_server_of_an_authority_of_ones_own_is_reached_when_the_url_names_that(secured: tuple[int, str]) -> None:
    port, authority = secured
    assert uses_tls(url_at(port, f"sslrootcert={authority}"))


def test_a_server_that_proves_to_be_another_or_by_nobody_known_is_not_told_the_password(
    secured: tuple[int, str],
) -> None:
    port, authority = secured
    for url in (url_at(port), url_at(port, f"sslrootcert={authority}", host="other.school.example")):
        error = try_it(url)
        assert isinstance(error, DatabaseUnreachable)
        assert "certificate" in error.message
        assert "sslrootcert=FILE" in error.hint


# pg_dump ---------------------------------------------------------------------------------------------------------


def refused_by_pg_dump(url: str) -> str:
    """Have pg_dump connect without the engine, which would have refused before it; return what it said."""
    environment, proof = way_to_server(url)
    command = [find("pg_dump"), "--no-password", *proof]
    with pytest.raises(StoreError) as caught, running(command, "refused", env=environment, stdout=subprocess.DEVNULL):
        pass
    return caught.value.message


def back_up(folder: Path, url: str) -> int:
    check(folder, url)
    return CliRunner().invoke(program, ["db", "backup", str(folder / "b"), "-c", str(folder / "config.toml")]).exit_code


def test_a_backup_of_a_server_elsewhere_goes_by_tls(secured: tuple[int, str], tmp_path: Path) -> None:
    port, authority = secured
    url = url_at(port, f"sslrootcert={authority}")
    Store(url, SystemClock(), create=True).close()
    assert back_up(tmp_path, url) == 0


def test_pg_dump_does_not_talk_to_a_server_that_is_another(secured: tuple[int, str]) -> None:
    port, authority = secured
    said = refused_by_pg_dump(url_at(port, f"sslrootcert={authority}", host="other.school.example"))
    assert "does not match host name" in said


def test_a_backup_of_a_server_on_loopback_that_knows_the_password(
    on_loopback: tuple[int, Path], tmp_path: Path, client_programs: Path
) -> None:
    url = authenticate(on_loopback, "scram-sha-256", "scram-sha-256")
    ask = {"port": on_loopback[0], "host": str(on_loopback[1].parents[1]), "user": "postgres", "autocommit": True}
    with psycopg.connect(**ask) as connection:
        connection.execute('GRANT CREATE ON SCHEMA public TO "scram-sha-256"')
        connection.execute('GRANT CREATE ON DATABASE postgres TO "scram-sha-256"')
    Store(url, SystemClock(), create=True).close()
    assert back_up(tmp_path, url) == 0


@pytest.mark.parametrize("older", [False, True])
def test_pg_dump_sends_no_password_to_a_server_on_loopback_that_proves_nothing(
    fake: FakeServer, older: bool, request: pytest.FixtureRequest
) -> None:
    """An older one does not know how to demand a proof, and must not go on without it."""
    if not older:
        request.getfixturevalue("client_programs")
    elif postgres_of_this_machine() is None:
        pytest.skip("needs an installed PostgreSQL")
    refused_by_pg_dump(url_of(fake.port, host="localhost"))
    assert PASSWORD.encode() not in fake.heard
