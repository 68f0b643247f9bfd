"""The environment chooses no proxy unasked and gets no keys of connections; a stored name is no path."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from canary import TOKEN
from school_site import Site, serve

from rostersync.clock import SystemClock
from rostersync.managebac.wire.network import proxies_for, tls_context
from rostersync.simulator import App, School, Server, faults
from rostersync.store.queue.lock import lock_source
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

CERTIFICATE = Path(__file__).with_name("localhost.pem")
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BUNDLES, "SSLKEYLOGFILE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url, 3) as site:
        yield site


# Proxies ---------------------------------------------------------------------------------------------------------


class Proxy:
    """Notes what it is asked for, and refuses it."""

    def __init__(self) -> None:
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.heard += connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that the environment names in every way, on a machine that knows no name."""
    proxy = Proxy()
    for name in PROXIES:
        monkeypatch.setenv(name, proxy.url)
    resolve = socket.getaddrinfo

    def refuse(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in {"127.0.0.1", "localhost"}:
            return resolve(host, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_never_asked_through_a_proxy(site: Site, proxy: Proxy, host: str, wanted: bool) -> None:
    base_url = site.base_url.replace("127.0.0.1", host)
    site.configure(f"[network]\nproxy_from_env = {str(wanted).lower()}\n", base_url=base_url)
    site.ok("students", "list")
    site.ok("sync")
    assert proxy.heard == b""


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://127.8.9.1", "https://[::1]:2", "https://localhost"])
def test_every_address_of_this_machine_is_loopback(proxy: Proxy, address: str) -> None:
    assert proxies_for(address) == {}


def test_a_proxy_of_the_environment_is_used_when_the_configuration_says_so_only(site: Site, proxy: Proxy) -> None:
    site.configure(base_url="https://students.invalid")
    result = site.run("students", "list")
    assert "connection to students.invalid failed (DNS: no such name)" in result.stderr
    assert proxy.heard == b""
    site.configure("[network]\nproxy_from_env = true\n", base_url="https://students.invalid")
    assert "connection to students.invalid failed (proxy)" in site.run("students", "list").stderr
    assert proxy.heard.startswith(b"CONNECT students.invalid:443 ")
    assert TOKEN.encode() not in proxy.heard


def test_a_token_in_the_address_is_for_the_configured_host_only(site: Site, proxy: Proxy) -> None:
    """It is in no header then, and nothing that a command writes shows it: the canaries are searched for that."""
    site.configure(auth="parameter", allow_writes="true")
    heads: list[dict[str, str]] = []
    site.app.on_request = lambda request: heads.append(request.headers)
    for words in (["check"], ["sync"], ["students", "list"], ["verify"]):
        site.ok(*words)
    key = str(min(site.school.truth()))
    site.ok("students", "update", key, "--set", "nickname=Quell", "--yes")
    assert len(heads) == len(site.app.log) >= 10
    assert not any("auth-token" in head for head in heads)
    assert all(("auth_token", TOKEN) in query for _, _, query in site.app.log)

    site.configure("[network]\nproxy_from_env = true\n", base_url="https://students.invalid", auth="parameter")
    assert "(proxy)" in site.run("students", "list").stderr
    assert proxy.heard.startswith(b"CONNECT students.invalid:443 ")
    assert TOKEN.encode() not in proxy.heard


@pytest.mark.parametrize("target", ["{base}{path}", "https://elsewhere.invalid{path}", "/{token}"])
def test_a_redirect_that_repeats_an_address_with_the_token_shows_nothing_of_it(site: Site, target: str) -> None:
    site.configure(auth="parameter")
    path = f"/v2p1/students?page=1&auth_token={TOKEN}"
    location = target.format(base=site.base_url, path=path, token=TOKEN)
    site.faults.add(faults.redirect(location), times=None)
    for words in (["sync"], ["students", "list"], ["check"]):
        result = site.run(*words)
        assert result.exit_code == 1
        assert "redirects to" in result.output
        assert TOKEN not in result.output


def test_hosts_that_the_environment_excepts_are_asked_directly(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "students.invalid")
    site.configure("[network]\nproxy_from_env = true\n", base_url="https://students.invalid")
    assert "(DNS: no such name)" in site.run("students", "list").stderr
    assert proxy.heard == b""


# TLS -------------------------------------------------------------------------------------------------------------


@contextmanager
def secured(host: str = "127.0.0.1") -> Iterator[str]:
    """Serve a school over TLS on loopback; yields its base_url."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with Server(App(School(1, 3, SystemClock()), TOKEN), host) as server:
        server._listener.socket = context.wrap_socket(server._listener.socket, server_side=True)
        yield server.base_url.replace("http:", "https:")


@pytest.mark.parametrize("name", BUNDLES[:3])
def test_certificates_that_the_environment_names_are_trusted_and_no_keys_are_logged(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    keys = site.folder / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    with secured() as base_url:
        site.configure(base_url=base_url)
        result = site.run("students", "list")
        assert result.exit_code == 1
        assert "failed (TLS)" in result.stderr
        monkeypatch.setenv(name, str(CERTIFICATE))
        assert "3 students" in site.run("students", "list").stderr
        site.ok("sync")
    assert not keys.exists()


def test_no_keys_are_logged_of_a_connection_to_a_proxy_either(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = site.folder / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    with secured() as address:
        for name in PROXIES:
            monkeypatch.setenv(name, address)
        site.configure("[network]\nproxy_from_env = true\n", base_url="https://students.invalid")
        assert "(proxy)" in site.run("students", "list").stderr
    assert proxy.heard == b""
    assert not keys.exists()


def test_a_certificate_of_another_host_is_not_accepted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    with secured("127.0.0.2") as base_url:
        site.configure(base_url=base_url)
        assert "failed (TLS)" in site.run("students", "list").stderr


def test_no_connection_is_older_than_tls_1_2_or_unchecked() -> None:
    context = tls_context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.keylog_filename is None


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of certificates that the environment names, and that no other test has loaded."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle.pem"))
    return Path(shutil.copy(CERTIFICATE, tmp_path / "bundle.pem"))


def test_sources_that_are_synced_side_by_side_load_the_certificates_once(
    site: Site, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = list[str](), ssl.SSLContext.load_verify_locations

    def slowly(context: ssl.SSLContext, cafile: str) -> None:
        loaded.append(cafile)
        time.sleep(0.1)  # so that the clients of other sources are made meanwhile
        load(context, cafile)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", slowly)
    with secured() as base_url:
        site.configure(base_url=base_url, sources=("main", "annex", "third", "fourth"))
        site.ok("sync")
        site.ok("verify")
    assert loaded == [str(bundle)]


def test_a_file_of_certificates_that_was_replaced_is_loaded_again(bundle: Path) -> None:
    before = tls_context()
    assert tls_context() is before
    Path(shutil.copy(CERTIFICATE, f"{bundle}.new")).replace(bundle)
    assert tls_context() is not before


def test_a_certificate_that_is_added_to_a_folder_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(site.folder))
    with secured() as base_url:
        site.configure(base_url=base_url)
        assert "failed (TLS)" in site.run("students", "list").stderr
        shutil.copy(CERTIFICATE, site.folder / "ce275665.0")  # as `openssl x509 -hash` says
        site.ok("students", "list")


def test_connections_leave_the_context_that_they_share_as_it_is(
    site: Site, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tls_context()
    before = settings(context)
    monkeypatch.setattr(ssl.SSLContext, "set_alpn_protocols", None)  # which no connection may call
    with secured() as base_url, secured("127.0.0.2") as other:
        for address in (other, base_url):
            site.configure(base_url=address)
            site.run("students", "list")
        monkeypatch.setenv("HTTPS_PROXY", base_url)
        site.configure("[network]\nproxy_from_env = true\n", base_url="https://students.invalid")
        assert "(proxy)" in site.run("students", "list").stderr
    assert tls_context() is context
    assert settings(context) == before
    assert context.cert_store_stats()["x509"] == 1, bundle


def settings(context: ssl.SSLContext) -> dict[str, Any]:
    """Return what a context requires of its connections."""
    names = ("check_hostname", "verify_mode", "verify_flags", "minimum_version", "maximum_version", "options")
    return {name: getattr(context, name) for name in (*names, "hostname_checks_common_name", "keylog_filename")}


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize(("file", "reason"), [("missing.pem", "No such file"), ("notes.txt", "it contains no certif")])
def test_certificates_that_cannot_be_read_are_told_with_the_variable_that_names_them(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str, file: str, reason: str
) -> None:
    path = site.folder / file
    (site.folder / "notes.txt").write_text("not a certificate\n", encoding="utf-8")
    monkeypatch.setenv(name, str(path))
    site.ok("sync")  # of plain http on loopback nobody needs one
    site.configure(base_url="https://127.0.0.1:1")
    for words in (["students", "list"], ["sync"], ["check"]):
        result = site.run(*words)
        assert result.exit_code == 2, words
        assert f"cannot read the certificates in {path} ({name}): {reason}" in result.output
        assert "correct the variable, or unset it" in result.output


# Names -----------------------------------------------------------------------------------------------------------

NAMES = ("../x", "a/b", "..", "", "n" * 300, "two\nlines", "\u202e", "-c")


@pytest.mark.parametrize("name", [*NAMES, "nul\0"])
def test_a_stored_name_that_no_file_can_bear_ends_no_command(site: Site, name: str) -> None:
    assert_works(site, name)
    assert {path.name for path in site.folder.iterdir()} <= {"config.toml", "database"}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_on_postgresql(tmp_path: Path, postgres_url: str, name: str) -> None:
    with serve(tmp_path, postgres_url, 3) as site:
        assert_works(site, name)


def assert_works(site: Site, name: str) -> None:
    site.ok("sync")
    with Store(site.database_url, SystemClock()).writing() as connection:
        lock_source(connection, name)
    assert "no longer configured; still in the database: 0 students" in site.ok("status")
    assert name in {source["source"] for source in site.json("status")["sources"]}
    for words in (["sync"], ["runs"], ["verify"], ["check"]):
        site.ok(*words)
    assert ": purged nothing" in bare_ok(site, "source", "forget", "--yes", "-c", str(site.path), "--", name)
    assert site.rows("SELECT name FROM source") == [("main",)]


def bare_ok(site: Site, *words: str) -> str:
    result = site.run_bare(*words)
    assert result.exit_code == 0, result.output
    return result.stdout
