"""`rostersync simulator`: what its options make of the school that it serves."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import requests
from canary import heard
from click.testing import CliRunner
from conftest import ManualClock

from rostersync.cancel import CancelScope
from rostersync.cli.simulator import command
from rostersync.errors import RostersyncError, Stopped

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from click.testing import Result

TOKEN = "t0k3n"  # not the canary: this command prints it
WRITE = {"student": {"email": "new@example.invalid", "last_name": "Newquay"}}


class VisitingClock(ManualClock):
    """Pays the simulator a visit when it first waits, and then ends it."""

    def __init__(self, visit: Callable[[], None]) -> None:
        super().__init__()
        self._visit = visit

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._visit()
        raise Stopped(2)


def run(*words: str, visit: Callable[[], None] = lambda: None) -> Result:
    arguments = ["--students", "5", "--token", TOKEN, *words]
    return heard(("simulator",), CliRunner().invoke(command, arguments, obj=CancelScope(VisitingClock(visit))))


def visited(*words: str, ask: Callable[[str, requests.Session], None]) -> None:
    """Run the simulator on some port, and let `ask` use it, with the address of its list."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    def visit() -> None:
        with requests.Session() as session:
            session.headers["auth-token"] = TOKEN
            ask(f"http://127.0.0.1:{port}/v2p1/students", session)

    result = run("--port", str(port), *words, visit=visit)
    assert result.exit_code == 0, (result.output, result.exception)


def test_it_serves_writes() -> None:
    def ask(url: str, session: requests.Session) -> None:
        assert session.post(url, json=WRITE, timeout=5).status_code == 201
        assert session.get(url, params={"q": "new@"}, timeout=5).json()["meta"]["total_count"] == 1

    visited(ask=ask)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), {"email"}),
        (("--switch", "status_key=true"), {"email", "status"}),
        (("--switch", "nulls=1", "--switch", "without_keys=email,city"), {"graduated_on"}),
    ],
)
def test_every_switch_can_be_set(words: tuple[str, ...], shown: set[str]) -> None:
    def ask(url: str, session: requests.Session) -> None:
        [record] = session.get(url, params={"archived": 0, "per_page": 1}, timeout=5).json()["students"]
        assert {"email", "status", "graduated_on"} & set(record) == shown

    visited(*words, ask=ask)


def test_one_student_is_deleted_by_a_command_while_it_serves() -> None:
    def ask(url: str, session: requests.Session) -> None:
        number = session.get(url, timeout=5).json()["students"][0]["id"]
        words = ["delete", str(number), "--url", url.removesuffix("/v2p1/students")]
        done = heard(("simulator",), CliRunner().invoke(command, words))
        assert done.exit_code == 0
        assert session.get(f"{url}/{number}", timeout=5).status_code == 404
        assert session.get(url, params={"deleted_since": "2026-01-01"}, timeout=5).json()["meta"]["total_count"] == 1
        again = CliRunner().invoke(command, words)
        assert isinstance(again.exception, RostersyncError)
        assert again.exception.message == f"there is no student {number}"

    visited(ask=ask)


def test_a_deletion_says_where_no_simulator_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = CliRunner().invoke(command, ["delete", "5", "--url", f"http://127.0.0.1:{port}"])
    assert isinstance(done.exception, RostersyncError)
    assert str(port) in done.exception.message


def test_its_two_tokens_are_printed_with_what_they_may_do() -> None:
    result = run("--read-only-token", f"{TOKEN}-reads")
    assert f"export ROSTERSYNC_TOKEN={TOKEN}\n" in result.stdout
    assert f"export ROSTERSYNC_TOKEN={TOKEN}-reads" in result.stdout
    assert "without the admin role" in result.stdout


@pytest.mark.parametrize("status", [403, 401])
def test_a_token_without_the_admin_role_reads_and_its_writes_are_refused(status: int) -> None:
    def ask(url: str, session: requests.Session) -> None:
        session.headers["auth-token"] = "simulator-read-only-token"
        assert session.get(url, timeout=5).status_code == 200
        assert session.post(url, json=WRITE, timeout=5).status_code == status

    visited("--switch", f"write_denied={status}", ask=ask)


def test_the_rate_can_be_limited() -> None:
    def ask(url: str, session: requests.Session) -> None:
        assert [session.get(url, timeout=5).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert session.get(url, timeout=5).headers["X-RateLimit-Period"] == "90"

    visited("--rate-limit", "3/1m30s", ask=ask)


@pytest.mark.parametrize(("name", "status"), [("unavailable", 503), ("rate-limited", 429), ("html", 200)])
def test_a_fault_answers_instead(name: str, status: int) -> None:
    def ask(url: str, session: requests.Session) -> None:
        response = session.post(url, json=WRITE, timeout=5)
        assert (response.status_code, "json" in response.headers["Content-Type"]) == (status, False)

    visited("--fault", f"{name}=1", ask=ask)


@pytest.mark.parametrize("name", ["reset", "cut-off", "lost-answer"])
def test_a_fault_breaks_the_connection(name: str) -> None:
    def ask(url: str, session: requests.Session) -> None:
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            session.post(url, json=WRITE, timeout=5)

    visited("--fault", f"{name}=1", ask=ask)


def test_a_slow_answer_takes_longer_than_a_hasty_client_waits() -> None:
    def ask(url: str, session: requests.Session) -> None:
        with pytest.raises(requests.ReadTimeout):
            session.get(url, timeout=0.2)

    visited("--fault", "slow=1", ask=ask)


def test_a_lost_answer_befalls_writes_only_and_they_are_done() -> None:
    def ask(url: str, session: requests.Session) -> None:
        with pytest.raises(requests.ConnectionError):
            session.post(url, json=WRITE, timeout=5)
        assert session.get(url, params={"q": "new@"}, timeout=5).json()["meta"]["total_count"] == 1

    visited("--fault", "lost-answer=1", ask=ask)


def test_a_fault_falls_on_its_share_of_the_requests() -> None:
    def ask(url: str, session: requests.Session) -> None:
        failed = [session.get(url, timeout=5).status_code for _ in range(100)].count(503)
        assert 20 < failed < 60

    visited("--fault", "unavailable=0.4", "--fault", "html=0", ask=ask)


def test_a_fault_without_a_share_falls_on_one_request_in_ten() -> None:
    def ask(url: str, session: requests.Session) -> None:
        failed = [session.get(url, timeout=5).status_code for _ in range(200)].count(503)
        assert 5 < failed < 40

    visited("--fault", "unavailable", ask=ask)


@pytest.mark.parametrize("text", ["60", "60/", "/1m", "0/1m", "-1/1m", "60/0s", "60/minute", "x/1m", "1.5/1m", ""])
def test_a_rate_that_is_none_is_an_error(text: str) -> None:
    result = run("--rate-limit", text)
    assert result.exit_code == 2
    assert f"{text!r} is not a number of requests and a duration, such as 60/1m" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("avalanche", "'avalanche' is not a fault; known: unavailable, rate-limited, reset, slow, cut-off, html, "),
        ("", "'' is not a fault; known: "),
        ("slow=2", "'2' is not a fraction from 0 to 1"),
        ("slow=nan", "'nan' is not a fraction"),
        ("slow=half", "'half' is not a fraction"),
        ("slow=", "'' is not a fraction"),
    ],
)
def test_a_fault_that_is_not_known_or_has_no_share_is_an_error(text: str, said: str) -> None:
    result = run("--fault", text)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("statuskey=true", "'statuskey' is not a switch; did you mean status_key?"),
        ("status_key", "'status_key' is not a switch and its value, such as status_key=true"),
        ("status_key=maybe", "status_key cannot be 'maybe'; it is bool"),
        ("order=age", "order cannot be 'age'; it is Literal['id', '-id', 'updated_at', '-updated_at', 'random']"),
        ("per_page_cap=x", "per_page_cap cannot be 'x'; it is int"),
    ],
)
def test_a_switch_that_is_not_known_or_has_no_such_value_is_an_error(text: str, said: str) -> None:
    result = run("--switch", text)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_two_tokens_that_are_the_same_are_an_error() -> None:
    result = run("--read-only-token", TOKEN)
    assert result.exit_code == 2
    assert "give two different ones" in result.output
