"""Canaries: the tests' token, and what their invented students are called, are texts that occur nowhere else.

So whatever the program writes while it is tested is searched for them, and a hit is a leak: it fails the test and names
the place and the kind of canary, not what leaked. Searched are, of every test: what was printed and logged (at level
debug, through the program's own pipeline), what the commands that it ran wrote, the text of each of the program's
errors, the files in its folder, and its databases, row by row but for the columns that hold students.

What holds students by design is searched for the token only: those columns, an SQLite file's own bytes, and what
`students` and `runs show` print.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import subprocess
from collections import Counter, deque
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import psycopg
import pytest
from sqlalchemy import make_url

from rostersync.errors import RostersyncError
from rostersync.observe import log
from rostersync.simulator import people
from rostersync.store.schema.tables import student_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from click.testing import Result

    Fetch = Callable[[str], list[tuple[Any, ...]]]

TOKEN = "canary-token-7f3a9c"

_SECRET = "canary-token"  # this one, and those that a test makes of it


# Kinds of canaries -----------------------------------------------------------------------------------------------


def _any_of(texts: Iterable[str]) -> str:
    return "(?:" + "|".join(map(re.escape, texts)) + ")"


_HEAD = _any_of(people._HEADS)
_SHORTER_HEAD = _any_of(people._HEADS + tuple(head[:3] for head in people._HEADS))
_BIRTH_YEARS = range(datetime.now(UTC).year - 19, datetime.now(UTC).year - 4)

# Each a pattern of its own: that is five times as quick as one for all.
KINDS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "token": _SECRET,
        "name": f"{_HEAD}{_any_of(people._MIDDLES)}{_any_of(people._TAILS + people._ENDS)}",
        "short name": f"{_SHORTER_HEAD}{_any_of(people._TAILS)}",
        "foreign name": _any_of(people._SCRIPTS),
        "nickname": r"Nick \d",
        "e-mail": r"@example\.invalid",
        "mailbox": f"{_HEAD}{_any_of(people._MIDDLES)}{_any_of(people._TAILS)}\\.{_HEAD}".lower(),
        "avatar": r"files\.example\.invalid",
        "telephone": r"\+000[ +]555",
        "school's number": r"ZZ\d",
        "national number": r"[NU]-\d{8}",
        "street": f"{_any_of(people._WORDS)} {_any_of(people._WAYS)}",
        "city": _any_of(people._CITIES),
        "birthday": rf"(?<!\d)(?:{'|'.join(map(str, _BIRTH_YEARS))})-\d\d-\d\d(?!\d|[T ]\d\d:)",
    }.items()
}
"""What the stand-in and the tests make up for a person, as far as it is no everyday word."""


def _plainly(text: str) -> str:
    """Return `text` without the escapes of JSON (whose backslash Python shows twice) and of addresses."""
    if "\\u" in text:
        text = re.sub(r"\\+u([0-9a-f]{4})", lambda escaped: chr(int(escaped[1], 16)), text)
    return unquote(text) if "%" in text else text


# Searching -------------------------------------------------------------------------------------------------------

_STUDENT_TABLES = {"student", "student_version", "student_detail"}
_STUDENT_COLUMNS = {column.name for column in student_columns()} | {"record"}

_SQLITE_COLUMNS = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
_POSTGRES_COLUMNS = """\
SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
 WHERE relkind = 'r' AND relnamespace = to_regnamespace('rostersync') AND attnum > 0 AND NOT attisdropped"""


class Search:
    """The search of a whole run of tests: its figures, and the leaks of the test that is on."""

    def __init__(self) -> None:
        self.figures: Counter[str] = Counter()
        self.leaks: list[str] = []

    def text(self, text: str, place: str) -> None:
        """Search what must hold no canary of any kind; of each kind the first is told."""
        self.figures["bytes"] += len(text)
        text = _plainly(text)
        for kind, pattern in KINDS.items():
            if match := pattern.search(text):
                self._leak(f"{kind} in {place}: {_before(text, match)}")

    def data(self, content: bytes, place: str) -> None:
        """Search what holds students by design: for the token."""
        self.figures["bytes"] += len(content)
        if _SECRET.encode() in content:
            self._leak(f"token in {place}")

    def _leak(self, told: str) -> None:
        self.figures["leaks"] += 1
        self.leaks.append(told)

    def output(self, words: tuple[str, ...], out: str, told: str) -> None:
        """Search what a command wrote to standard output and to standard error."""
        verb = words[0] if words else ""
        if verb == "students" or (verb == "runs" and "show" in words):
            self.data(out.encode(), f"the output of {verb}")
        else:
            self.text(out, f"the output of {verb}")
        self.text(told, f"the standard error of {verb}")

    # Files and databases -----------------------------------------------------------------------------------------

    def folder(self, folder: Path) -> None:
        """Search all files below `folder`, but for configurations and token files: tests wrote them."""
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.suffix != ".toml" and "token" not in path.name:
                self._file(path)

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        if content.startswith(b"SQLite format 3\0"):
            self.data(content, path.name)
            self._sqlite(path)
        elif path.name.endswith(("-wal", "-journal")):
            self.data(content, path.name)
        else:
            self.text(content.decode(errors="replace"), path.name)

    def _sqlite(self, path: Path) -> None:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = lambda text: text.decode(errors="replace")
            # quote() spells bytes in hexadecimal: as text, one hash in some thousands would look like a canary.
            self._tables(_SQLITE_COLUMNS, "quote({})", lambda query: connection.execute(query).fetchall())

    def postgres(self, url: str) -> None:
        """Search the PostgreSQL database at `url`."""
        conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(conninfo, options="-c lock_timeout=5s -c search_path=rostersync") as connection:
            self._tables(_POSTGRES_COLUMNS, "CAST({} AS TEXT)", lambda query: connection.execute(query).fetchall())

    def _tables(self, columns: str, spelled: str, fetch: Fetch) -> None:
        tables: dict[str, set[str]] = {}
        for table, column in fetch(columns):
            tables.setdefault(table, set()).add(column)
        for table, names in tables.items():
            of_students = names & _STUDENT_COLUMNS if table in _STUDENT_TABLES else set()
            rows = fetch(_select(names - of_students, table, spelled))
            self.figures["rows"] += len(rows)
            self.text("\n".join(map(str, rows)), f"table {table}")
            if of_students:
                self.data(str(fetch(_select(of_students, table, spelled))).encode(), f"table {table}")


def _select(names: set[str], table: str, spelled: str) -> str:
    texts = ", ".join(spelled.format(f'"{name}"') for name in sorted(names))
    return f'SELECT {texts} FROM "{table}"'


def _before(text: str, match: re.Match[str]) -> str:
    """Return what stands in front of a canary in its line, without others."""
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    for pattern in KINDS.values():
        line = pattern.sub("***", line)
    return f"{line[-150:]}***"


SEARCH = Search()


# Listening -------------------------------------------------------------------------------------------------------


class LogCapture:
    """The stream to which the program logs while it is tested; it keeps the last lines for a test that fails."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=50)
        self._unsearched: list[str] = []

    def write(self, line: str) -> None:
        self.last.append(line)
        self._unsearched.append(line)
        if len(self._unsearched) >= 10_000:
            self.search()

    def flush(self) -> None:
        """Be a stream."""

    def isatty(self) -> bool:
        return False

    def search(self) -> None:
        lines, self._unsearched = self._unsearched, []
        SEARCH.figures["lines"] += len(lines)
        SEARCH.text("".join(lines), "the log")


EAR = LogCapture()


def heard(words: tuple[str, ...], result: Result) -> Result:
    """Search what a command wrote that ran in this process, and return it."""
    SEARCH.output(words, result.stdout, result.stderr)
    return result


class Process(subprocess.Popen[str]):
    """A command as a process of its own; what it wrote is searched when it has ended."""

    def __init__(self, words: tuple[str, ...], command: list[str], **options: Any) -> None:
        super().__init__(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        self._words = words

    def communicate(self, *args: Any, **kwargs: Any) -> tuple[str, str]:
        out, told = super().communicate(*args, **kwargs)
        SEARCH.output(self._words, out or "", told or "")
        return out, told


# pytest ----------------------------------------------------------------------------------------------------------


def pytest_configure() -> None:
    """Hear every error that the program makes, whether or not anybody shows it, and what its HTTP library logs."""
    for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
        logger = logging.getLogger(f"urllib3.{name}")
        logger.setLevel(logging.DEBUG)
        logger.addFilter(_search_addresses)
    make = RostersyncError.__init__

    def make_and_search(error: RostersyncError, message: str, hint: str = "") -> None:
        make(error, message, hint)
        SEARCH.text(f"{message}\n{hint}", type(error).__name__)

    RostersyncError.__init__ = make_and_search  # type: ignore[method-assign] # until the tests end


def _search_addresses(record: logging.LogRecord) -> bool:
    """Search what an application would log that uses the client and logs everything; then drop it."""
    if record.levelno > logging.DEBUG:  # it may quote a server, and is for the program's own pipeline
        return True
    if record.threadName.startswith("exchange"):  # where the program sends; a test may send what it likes
        SEARCH.data(record.getMessage().encode(), f"the log of {record.name}")
    return False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    log.configure("debug", "json", EAR)  # type: ignore[arg-type] # as much of a stream as a log needs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fail a test that leaked, when all of it is over; show the end of the log with a test that failed by itself."""
    report = yield
    if report.failed:
        report.sections.append(("End of the log", "".join(EAR.last)))
    if call.when == "teardown":
        _search_what_is_left(item, report)
        if SEARCH.leaks:
            report.outcome, report.longrepr = "failed", "\n".join(["there are leaks:", *SEARCH.leaks])
            report.sections = []  # which may show what leaked
            SEARCH.leaks.clear()
    return report


def _search_what_is_left(item: pytest.Item, report: pytest.TestReport) -> None:
    for title, content in report.sections:
        SEARCH.text(content, title)
    if folder := getattr(item, "funcargs", {}).get("tmp_path"):
        SEARCH.folder(folder)
    EAR.search()
    EAR.last.clear()


# With pytest-xdist each worker searches what its tests write, and the figures come together in the end.


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["canaries"] = dict(SEARCH.figures)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    SEARCH.figures.update(getattr(node, "workeroutput", {}).get("canaries", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = SEARCH.figures
    size, lines, rows = f"{told['bytes'] / 1e6:,.1f} MB", f"{told['lines']:,} lines of log", f"{told['rows']:,} rows"
    terminalreporter.write_line(f"canaries: {told['leaks']} leaks in {size} written, among it {lines} and {rows}")
