"""Logs: one pipeline, two forms, and nothing in them that must not be."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from alembic import command

from rostersync.errors import RunFailed
from rostersync.logger import get_logger
from rostersync.observe.log import configure
from rostersync.records import Student
from rostersync.secret import Secret
from rostersync.store.database.engine import open_engine, writing
from rostersync.store.schema import revisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = "tok'en\"with\\quotes"
NAME = "Invented Person"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "rostersync", "alembic.runtime.migration", "apscheduler")]
    handlers, levels = list(loggers[0].handlers), [logger.level for logger in loggers]
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def migrated(tmp_path: Path) -> Callable[[], None]:
    """Run all migrations, each time in another database."""
    numbers = itertools.count()

    def migrate() -> None:
        engine = open_engine(f"sqlite:///{tmp_path}/{next(numbers)}.db", create=True)
        with engine.connect() as connection, writing(connection):
            command.upgrade(revisions.alembic_config(connection), "head")

    return migrate


def log() -> Any:
    return get_logger("rostersync.test")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail() -> None:
    try:
        {}[NAME]
    except KeyError as error:
        raise RunFailed("the roster is empty") from error


# Form ------------------------------------------------------------------------------------------------------------


def test_elsewhere_than_on_a_terminal_a_line_is_json_with_a_time_in_utc(stream: io.StringIO) -> None:
    configure("info", "auto", stream)
    log().info("run ended", fetched=3)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "fetched"]
    assert (line["level"], line["event"], line["fetched"]) == ("info", "run ended", 3)
    moment = datetime.fromisoformat(line["timestamp"])
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


def test_on_a_terminal_a_line_is_for_eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    configure("info", "auto", stream)
    log().info("run ended", fetched=3)
    assert not stream.getvalue().startswith("{")
    assert "\x1b[" in stream.getvalue()


def test_a_terminal_that_wants_no_colour_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure("info", "auto", stream)
    log().info("run ended", fetched=3)
    assert "\x1b[" not in stream.getvalue()


def test_the_form_can_be_chosen() -> None:
    stream = Terminal()
    configure("info", "json", stream)
    log().info("run ended")
    assert lines(stream)[0]["event"] == "run ended"


@pytest.mark.parametrize(("level", "events"), [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")])
def test_the_level_is_the_lowest_that_is_shown(stream: io.StringIO, level: str, events: str) -> None:
    configure(level, "json", stream)
    for method in ("debug", "info", "warning", "error"):
        getattr(log(), method)(method)
    assert "".join(line["event"][0] for line in lines(stream)) == events


def test_configuring_again_replaces_and_does_not_double(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    configure("info", "json", stream)
    log().info("once")
    assert len(lines(stream)) == 1


def test_times_and_durations_have_one_spelling(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    log().info("x", at=datetime(2026, 3, 1, tzinfo=UTC), waited=timedelta(seconds=1.5), ids=(1, 2))
    (line,) = lines(stream)
    assert (line["at"], line["waited"], line["ids"]) == ("2026-03-01T00:00:00.000Z", 1.5, [1, 2])


# Libraries -------------------------------------------------------------------------------------------------------


def test_libraries_speak_through_the_same_pipeline(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    logging.getLogger("alembic.runtime.plugins").info("setup plugin %s", "x")
    logging.getLogger("alembic.runtime.migration").info("Running upgrade %s", "1")
    logging.getLogger("urllib3.connectionpool").warning("pool is full")
    assert [line["event"] for line in lines(stream)] == ["Running upgrade 1", "pool is full"]


def test_what_alembic_says_of_itself_is_for_debugging_only(stream: io.StringIO, migrated: Callable[[], None]) -> None:
    configure("info", "json", stream)
    migrated()
    assert {line["event"][:15] for line in lines(stream)} == {"Running upgrade"}
    configure("debug", "json", stream)
    migrated()
    said = [line for line in lines(stream) if line["event"].startswith(("Context impl", "Will assume"))]
    assert [line["level"] for line in said] == ["debug", "debug"]


def test_what_libraries_say_below_a_warning_is_not_heard_even_at_debug(stream: io.StringIO) -> None:
    configure("debug", "json", stream)
    logging.getLogger("urllib3.connectionpool").debug("GET /v2p1/students?q=%s", NAME)
    logging.getLogger("sqlalchemy.engine").info("INSERT %s", NAME)
    assert stream.getvalue() == ""


def test_a_librarys_warning_loses_the_values_in_it(stream: io.StringIO) -> None:
    configure("debug", "json", stream)
    logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=%s): %s", "https://h/", NAME)
    assert lines(stream)[0]["event"] == "Failed to parse headers (url=%s): %s"


def test_a_librarys_warning_loses_its_query_string(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    logging.getLogger("urllib3").warning("Failed to parse headers (url=https://h/students?q=Person&page=1): x")
    assert lines(stream)[0]["event"] == "Failed to parse headers (url=https://h/students?***): x"


# The journal -----------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A stream of which systemd would say that it leads to the journal."""
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        yield stream


def written(stream: TextIO) -> list[str]:
    stream.flush()
    stream.seek(0)
    return stream.read().splitlines()


def test_in_the_journal_a_line_begins_with_its_priority_and_json_follows(journal: TextIO) -> None:
    configure("debug", "auto", journal)
    for method in ("debug", "info", "warning", "error"):
        getattr(log(), method)(method)
    logging.getLogger("urllib3").critical("a library's")
    logging.getLogger("urllib3").warning("a library's")
    told = written(journal)
    assert [line[:3] for line in told] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<4>"]
    assert [json.loads(line[3:])["level"] for line in told[:2]] == ["debug", "info"]


def test_in_the_journal_each_line_of_an_event_has_its_priority(journal: TextIO) -> None:
    configure("debug", "console", journal)
    try:
        fail()
    except RunFailed:
        log().exception("job failed")
    told = written(journal)
    assert len(told) > 3
    assert {line[:3] for line in told} == {"<3>"}


@pytest.mark.parametrize("named", ["", "1:2", "nonsense", None])
def test_a_stream_that_is_not_the_journal_has_no_priorities(
    journal: TextIO, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    if named is None:
        monkeypatch.delenv("JOURNAL_STREAM")
    else:
        monkeypatch.setenv("JOURNAL_STREAM", named)
    configure("info", "auto", journal)
    log().info("started")
    assert written(journal)[0].startswith("{")


def test_a_stream_that_is_no_file_has_no_priorities(journal: TextIO, stream: io.StringIO) -> None:
    configure("info", "auto", stream)
    log().info("started")
    assert lines(stream)[0]["event"] == "started"
    assert not written(journal)


# Secrets and persons ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_known_secret_is_blotted_out_wherever_it_is(stream: io.StringIO, form: str) -> None:
    configure("debug", form, stream, (TOKEN, ""))
    log().info(f"sent {TOKEN}", header=f"auth-token: {TOKEN}", tried=[TOKEN], **{TOKEN: 1})
    logging.getLogger("urllib3").warning(TOKEN)
    text = stream.getvalue()
    assert "with" not in text
    assert text.count("***") == 5


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_object_is_named_by_its_type_only(stream: io.StringIO, form: str) -> None:
    configure("debug", form, stream)
    log().info("x", student=Student(id=1, first_name=NAME), rows=[{"name": NAME}], token=Secret(TOKEN))
    assert NAME not in stream.getvalue()
    assert "<Student>" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_an_exception_shows_our_words_and_no_librarys(stream: io.StringIO, level: str, form: str) -> None:
    configure(level, form, stream)
    for logger in (log(), logging.getLogger("apscheduler.executors")):
        try:
            fail()
        except RunFailed:
            logger.exception("job failed")
    text = stream.getvalue()
    assert NAME not in text
    assert text.count("RunFailed") == 2
    assert text.count("the roster is empty") == (2 if level == "debug" else 0)
    assert text.count("builtins.KeyError") == (2 if level == "debug" else 0)
    assert ("in fail" in text) == (level == "debug")


def test_a_stream_that_fails_does_not_end_the_run_nor_show_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "no space left on device")

    configure("info", "json", Full())
    log().info("sent", header=TOKEN)
    assert capsys.readouterr().err == ""
