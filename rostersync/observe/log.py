"""Configure logging for our events and for libraries. Lines are coloured on a terminal, and JSON elsewhere.

In systemd's journal, each line has a priority.

No log contains a token or personal data, at any level. As a first safeguard, our code logs only ids and counts. As a
second safeguard, this module removes values that may have been logged by mistake. This module replaces an object with
the name of the object's type, removes values from the messages of libraries, and drops the text of exceptions that are
not our own. As a last step, this module masks known secrets in the finished line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from rostersync.clock import to_text
from rostersync.errors import RostersyncError
from rostersync.observe.journal import is_journal, priority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from structlog.typing import EventDict, Processor, WrappedLogger

# The highest `logging.level` at which each of these libraries may log events below the level warning. Other libraries
# are not allowed to log events below warning, because their messages may contain addresses or values.
_TALKATIVE = {"alembic.runtime.migration": logging.INFO, "apscheduler": logging.DEBUG}


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002 - the name of the setting
    stream: TextIO | None = None,
    redact: tuple[str, ...] = (),
) -> None:
    """Send all logs to a stream. A later call replaces the settings of an earlier call. Times are in UTC.

    Args:
        level: The lowest level to log: debug, info, warning or error.
        format: `console`, `json` or `auto`, which means `console` on a terminal and `json` elsewhere.
        stream: Where to write the log. The default is standard error.
        redact: Secrets that must never appear in the log.

    """
    stream = stream or sys.stderr
    lowest = logging.getLevelNamesMapping()[level.upper()]
    handler = _Handler(stream, lowest)
    handler.setFormatter(_Formatter(format, stream, lowest, redact))
    _install(handler, lowest)


def json_formatter() -> logging.Formatter:
    """Return a formatter that writes JSON, for a handler that `configure` has not created."""
    return _Formatter("json", sys.stderr, logging.INFO, ())


class _Formatter(logging.Formatter):
    """Formats records with a structlog pipeline, which is created when the first line is logged.

    structlog is slow to import, and many commands log nothing.
    """

    def __init__(self, format_: str, stream: TextIO, lowest: int, redact: tuple[str, ...]) -> None:
        super().__init__()
        self._settings = format_, stream, lowest, redact

    def format(self, record: logging.LogRecord) -> str:
        return self._pipeline.format(record)

    @cached_property
    def _pipeline(self) -> logging.Formatter:
        import structlog  # noqa: PLC0415 - see above

        format_, stream, lowest, redact = self._settings
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_without_values],
            processors=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _with_traceback if lowest == logging.DEBUG else _with_type,
                _plain,
                _without_meta,
                _ordered,
                _renderer(format_, stream),
                _Redactor(redact),
            ],
        )


class _Handler(logging.StreamHandler[TextIO]):
    """The handler that this module installs. `_install` recognises the handler by its class.

    The handler ignores its own errors, because a full disk must not end a run, and because the default error handling
    would print the raw record.
    """

    def __init__(self, stream: TextIO, lowest: int) -> None:
        super().__init__(stream)
        self._lowest = lowest
        self._journal = is_journal(stream)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return text
        return re.sub("^", priority(record.levelno), text, flags=re.MULTILINE)  # each line is a journal entry

    def emit(self, record: logging.LogRecord) -> None:
        record = _with_our_level(record)
        if record.levelno >= self._lowest:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        pass


def _with_our_level(record: logging.LogRecord) -> logging.LogRecord:
    """Lower the level of alembic's records to debug if they are of no use to an administrator."""
    if record.name == "alembic.runtime.migration" and not record.msg.startswith("Running"):
        return _changed(record, levelno=logging.DEBUG, levelname="DEBUG")  # it describes the kind of database
    return record


def _changed(record: logging.LogRecord, **values: Any) -> logging.LogRecord:
    return logging.makeLogRecord(record.__dict__ | values)


def _install(handler: _Handler, lowest: int) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(lowest, logging.WARNING))
    logging.getLogger("rostersync").setLevel(lowest)
    logging.getLogger("psycopg").setLevel(max(lowest, logging.ERROR))  # it logs a warning and also raises an exception
    for name, usual in _TALKATIVE.items():
        logging.getLogger(name).setLevel(lowest if lowest <= usual else max(lowest, logging.WARNING))


def _renderer(format_: str, stream: TextIO) -> Processor:
    import structlog  # noqa: PLC0415 - see above

    terminal = stream.isatty()
    if format_ == "console" or (format_ == "auto" and terminal):
        return structlog.dev.ConsoleRenderer(colors=terminal and not os.environ.get("NO_COLOR"))
    return structlog.processors.JSONRenderer()


# Processors ------------------------------------------------------------------------------------------------------


def _without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove the values from a library's message, because they may be parts of an address or a response.

    Values are not removed from the messages of the libraries in `_TALKATIVE`. Query strings are removed from all
    messages, because they may contain the names of students.
    """
    record = event["_record"]
    message = event["event"] if record.name.startswith(tuple(_TALKATIVE)) else record.msg
    event["event"] = re.sub(r"\?[^\s\"'<>)]+", "?***", str(message))
    return event


def _without_meta(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove the keys that structlog adds for its own use, such as the raw record."""
    return {key: value for key, value in event.items() if key not in {"_record", "_from_structlog"}}


def _ordered(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _plain(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value if key.startswith("_") else _as_plain(value) for key, value in event.items()}


def _as_plain(value: Any) -> Any:
    """Convert a value to something that JSON can represent: a number, a string or a list.

    Any other object may contain personal data, so only the name of its type is returned.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, date | PurePath):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _with_type(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if error := _exception(event):
        event["error_type"] = type(error).__name__
    return event


def _with_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if error := _exception(event):
        event["exception"] = "\n".join(_traceback(error))
    return event


def _exception(event: EventDict) -> BaseException | None:
    """Remove the exception from `event`, and return it. `logging` accepts an exception in several forms."""
    given = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if isinstance(given, tuple):
        given = given[1]
    return given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None


def _traceback(error: BaseException) -> Iterator[str]:
    """Yield the traceback of `error` and of its causes.

    The messages of exceptions are included only if they are from our exception classes.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause:
        yield from _traceback(cause)
        yield "which led to"
    yield from _frames(error.__traceback__)
    text = f": {error}" if isinstance(error, RostersyncError) else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{text}"


def _frames(trace: TracebackType | None) -> Iterator[str]:
    for frame in traceback.extract_tb(trace):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'


class _Redactor:
    """The last step of the pipeline.

    This step replaces known secrets in the finished line, in every notation that a renderer may use.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        spellings = {
            spelling
            for secret in secrets
            if secret
            for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""))
        }
        longest_first = sorted(spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, _logger: WrappedLogger, _method: str, line: Any) -> str:
        return self._pattern.sub("***", line)
