"""No error that leaves the client holds the token, so an error tracker that sends all of it does not send that."""

from __future__ import annotations

import copy
import gc
import json
import logging
import pickle
import traceback
from contextlib import suppress
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import pytest
from canary import TOKEN
from msgspec.structs import replace

from rostersync.clock import SystemClock
from rostersync.errors import ApiError, ConfigError, Invalid, Unreachable
from rostersync.logger import get_logger
from rostersync.managebac import ManageBac
from rostersync.observe import log
from rostersync.secret import Secret
from rostersync.simulator import App, School, Server, faults
from rostersync.simulator.messages import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def app() -> App:
    return App(School(1, 3, SystemClock()), TOKEN)


@pytest.fixture
def base_url(app: App) -> Iterator[str]:
    with Server(app) as server:
        yield server.base_url


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it came of, also where `from None` hides that."""
    while error is not None:
        yield error
        if error.__cause__ is not None and error.__context__ is not error.__cause__:
            yield from chain(error.__context__)
        error = error.__cause__ or error.__context__


def frames_of(error: BaseException) -> Iterator[FrameType]:
    for one in chain(error):
        yield from (frame for frame, _ in traceback.walk_tb(one.__traceback__))


def reachable(error: BaseException) -> Iterator[Any]:
    """Yield every object that hangs on an error, without those that its frames hold."""
    seen: set[int] = set()
    waiting: list[Any] = list(chain(error))
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, FrameType, TracebackType)):
            continue
        seen.add(id(one))
        yield one
        waiting += gc.get_referents(one)


def inside(value: object, depth: int = 6) -> Iterator[object]:
    """Yield a value, and the attributes and elements that a debugger would show of it, but for those of a `Secret`."""
    yield value
    if depth and not isinstance(value, (Secret, type, ModuleType, FunctionType, App, Server)):
        parts = [*value.values()] if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        slots = (getattr(value, name, None) for name in getattr(type(value), "__slots__", ()))
        for part in (*parts, *getattr(value, "__dict__", {}).values(), *slots):
            yield from inside(part, depth - 1)


def assert_holds_no_token(error: BaseException) -> None:
    for one in chain(error):
        assert not {"request", "response"} & {name for name, value in vars(one).items() if not isinstance(value, str)}
    texts = (one for one in reachable(error) if isinstance(one, (str, bytes)))
    assert not [one for one in texts if TOKEN in str(one)]
    frames = [frame for frame in frames_of(error) if frame.f_globals["__name__"] != __name__]
    assert not [frame for frame in frames if frame.f_globals["__name__"].split(".")[0] in LIBRARIES]
    shown = [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_name}: {name}"
        for frame in frames
        for name, value in frame.f_locals.items()
        if type(value).__module__.split(".")[0] in LIBRARIES or any(TOKEN in repr(one) for one in inside(value))
    ]
    assert shown == []


LIBRARIES = {"requests", "urllib3", "http"}  # what is of their making may hold the request

BROKEN = {
    "cut off": faults.cut_off(),
    "reset": faults.reset(),
    "reset in the body": faults.reset(200),
    "gzip bomb": faults.gzip_bomb(),
    "too large": faults.oversize(),
    "never": faults.never_answers(),
    "truncated": faults.truncated_json(),
    "401": faults.unauthorized(),
    "429": faults.rate_limited(seconds=0),
    "500": faults.http_status(500),
    "redirect": faults.redirect(f"https://elsewhere.invalid/{TOKEN}"),
    # The libraries do not wrap the errors that they make of these.
    "a chunk of less than nothing": lambda _: Response(200, {"Transfer-Encoding": "chunked"}, b"-5\r\n     "),
    "a chunk without end": lambda _: Response(200, {"Transfer-Encoding": "chunked"}, b"-80000000000000000\r\n     "),
}


@pytest.mark.parametrize("auth", ["header", "parameter"])
@pytest.mark.parametrize("name", BROKEN)
def test_an_error_after_a_broken_answer_holds_no_request_and_no_token(
    app: App, base_url: str, name: str, auth: Any
) -> None:
    app.faults.add(BROKEN[name], times=None)
    with ManageBac(base_url, TOKEN, auth=auth, retries=0, timeout=0.5) as api:
        student = min(app.school.truth())
        calls: list[Callable[[], object]] = [
            lambda: list(api.students.list()),
            lambda: api.students.get(student),
            lambda: api.students.update(student, city="Ljubljana"),
        ]
        for call in calls:
            with pytest.raises(ApiError) as caught:
                call()
            assert_holds_no_token(caught.value)


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "https://students.invalid"])
def test_an_error_without_any_answer_holds_no_request_and_no_token(base_url: str) -> None:
    with ManageBac(base_url, TOKEN, retries=0, timeout=2) as api, pytest.raises(ApiError) as caught:
        api.students.get(1)
    assert_holds_no_token(caught.value)


@pytest.mark.parametrize("token", [TOKEN.encode(), [TOKEN]], ids=["bytes", "list"])
def test_a_token_that_is_not_a_text_is_in_no_frame_of_the_client(token: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ManageBac("https://students.invalid", token)
    assert_holds_no_token(caught.value)


def test_the_http_library_logs_no_values_of_an_exchange(app: App, base_url: str) -> None:
    """It would log what was searched for, and headers that it cannot read, in which a server may repeat the token."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    library = logging.getLogger("urllib3")
    level = library.level
    app.faults.add(lambda exchange: replace(exchange.proceed(), headers={f"no header {TOKEN}\r\nX": "y"}), times=None)
    library.addHandler(handler)
    library.setLevel(logging.DEBUG)
    try:
        with ManageBac(base_url, TOKEN, retries=0) as api, suppress(ApiError):
            list(api.students.list(q="Marrowgate"))
        told = [f"{one.getMessage()} {one.exc_info}" for one in records]
        assert told == ["Failed to parse headers (url=%s): %s None"]
        logging.getLogger("urllib3.connection").warning("from %s", "a program that uses the library itself")
        assert records[-1].getMessage() == "from a program that uses the library itself"
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


REPEATED = f"{TOKEN}&/+x"


@pytest.mark.parametrize(
    "spelled",
    [
        REPEATED,
        json.dumps(REPEATED).strip('"').replace("/", r"\/").replace("&", r"\u0026"),  # as other languages write JSON
        "".join(f"\\u{ord(character):04X}" for character in REPEATED),
        "".join(f"%{ord(character):02x}" for character in REPEATED),
    ],
)
def test_no_message_of_the_servers_repeats_the_token_however_it_is_spelled(
    app: App, base_url: str, spelled: str
) -> None:
    body = b'{"errors": {"city": ["not for %s"]}}' % spelled.encode()
    app.faults.add(lambda _: Response(422, {}, body))
    with ManageBac(base_url, REPEATED) as api, pytest.raises(Invalid) as caught:
        api.students.update(1, city="Ljubljana")
    assert caught.value.fields == {"city": ("not for ***",)}


def test_no_local_variable_of_the_client_holds_a_token_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusals() -> Iterator[Callable[[], object]]:
        yield lambda: ManageBac("ftp://127.0.0.1", TOKEN)
        yield lambda: ManageBac("http://127.0.0.1:1", TOKEN, retries=-1)
        yield lambda: ManageBac("http://127.0.0.1:1", f"{TOKEN} ")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        yield lambda: ManageBac("https://127.0.0.1:1", TOKEN)

    for refused in refusals():
        with pytest.raises(ConfigError) as caught:
            refused()
        assert_holds_no_token(caught.value)


def test_a_fingerprint_that_cannot_be_made_shows_no_token() -> None:
    with ManageBac("http://127.0.0.1:1", TOKEN) as api, pytest.raises(ValueError, match="key") as caught:
        api.fingerprint(b"x" * 65)
    assert_holds_no_token(caught.value)


def test_at_debug_level_the_log_names_the_librarys_errors(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug", "json")
    with ManageBac("http://127.0.0.1:1", TOKEN, retries=0) as api, pytest.raises(Unreachable):
        api.students.get(1)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (failed,) = (line for line in told if line["event"] == "exchange_failed")
    assert failed["errors"][-1] == "ConnectionRefusedError"


# The secret itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="a secret cannot be pickled or copied"):
        pickle.dumps(Secret(TOKEN), protocol)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_secret_cannot_be_copied(make: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="a secret cannot be pickled or copied"):
        make({"token": Secret(TOKEN)}["token"])


def test_no_text_that_is_made_of_a_secret_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    secret = Secret(TOKEN)
    assert not [text for text in (str(secret), repr(secret), f"{secret}", f"{[secret]}") if TOKEN in text]
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        vars(secret)
    log.configure("debug", "json")
    get_logger("rostersync.test").error("said", token=secret, tokens=[secret])
    assert '"<Secret>"' in capsys.readouterr().err
